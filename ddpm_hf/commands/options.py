"""The options of the command line: fields of dataclasses, which a decorator makes options of a verb."""

import dataclasses
import functools
import inspect
import math
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ddpm_hf.data.arguments import option
from ddpm_hf.errors import InputError

# Seeds of several images lie side by side, and torch takes them up to 2^64.
LARGEST_SEED = 2**62

# The fields of `DataArguments` that say which data a model is measured on; how they are read follows from the model.
IMAGES = ("dataset", "dataset_config", "split", "image_column", "label_column")
POINTS = ("dataset", "dataset_config", "point_columns", "split")
SAMPLES = (*IMAGES, "point_columns")

Model = Annotated[str, typer.Argument(help="A pipeline folder, or the id of a repository on the Hub.")]
PngOutput = Annotated[Path, typer.Option(help="The PNG file to write.")]


def with_options(verb):
    """Turns each dataclass among the parameters of a verb into options of the command line, one for each field.

    typer reads options from a signature: the wrapper has one where the fields stand in the place of their dataclass, except
    that what must be given comes first. Called with values of the fields, it makes the dataclasses and calls the verb.

    Args:
        verb: a function. A parameter annotated with a dataclass becomes all of its fields, one annotated with what
            `offered` returns some of them, and any other stays what it is.
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
        names: of the fields, in the order of the help; all by default.
        own (`dict`): for a field, what the verb says differently of it, as `split={"default": "test"}`. A field whose
            default is `dataclasses.MISSING` must be given.
    """
    settings = {field.name: {"default": field.default, **field.metadata} for field in dataclasses.fields(kind)}
    return Annotated[kind, _Group(kind, {name: settings[name] | own.get(name, {}) for name in names or settings})]


@dataclass(frozen=True)
class _Group:
    """The fields of a dataclass that a verb offers, each with what `typer.Option` is told of it and its default."""

    kind: type
    settings: dict[str, dict]

    def parameters(self):
        hints = typing.get_type_hints(self.kind)
        return [_parameter(name, hints[name], **settings) for name, settings in self.settings.items()]

    def make(self, values):
        """The dataclass, of values that are taken out of the dictionary."""
        return self.kind(**{name: values.pop(name) for name in self.settings})


def _group_of(annotation):
    if dataclasses.is_dataclass(annotation):
        annotation = offered(annotation)
    return next((each for each in getattr(annotation, "__metadata__", ()) if isinstance(each, _Group)), None)


def _parameter(name, hint, default, spelling=None, **settings):
    # typer by itself would spell an option with hyphens, and give a flag a second spelling that turns it off.
    annotation = Annotated[hint, typer.Option(spelling or f"--{name}", **settings)]
    default = inspect.Parameter.empty if default is dataclasses.MISSING else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


# What several verbs offer --------------------------------------------------------------------------------------------


@dataclass
class SamplingOptions:
    """How a model draws."""

    steps: int | None = option(None, "Timesteps of the whole way; all of training's by default.", min=1)
    recipe: str | None = option(None, "A sampler by name, as ddim-2m or analytic-ddpm; the model's own by default.")
    eta: float | None = option(None, "0 is DDIM, 1 is DDPM; the model's own by default.")
    class_label: int | None = option(None, "A label of a class-conditional model.", spelling="--class")
    guidance_scale: float = option(1.0, "1 is no guidance.")

    def keywords(self):
        """What the call of a pipeline is given."""
        return {
            "num_inference_steps": self.steps,
            "eta": self.eta,
            "class_labels": self.class_label,
            "guidance_scale": self.guidance_scale,
        }


@dataclass
class ExecutionOptions:
    """What chooses the noise, and where and in how large batches a verb computes."""

    seed: int = option(0, "Seed of all the noise.", min=0, max=LARGEST_SEED)
    batch_size: int = option(64, "Images at a time.", min=1)
    device: str | None = option(None, "cpu, cuda, mps; the fastest there is by default.")


# Values with commas between ------------------------------------------------------------------------------------------


def numbers(name, text):
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise InputError(f"--{name} {text} must be whole numbers with commas between, as 10,25,50.")
    return [int(part) for part in text.split(",")]


def fractions(name, text):
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise InputError(f"--{name} {text} must be finite numbers with commas between, as 0,0.5,1.")
    return values
