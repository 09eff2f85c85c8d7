"""The options of a training run: what they mean, what is allowed, and where their values come from.

Flags win over `--config FILE.yaml`, which wins over `--preset NAME`; what none of them gives has the default below.
"""

import difflib
import re
from argparse import Namespace
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from ddpm_hf.errors import InputError, refuse_empty
from ddpm_hf.training.argument_checks import check_choice, option_names
from ddpm_hf.training.arguments import TrainingArguments


def parse_arguments(argv=None, kind=TrainingArguments, prog="train"):
    """Options from flags, `--config` and `--preset`; a mistake ends the program with one line that names it."""
    preset_usage = "[--preset NAME] " if kind.presets else ""
    usage = f"{prog} {preset_usage}[--config FILE.yaml] [--OPTION VALUE ...]"
    parser = HfArgumentParser(kind, prog=prog, usage=usage, description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", help="YAML file of options.")
    if kind.presets:
        parser.add_argument("--preset", help=f"Options of a known run, one of {', '.join(kind.presets)}.")
    try:
        flags = _given(parser, kind, argv)
        layers = [flags]
        if (config := flags.pop("config", None)) is not None:
            refuse_empty("config", config)
            layers.insert(0, _given(parser, kind, _flags_of(_read_yaml(Path(config)), kind, config)))
        if (preset := flags.pop("preset", None)) is not None:
            check_choice("preset", preset, kind.presets)
            path = kind.presets[preset]
            layers.insert(0, _given(parser, kind, _flags_of(_read_yaml(path), kind, path)))
        return kind(**_merge(layers))
    except InputError as error:
        parser.error(str(error))


def _given(parser, kind, argv):
    """The options that `argv` gives, without those that have their defaults."""
    absent = object()
    names = [*option_names(kind), "config", "preset"]
    parsed = parser.parse_args(argv, Namespace(**dict.fromkeys(names, absent)))
    return {name: value for name, value in vars(parsed).items() if value is not absent}


def _merge(layers):
    """Later layers win; the length of the run is one choice with two spellings."""
    options = {}
    for layer in layers:
        if layer.keys() & {"max_train_steps", "num_epochs"}:
            options.pop("max_train_steps", None)
            options.pop("num_epochs", None)
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
            nearest = difflib.get_close_matches(str(name), option_names(kind), n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else "see --help for the options."
            raise InputError(f"Unknown option {name!r} in {path}: {hint}")
        if not isinstance(value, str | None):
            raise InputError(f"Option {name!r} in {path} must have a single value, not {value}.")
    return [f"--{name}={value}" for name, value in values.items() if value is not None]
