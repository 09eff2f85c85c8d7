"""The options of a training run: where their values come from.

Flags win over `--config FILE.yaml`, which wins over `--preset NAME`; what none of them gives has its default.
"""

import dataclasses
import functools
import inspect
import re
import sys
import typing
from pathlib import Path
from typing import Annotated, ClassVar

import typer
import yaml

from ddpm_hf.command_line import SYNONYMS, Verb, Verbs, one_sentence
from ddpm_hf.command_options import option_parameter
from ddpm_hf.data.arguments import check_data_name
from ddpm_hf.errors import InputError, refuse_empty
from ddpm_hf.nearest_names import did_you_mean
from ddpm_hf.places import check_model_place
from ddpm_hf.training.argument_checks import check_choice, option_names
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.diffusers_flags import REFUSED, SAME, ScriptFlags
from ddpm_hf.training.option_groups import GROUP_OF

SOURCES = "Options from files"
OTHER_NAMES = (
    "A command line for diffusers' train_unconditional.py runs too: its flags are understood, or refused by name."
)

LENGTHS = {"max_train_steps", "num_epochs", "minutes"}


def parse_arguments(argv=None, kind=TrainingArguments, prog="train"):
    """Options from flags, `--config` and `--preset`; a mistake ends the program with one line that names it.

    Args:
        argv (`list[str]`, *optional*): the arguments, by default those of the program.
        kind: the dataclass of the options.
        prog (`str`): the name of the program in its help and its messages.
    """
    try:
        with one_sentence(prog):
            return _arguments(sys.argv[1:] if argv is None else argv, kind, prog)
    except InputError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        sys.exit(2)


def _arguments(argv, kind, prog):
    flags = _given(argv, kind, prog)
    script_flags = ScriptFlags(**{name: flags.pop(name) for name in option_names(ScriptFlags) if name in flags})
    config, preset, data = (flags.pop(name, None) for name in ("config", "preset", "data"))
    layers = [_with_data(flags, data)]
    if config is not None:
        refuse_empty("config", config)
        layers.insert(0, _given(_flags_of(_read_yaml(Path(config)), kind, config), kind, prog))
    if preset is not None:
        check_choice("preset", preset, kind.presets)
        path = kind.presets[preset]
        layers.insert(0, _given(_flags_of(_read_yaml(path), kind, path), kind, prog))
    options = _merge(layers)
    _check_places(options)
    script_flags.take_effect()
    return kind(**options)


def _given(argv, kind, prog):
    """The options that `argv` gives, without those that have their defaults."""
    context = training_verb(kind).make_context(prog, list(argv))
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name: value for name, value in context.params.items() if sources[name].name == "COMMANDLINE"}


def _with_data(flags, data):
    """The flags with the data that were given without the name of an option."""
    if data is None:
        return flags
    if "dataset" in flags:
        raise InputError(f"The data are given twice, as {data!r} and as --dataset {flags['dataset']}: give one.")
    check_data_name(data)  # a slash at the end says that it is a folder
    return flags | {"dataset": data.rstrip("/") or data}


def _check_places(options):
    models = ((name, check_model_place) for name in ("init_from", "model", "vae", "perceptual_network"))
    for name, check in (("dataset", check_data_name), *models):
        if options.get(name) is not None:
            refuse_empty(name, options[name])
            check(options[name])


# The command line ----------------------------------------------------------------------------------------------------


class TrainingVerb(Verb):
    """A training: its options, and the flags of diffusers' script."""

    synonyms: ClassVar[dict] = (
        {other: name for other, name in SYNONYMS.items() if name == "steps"} | SAME | {"precision": "mixed_precision"}
    )
    refused: ClassVar[dict] = REFUSED


@functools.cache
def training_verb(kind):
    """The command whose options are the fields of a dataclass, and where else their values come from."""

    def train(**options):
        pass

    data = Annotated[str | None, typer.Argument(help="As --dataset.", show_default=False)]
    parameters = [inspect.Parameter("data", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=data)]
    parameters += sorted(_parameters(kind), key=lambda parameter: [*GROUP_OF].index(parameter.name))
    parameters.append(_source("config", "YAML file of options; flags win over it."))
    if kind.presets:
        help = f"Options of a known run, one of {', '.join(kind.presets)}; --config and flags win over it."
        parameters.append(_source("preset", help))
    parameters += _parameters(ScriptFlags)
    train.__signature__ = inspect.Signature(parameters)
    train.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = Verbs()
    app.command(cls=TrainingVerb, help=f"{inspect.cleandoc(kind.__doc__)}\n\n{OTHER_NAMES}")(train)
    return typer.main.get_command(app)


def _parameters(kind):
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.init:
            group = GROUP_OF[field.name] if kind is not ScriptFlags else kind.title
            settings = {"rich_help_panel": group, **field.metadata}
            if hints[field.name] is bool:
                settings |= {"spelling": f"--{field.name}/--no_{field.name}", "show_default": field.default}
            yield option_parameter(field.name, hints[field.name], field.default, **settings)


def _source(name, help):
    return option_parameter(name, str | None, None, help=help, rich_help_panel=SOURCES)


# Files of options ----------------------------------------------------------------------------------------------------


def _merge(layers):
    """Later layers win; the length of the run is one choice with three spellings."""
    options = {}
    for layer in layers:
        if layer.keys() & LENGTHS:
            options = {name: value for name, value in options.items() if name not in LENGTHS}
        options |= layer
    return options


class _AsWritten(yaml.BaseLoader):
    """Leaves every value as it is written (`2e-4`, `no`), so that it means the same as a flag; null is None."""


_AsWritten.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("(~|null|)$"), ["~", "n", ""])
_AsWritten.add_constructor("tag:yaml.org,2002:null", lambda loader, node: None)


def _read_yaml(path):
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_AsWritten)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"Cannot read the options in {path}: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold lines `option: value`.")
    return values


def _flags_of(values, kind, path):
    """YAML options as the flags they stand for. `environment` is what a run adds to its own `training_args.yaml`."""
    values = {name: value for name, value in values.items() if name != "environment"}
    for name, value in values.items():
        if name not in option_names(kind):
            raise InputError(f"Unknown option {name!r} in {path}{did_you_mean(name, option_names(kind))}")
        if not isinstance(value, str | None):
            raise InputError(f"Option {name!r} in {path} must have a single value, not {value}.")
    return [f"--{name}={value}" for name, value in values.items() if value is not None]
