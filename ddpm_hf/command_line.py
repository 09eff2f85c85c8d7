"""The dialect of the command line: how options of every verb are written, and how mistakes are answered.

Options have the names of Python's arguments, and `--num-images` is the same as `--num_images`. A switch may have a
value: `--random_flip`, `--random_flip true`, `--random_flip=no`. A mistake is one sentence, with the nearest name.
"""

import sys
from contextlib import contextmanager
from typing import ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from ddpm_hf.nearest_names import nearest

# Other names of options, for every verb that has the option: those of diffusers, and what other verbs call a place.
SYNONYMS = {"num_inference_steps": "steps", "output_dir": "output"}
PROGRAM = "ddpm-hf"
TRUE, FALSE = ("true", "yes", "on", "1", "t", "y"), ("false", "no", "off", "0", "f", "n")


class Mistake(typer.BadParameter):
    """A mistake in the command line, in a sentence of its own."""

    def format_message(self):
        return self.message


class Verb(TyperCommand):
    """A command whose options are written in the dialect."""

    # {another name of an option: its name}, and {option that there is not: the sentence that says what to do}.
    synonyms: ClassVar[dict] = SYNONYMS
    refused: ClassVar[dict] = {}

    def __init__(self, *args, context_settings=None, **settings):
        settings["context_settings"] = {**(context_settings or {}), "token_normalize_func": self.canonical}
        super().__init__(*args, **settings)
        for parameter in self.params:
            others = [other for other, name in self.synonyms.items() if f"--{name}" in map(self._flag, parameter.opts)]
            others = [other for other in others if f"--{other}" not in parameter.opts]
            if others:
                parameter.help = f"{parameter.help or ''} Also --{', --'.join(others)}.".strip()

    def canonical(self, name):
        """The name under which an option is known, without its dashes."""
        name = name.replace("-", "_")
        return self.synonyms.get(name, name)

    def _flag(self, written):
        return f"--{self.canonical(written.removeprefix('--'))}"

    def format_options(self, ctx, formatter):
        """Writes the arguments, and the options by their groups, with whole names on terminals of any width."""
        groups = {}
        for parameter in self.get_params(ctx):
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            record = parameter.get_help_record(ctx)
            groups.setdefault(parameter.rich_help_panel or usual, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def parse_args(self, ctx, args):
        return super().parse_args(ctx, list(self._plain(ctx, list(args))))

    def _plain(self, ctx, args):
        """The arguments with each switch and its value as one, once it is known that all options exist."""
        options = {
            self._flag(name): option for option in self.get_params(ctx) for name in option.opts if name[:2] == "--"
        }
        no = {self._flag(name) for option in options.values() for name in option.secondary_opts}
        spelled = {}
        while args:
            written, equals, value = (argument := args.pop(0)).partition("=")
            if argument == "--":
                yield from (argument, *args)
                return
            if not written.startswith("-") or _is_number(argument) or argument == "-":
                yield argument
                continue
            flag = self._flag(written)
            if flag not in options and flag not in no:
                raise Mistake(self._no_such_option(written, [*options, *no]), ctx=ctx)
            self._check_spelled_once(ctx, spelled.setdefault(flag, written), written)
            option = options.get(flag)
            if option is not None and option.is_flag:
                yield from _switched(option, written, value if equals else _popped_truth(args))
            else:
                yield argument
                if option is not None and not equals and args:
                    yield args.pop(0)

    def _check_spelled_once(self, ctx, first, second):
        if first.replace("-", "_") != second.replace("-", "_"):
            raise Mistake(f"{first} and {second} are the same option: give one of them.", ctx=ctx)

    def _no_such_option(self, written, flags):
        name = written.lstrip("-").replace("-", "_")
        if name in self.refused:
            return f"There is no option --{name}: {self.refused[name]}"
        near = nearest(f"--{name}", [*flags, *(f"--{other}" for other in (*self.synonyms, *self.refused))])
        return f"There is no option {written}{f'; did you mean {near}?' if near else '; --help lists all.'}"


def _is_number(text):
    try:
        float(text.split(",")[0])
    except ValueError:
        return False
    return True


def _popped_truth(args):
    """Takes the next argument away if it is the value of a switch; None if it is not."""
    return args.pop(0) if args and args[0].lower() in TRUE + FALSE else None


def _switched(option, written, value):
    if value is None or value.lower() in TRUE:
        return [written]
    if value.lower() in FALSE:
        return option.secondary_opts[:1]
    raise Mistake(f"{written}={value} must be true or false.")


class Group(TyperGroup):
    """A group of verbs, which shows its help where no verb is given."""

    def parse_args(self, ctx, args):
        return super().parse_args(ctx, args or ["--help"])

    def format_commands(self, ctx, formatter):
        """Writes the verbs with the whole of their first paragraphs."""
        verbs = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        with formatter.section("Verbs"):
            formatter.write_dl([(name, " ".join(verb.help.split("\n\n")[0].split())) for name, verb in verbs.items()])

    def main(self, args=None, prog_name=None, standalone_mode=True, **extra):
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **extra)
        with one_sentence(PROGRAM):
            sys.exit(super().main(args, prog_name or PROGRAM, standalone_mode=False, **extra))


class Verbs(typer.Typer):
    """Verbs whose options are written in the dialect."""

    def __init__(self, verb=Verb, **settings):
        """
        Args:
            verb: the class of the verbs that name no other.
        """
        spelling = {"token_normalize_func": lambda name: name.replace("-", "_")}
        super().__init__(cls=Group, add_completion=False, rich_markup_mode=None, context_settings=spelling, **settings)
        self.verb = verb

    def command(self, name=None, *, cls=None, **settings):
        return super().command(name, cls=cls or self.verb, **settings)


def _sentence(error):
    """What is said of a mistake; for a number, typer tells the value in the causes of its error alone."""
    said, causes = error.format_message(), getattr(error.__cause__, "errors", list)()
    return f"{said} (given: {causes[0]['input']!r})." if causes else said


@contextmanager
def one_sentence(prog):
    """A context in which a mistake in the command line ends the program with exit code 2 and one sentence."""
    try:
        yield
    except typer.TyperException as error:
        print(f"{prog}: error: {_sentence(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except typer.Exit as end:
        sys.exit(end.exit_code)
