"""Options of commands: the fields of dataclasses, which a decorator turns into options of a function."""

import dataclasses
import functools
import inspect
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from ddpm_hf.errors import InputError
from ddpm_hf.nearest_names import not_one_of


def with_options(verb):
    """Turns each dataclass among the parameters of a verb into options of the command line, one for each field.

    typer reads options from a signature. That of the wrapper has the fields in the place of their dataclass, with the
    required options first. The wrapper makes the dataclasses from the values of the fields and calls the verb.

    Args:
        verb: a function. A parameter annotated with a dataclass becomes all of its fields, one annotated with the
            result of `offered` some of them; other parameters stay.
    """
    groups, parameters = {}, []
    for parameter in inspect.signature(verb, eval_str=True).parameters.values():
        group = _group_of(parameter.annotation)
        if group is None:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY))
        else:
            groups[parameter.name] = group
            parameters += group.parameters()

    @functools.wraps(verb)
    def called(**values):
        made = {name: group.make(values) for name, group in groups.items()}
        return verb(**values, **made)

    parameters.sort(key=lambda parameter: parameter.default is not parameter.empty)
    called.__signature__ = inspect.Signature(parameters)
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def offered(kind, *names, **own):
    """An annotation for a dataclass of which a verb offers some fields; the others keep their defaults.

    Args:
        kind: the dataclass; its fields are made by `option`.
        names: names of the fields, in the order of the help; by default all.
        own (`dict`): changes of this verb for a field, such as `split={"default": "test"}`. A field with the default
            `dataclasses.MISSING` is required.

    The help shows the options under the `title` of the dataclass, if it has one.
    """
    settings = {field.name: {"default": field.default, **field.metadata} for field in dataclasses.fields(kind)}
    return Annotated[kind, _Group(kind, {name: settings[name] | own.get(name, {}) for name in names or settings})]


@dataclass(frozen=True)
class _Group:
    """The fields of a dataclass that a verb offers, each with its default and its arguments of `typer.Option`."""

    kind: type
    settings: dict[str, dict]

    def parameters(self):
        hints, title = typing.get_type_hints(self.kind), getattr(self.kind, "title", None)
        return [
            option_parameter(name, hints[name], **{"rich_help_panel": title} | settings)
            for name, settings in self.settings.items()
        ]

    def make(self, values):
        """The dataclass, made of values that are taken out of the dictionary."""
        return self.kind(**{name: values.pop(name) for name in self.settings})


def _group_of(annotation):
    if dataclasses.is_dataclass(annotation):
        annotation = offered(annotation)
    return next((each for each in getattr(annotation, "__metadata__", ()) if isinstance(each, _Group)), None)


def option_parameter(name, hint, default, spelling=None, **settings):
    """The parameter of a function that typer makes an option of.

    Args:
        hint: its type; one of a `Literal`, or None, is checked by name.
        default: its default; `dataclasses.MISSING` if it must be given.
        spelling (`str`, *optional*): its spelling on the command line; by default that of its name.
        settings (`dict`): further arguments of `typer.Option`.
    """
    if choices := choices_of(hint):
        hint = str if default is dataclasses.MISSING else str | None
        settings |= {"callback": _checker(name, choices), "metavar": f"<{'|'.join(choices)}>"}
    # Without a spelling, typer would write an option with hyphens, and give a flag a second form that turns it off.
    annotation = Annotated[hint, typer.Option(spelling or f"--{name}", **settings)]
    default = inspect.Parameter.empty if default is dataclasses.MISSING else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def choices_of(hint):
    """The values of a `Literal`, or of one that may be None too; () for other types."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    return next((typing.get_args(each) for each in members if typing.get_origin(each) is Literal), ())


def _checker(name, choices):
    def check(value: str | None):
        if value is not None and value not in choices:
            raise InputError(f"{name}={value!r} {not_one_of(value, choices)}")
        return value

    return check
