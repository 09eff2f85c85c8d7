"""The dialect of the command line: both spellings, other names, switches, and answers to mistakes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer
import typer.main
from typer.testing import CliRunner

from ddpm_hf import cli
from ddpm_hf.command_line import SYNONYMS, Verb, Verbs
from ddpm_hf.training.argument_parsing import training_verb
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.autoencoder_arguments import AutoencoderArguments
from ddpm_hf.training.classifier_arguments import ClassifierArguments


def verbs():
    """{name: command} of all verbs; the trainings have parsers of their own."""

    def of(name, command):
        if not hasattr(command, "commands"):
            return {name: command}
        return {k: v for each, c in command.commands.items() for k, v in of(f"{name} {each}".strip(), c).items()}

    kinds = {"train": TrainingArguments, "train_classifier": ClassifierArguments}
    kinds |= {"train_autoencoder": AutoencoderArguments}
    return of("", typer.main.get_command(cli.app)) | {name: training_verb(kind) for name, kind in kinds.items()}


VERBS = verbs()


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_speaks_the_dialect(name):
    """Hyphens, the names of diffusers, and --output and --output_dir are understood wherever the option is."""
    verb = VERBS[name]
    assert isinstance(verb, Verb) and verb.help
    for parameter in verb.params:
        assert parameter.help, parameter.name
        for option in parameter.opts:
            if option.startswith("--"):
                plain = option.removeprefix("--")
                assert verb.canonical(plain.replace("_", "-")) == verb.canonical(plain)
    for other, ours in SYNONYMS.items():
        if any(f"--{ours}" in parameter.opts for parameter in verb.params):
            assert verb.canonical(other) == verb.canonical(ours)


@pytest.fixture
def said():
    """What a verb was given by a command line, or what the program said."""
    app, given = Verbs(), []

    @app.command()
    def verb(
        place: Annotated[str | None, typer.Argument()] = None,
        output: Annotated[str | None, typer.Option("--output")] = None,
        num_images: Annotated[int, typer.Option("--num_images")] = 1,
        steps: Annotated[int, typer.Option("--steps")] = 1,
        random_flip: Annotated[bool, typer.Option("--random_flip/--no_random_flip")] = True,
        stock: Annotated[bool, typer.Option("--stock")] = False,
    ):
        """Do it."""
        given.append((place, output, num_images, steps, random_flip, stock))

    @app.command("other_verb")
    def other():
        """Do another thing."""

    def said(*arguments):
        given.clear()
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return given[0] if given else result.output.strip()

    return said


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["--num-images", 3, "--output_dir", "a"], (None, "a", 3, 1, True, False)),
        (["--num_images=3", "--output-dir=a-b"], (None, "a-b", 3, 1, True, False)),
        (["here", "--num-inference-steps", "5"], ("here", None, 1, 5, True, False)),
        (["--no_random_flip", "--stock"], (None, None, 1, 1, False, True)),
        (["--random-flip", "false", "here"], ("here", None, 1, 1, False, False)),
        (["--random_flip=No", "--stock=false"], (None, None, 1, 1, False, False)),
        (["--no-random-flip", "--random_flip", "here", "--stock", "YES"], ("here", None, 1, 1, True, True)),
        (["--output", "--stock"], (None, "--stock", 1, 1, True, False)),
        (["--num_images", "-3", "--", "--stock"], ("--stock", None, -3, 1, True, False)),
    ],
)
def test_spellings(said, arguments, given):
    assert said("verb", *arguments) == given


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["verb", "--num_imags", "3"], "ddpm-hf: error: There is no option --num_imags; did you mean --num_images?"),
        (["verb", "--num-inference-step=3"], "did you mean --num_inference_steps?"),
        (["verb", "-steps", "3"], "There is no option -steps; did you mean --steps?"),
        (["verb", "--qqq"], "There is no option --qqq; --help lists all."),
        (["verb", "--stock=maybe"], "--stock=maybe must be true or false."),
        (
            ["verb", "--steps", "3", "--num_inference_steps", "4"],
            "--steps and --num_inference_steps are the same option",
        ),
        (["verb", "--steps", "many"], "(given: 'many')"),
        (["vreb"], "No such command 'vreb'. Did you mean 'verb'?"),
        (["verb", "a", "b"], "Got unexpected extra argument(s) (b)"),
    ],
)
def test_mistakes_are_one_sentence(said, arguments, sentence):
    answer = said(*arguments)
    assert answer.startswith("ddpm-hf: error: ") and sentence in answer and "\n" not in answer


def test_a_group_shows_its_help_where_no_verb_is_given(said):
    assert "other_verb" in said() and "other_verb" in said("--help")


def test_options_stand_in_groups():
    for name, group in (("sample", "Sampling"), ("evaluate", "Execution"), ("train", "Optimizer")):
        runner = CliRunner().invoke(cli.app, [name, "--help"])
        assert runner.exit_code == 0 and f"\n{group}:\n" in runner.output
        assert "…" not in runner.output and "..." not in runner.output.replace("[ARGS]...", "")


def test_the_names_of_diffusers_are_in_the_help():
    train, sample = (
        " ".join(CliRunner().invoke(cli.app, [verb, "--help"]).output.split()) for verb in ("train", "sample")
    )
    assert "Also --dataset_name, --train_data_dir." in train and "--num_inference_steps" not in train
    assert "Also --num_inference_steps." in sample


# Before torch is imported --------------------------------------------------------------------------------------------

ANSWERS = {
    "--help": "Usage",
    "train --help": "Optimizer",
    "train_classifier --help": "Optimizer",
    "sample --help": "Sampling",
    "smaple": "Did you mean 'sample'?",
    "show smaples": "Did you mean 'samples'?",
    "sample my_model --stpes 3": "did you mean --steps?",
    "train --lerning_rate 1": "did you mean --learning_rate?",
    "train --beta-schedule linaer": "did you mean 'linear'?",
    "train --preset cifar": "did you mean 'cifar10'?",
    "train --max_train_steps 1 --batch_size 0": "batch_size=0 is not allowed",
    "train my_imagse --max_train_steps 1": "did you mean 'my_images'?",
    "train nowhere/": "There is no folder or file nowhere/",
    "train --dataset two_mons --unet mlp --max_train_steps 1": "did you mean 'two_moons'?",
    "train --init_from my_modle --max_train_steps 1": "did you mean 'my_model'?",
    "train_classifier --model ./my_modle --max_train_steps 1": "did you mean 'my_model'?",
    "sample my_modle": "There is no folder my_modle; did you mean 'my_model'? A model on the Hub is OWNER/NAME.",
    "sample my_images/modle": "There is no folder my_images/modle",
    "sample my_model --recipe ddmi-2m": "did you mean 'ddim-2m'?",
    "sample my_model --recipe ddim-2m@logsrn": "did you mean 'logsnr'?",
    "sample my_model --classifier_guidance_form maen": "did you mean 'mean'?",
    "compare my_model --features f --output o --samplers ddim,unpic": "did you mean 'unipc'?",
    "calibrate my_model --output_dir o --plan_cost buond": "did you mean 'bound'?",
    "evaluate my_model --output o --variance_type fixed_smal": "did you mean 'fixed_small'?",
    "evaluate my_model --output o --dataset my_imagse": "did you mean 'my_images'?",
    "edit my_model piture.png --invert": "did you mean 'picture.png'?",
    "push my_modle someone/model --dry_run": "did you mean 'my_model'?",
    "show loss my_modle": "did you mean 'my_model'?",
}

ALL_IN_ONE_PROCESS = """
import contextlib, io, json, sys
from ddpm_hf import cli

answers = {}
for line in json.loads(sys.stdin.read()):
    said = io.StringIO()
    sys.argv = ["ddpm-hf", *line.split()]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            cli.main()
        except SystemExit as end:
            print(end.code)
    answers[line] = said.getvalue()
heavy = ["torch", "numpy", "diffusers", "transformers", "accelerate", "datasets", "huggingface_hub", "matplotlib"]
print(json.dumps({"answers": answers, "imported": [name for name in heavy if name in sys.modules]}))
"""


def test_mistakes_and_help_do_not_wait_for_torch_and_write_nothing(tmp_path):
    (tmp_path / "my_model").mkdir()
    (tmp_path / "my_images").mkdir()
    (tmp_path / "picture.png").write_text("", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-c", ALL_IN_ONE_PROCESS]
    done = subprocess.run(command, input=json.dumps([*ANSWERS]), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for line, part in ANSWERS.items():
        assert part in result["answers"][line], (line, result["answers"][line])
    assert result["imported"] == []
    assert sorted(Path(tmp_path).rglob("*")) == before
