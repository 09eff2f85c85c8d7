"""Options of the command line that are fields of dataclasses."""

import dataclasses
import inspect
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
import typer.main
from typer.testing import CliRunner

from ddpm_hf import cli
from ddpm_hf.command_line import Verbs
from ddpm_hf.command_options import offered, with_options
from ddpm_hf.data.arguments import DataArguments, option


@dataclass
class Shape:
    num_sides: int = option(4, "Sides of the shape.", min=3, max=8)
    filled: bool = option(False, "Fill it.")
    kind: str | None = option(None, "Its name.", spelling="--called")
    file: Path = option(Path("shape.svg"), "The file.")


@pytest.fixture
def draw():
    """(the arguments of a call, given by flags), and the result of the command."""
    app, calls = Verbs(), []

    @app.command()
    @with_options
    def verb(
        model: Annotated[str, typer.Argument()],
        before: int = 1,
        *,
        shape: offered(Shape, "kind", "num_sides", "filled", num_sides={"default": 5, "help": "As many."}),
        data: offered(DataArguments, "dataset", dataset={"default": dataclasses.MISSING}),
        after: int = 2,
    ):
        """What it does."""
        calls.append((model, before, shape, data, after))

    def draw(*arguments):
        calls.clear()
        return calls, CliRunner().invoke(app, [*arguments], env={"COLUMNS": "200"})

    return draw


def test_fields_become_options_and_options_become_the_dataclass(draw):
    calls, result = draw("m", "--dataset", "d", "--num_sides", "6", "--filled", "--called", "hexagon", "--after", "3")
    assert result.exit_code == 0, result.output
    shape = Shape(6, True, "hexagon", Path("shape.svg"))
    assert calls == [("m", 1, shape, DataArguments(dataset="d"), 3)]


def test_a_verb_has_its_own_defaults_and_help(draw):
    calls, _ = draw("m", "--dataset", "d")
    assert calls == [("m", 1, Shape(5), DataArguments(dataset="d"), 2)]
    _, result = draw("--help")
    assert "What it does." in result.output and "As many." in result.output and "[default: 5;" in result.output


def test_options_stand_where_their_dataclass_does_and_what_must_be_given_first():
    @with_options
    def verb(before: int = 1, *, shape: Shape, name: str, after: int = 2):
        pass

    assert [*inspect.signature(verb).parameters] == ["name", "before", "num_sides", "filled", "kind", "file", "after"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_sides", "2"], "Invalid value for '--num_sides'"),
        (["--num_sides", "9"], "Invalid value for '--num_sides'"),
        (["--num_sides", "many"], "Invalid value for '--num_sides'"),
        (["--file", "a.svg"], "There is no option --file"),  # a field that is not offered
        (["--no-filled"], "There is no option --no-filled"),
    ],
)
def test_what_no_option_takes(draw, arguments, message):
    calls, result = draw("m", "--dataset", "d", *arguments)
    assert result.exit_code == 2 and message in result.output, result.output
    assert calls == []


def test_what_has_no_default_must_be_given(draw):
    calls, result = draw("m")
    assert result.exit_code == 2 and "Missing option '--dataset'" in result.output
    assert calls == []


def test_two_dataclasses_of_a_verb_share_no_option():
    with pytest.raises(ValueError, match="num_sides"):

        @with_options
        def verb(shape: Shape, num_sides: int = 3):
            pass


@dataclass
class Named:
    name: str = option("a", "Its name.")


def test_the_same_verb_is_called_from_python_by_its_options():
    @with_options
    def verb(named: Named, count: int):
        return named, count

    assert verb(name="b", count=2) == (Named("b"), 2)


def test_no_verb_takes_many_parameters():
    """Verbs with many options take them as dataclasses."""

    def commands(group):
        for command in group.commands.values():
            yield from commands(command) if hasattr(command, "commands") else [command]

    for command in commands(typer.main.get_command(cli.app)):
        verb = inspect.unwrap(command.callback)
        assert len(inspect.signature(verb).parameters) <= 6, command.name


def test_the_help_does_not_wait_for_torch():
    code = (
        "import sys, typer.main; from ddpm_hf import cli; typer.main.get_command(cli.app); "
        "print([name for name in ('torch', 'numpy', 'diffusers', 'datasets') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
