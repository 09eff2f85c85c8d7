"""The options of a foreign model, as users have them: flags, JSON, YAML, and names of published checkpoints."""

import json
import shlex
from pathlib import Path

import yaml

from ddpm_hf.converters.presets import PRESETS
from ddpm_hf.errors import InputError
from ddpm_hf.files import read_mapping
from ddpm_hf.nearest_names import did_you_mean, nearest

READERS = {".json": json.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load}
MISSING = object()


def read_options(options):
    """{name: value} of options; those of a section have its name and a dot before theirs, as `model.ch`.

    Args:
        options: a dictionary; a JSON or YAML file; flags, as `"--image_size 64 --num_heads 4"`; the name of a
            published checkpoint (`PRESETS`); or a list of these, of which later ones replace earlier ones; or None.

    Raises:
        InputError: for a file that is not there or cannot be read, and for text that is none of these.
    """
    if options is None:
        return {}
    if isinstance(options, (list, tuple)):
        return {name: value for each in options for name, value in read_options(each).items()}
    if isinstance(options, dict):
        return _flat(options)
    text = str(options).strip()
    if text.startswith("--"):
        return _flags(text)
    if text in PRESETS:
        return _flat(PRESETS[text])
    return _flat(_file(text))


def _file(text):
    path = Path(text)
    if path.suffix not in READERS or not path.is_file():
        raise InputError(
            f"options={text!r} is no JSON or YAML file that is there, no flags (--image_size 64 ..), and not the name "
            f"of a published checkpoint{did_you_mean(text, PRESETS)} `docs/convert.md` lists the names."
        )
    return read_mapping(path, READERS[path.suffix])


def _flat(options, prefix=""):
    flat = {}
    for name, value in options.items():
        # The keyword flags of a command line are the options themselves.
        if isinstance(value, dict):
            flat |= _flat(value, prefix if name == "flags" else f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _flags(text):
    """Flags with values, as `--a 1` and `--a=1`; one without a value is True."""
    flags, name = {}, None
    for word in shlex.split(text):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_").removeprefix("config.")
            flags[name] = yaml.safe_load(value) if equals else True
        elif name is None:
            raise InputError(f"options={text!r} has the value {word!r} without a flag before it.")
        else:
            flags[name], name = yaml.safe_load(word), None
    return flags


def with_changes(given, changes):
    """Options of which some have other values, in all the places where these may stand."""
    made = {f"constructor.{name}": value for name, value in changes.items() if f"constructor.{name}" in given}
    return given | changes | made


class Options:
    """The options of one model, asked by name.

    Args:
        given (`dict`): of `read_options`.
        family (`str`): what messages call the code that the model is of.
    """

    def __init__(self, given, family):
        self.given, self.family = given, family

    def get(self, name, default=None):
        """The value of an option, or the default where it is not given."""
        value = self.given.get(name)
        return default if value is None else value

    def need(self, name, what, usual=MISSING):
        """The value of an option that the weights do not tell.

        Raises:
            InputError: where it is missing; the message says `what` it is and its `usual` value.
        """
        value = self.given.get(name)
        if value is None:
            hint = "" if usual is MISSING else f" (the code's own default is {usual})"
            raise InputError(
                f"The weights do not tell {name}, {what}{hint}, and the options do not have it: add --options "
                f'"--{name} VALUE", or name a published checkpoint.'
            )
        return value

    def choice(self, name, value, allowed):
        """The value, if it is allowed; InputError otherwise, with the nearest one that is."""
        if value not in allowed:
            raise InputError(
                f"{name}={value!r} of {self.family} is not held by any class here; {', '.join(map(str, allowed))} "
                f"is{did_you_mean(value, allowed)}"
            )
        return value

    def check_known(self, names, sections=()):
        """Raises InputError for options that the code does not have, which are those of another model."""
        for name in self.given:
            if name not in names and name.split(".")[0] not in sections:
                near = nearest(name, names)
                hint = f"; did you mean {near!r}?" if near else "."
                raise InputError(
                    f"The options are those of another model than this one of {self.family}, which has no option "
                    f"{name!r}{hint}"
                )


def check_agreement(pairs, family):
    """Checks options against what the weights say.

    Args:
        pairs (`dict`): {name: (the option, or None where it is not given, what the weights say)}.

    Raises:
        InputError: with everything that differs.
    """
    differ = [
        f"{name} is {said} in the options and {read} in the weights"
        for name, (said, read) in pairs.items()
        if said is not None and said != read
    ]
    if differ:
        raise InputError(
            f"The options are those of another model than this checkpoint of {family}: {'; '.join(differ)}."
        )


def as_bool(value):
    """Whether an option is on; flags of these codes are written True, true, 1, yes."""
    return str(value).lower() in ("true", "1", "yes", "y", "t")


def as_numbers(value):
    """A list of numbers from a list, or from text with commas between."""
    if isinstance(value, (list, tuple)):
        return [_number(each) for each in value]
    if isinstance(value, str):
        return [_number(each) for each in value.split(",") if each.strip()]
    return [_number(value)]


def _number(value):
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"An option has {value!r} where a number is needed.") from error
    return int(number) if number.is_integer() else number
