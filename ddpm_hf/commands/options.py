"""Options that several verbs of the command line offer."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer

from ddpm_hf.command_line import Verb
from ddpm_hf.data.arguments import check_data_name, option
from ddpm_hf.errors import InputError
from ddpm_hf.files import read_mapping
from ddpm_hf.models.class_names import class_names_of, to_labels
from ddpm_hf.places import check_local_place, check_model_place
from ddpm_hf.schedulers.sampler_table import check_recipe

# Seeds of several images lie side by side, and torch takes them up to 2^64.
LARGEST_SEED = 2**62

# The fields of `DataArguments` that say which data a model is measured on; how they are read follows from the model.
IMAGES = ("dataset", "dataset_config", "split", "image_column", "condition_column", "label_column", "value_column")
POINTS = ("dataset", "dataset_config", "point_columns", "split")
SAMPLES = (*IMAGES, "point_columns")
CAPTIONS = ("caption_column", "caption_template")

Model = Annotated[str, typer.Argument(help="A pipeline folder, or the id of a repository on the Hub.")]
ModelOrEmbedded = Annotated[
    str,
    typer.Argument(
        help="A pipeline folder, or the id of a repository on the Hub; by default the embedded Fashion-MNIST model.",
        show_default=False,
    ),
]
# The help of a file that has a name where none is given.
NUMBERED = "by default {}, with a number where that is there"


class ModelVerb(Verb):
    """A verb whose models, data and files are known to be there, or to be names on the Hub, before it begins."""

    places: ClassVar[dict] = {
        "model": check_model_place,
        "classifier": check_model_place,
        **dict.fromkeys(("dataset", "check_images"), check_data_name),
        **dict.fromkeys(
            ("folder", "run", "checkpoint", "image", "image_a", "image_b", "mask", "condition_image"),
            check_local_place,
        ),
    }

    def invoke(self, ctx):
        for name in self.places.keys() & ctx.params.keys():
            if ctx.params[name] is not None:
                self.places[name](str(ctx.params[name]))
        if ctx.params.get("class_label") is not None:
            _check_class_name(ctx.params["class_label"], Path(ctx.params["model"]))
        return super().invoke(ctx)


def _check_class_name(name, model):
    """Raises InputError for a name that no class of a local model has, if its config names the classes."""
    config = model / "unet" / "config.json"
    if not config.is_file() or not (names := class_names_of(read_mapping(config))):
        return
    try:
        to_labels(name, names)
    except ValueError as error:
        raise InputError(str(error)) from error


@dataclass
class SamplingOptions:
    """The options for drawing samples of a model."""

    title: ClassVar[str] = "Sampling"

    steps: int | None = option(None, "Number of timesteps to sample in; by default all of training.", min=1)
    recipe: str | None = option(
        None,
        "Name of a sampler, such as ddim-2m, analytic-ddpm, predictor-corrector or langevin, and RECIPE@SPACING for other timesteps, such as "
        "ddim-2m@logsnr; by default the model's own.",
    )
    eta: float | None = option(None, "0 is DDIM, 1 is DDPM; by default the model's own.")
    class_label: str | None = option(
        None, "A class of a class-conditional model, by its name or its number.", spelling="--class"
    )
    value: float | None = option(None, "The number that a model of --value_column is told.")
    guidance_scale: float = option(1.0, "1 is no guidance.")
    prompt: str | None = option(
        None, "What to draw, for a model that was trained with captions; by default the empty text."
    )
    negative_prompt: str | None = option(
        None, "What --guidance_scale leads away from, for such a model; by default the empty text."
    )

    def __post_init__(self):
        if self.recipe is not None:
            check_recipe(self.recipe)
        if self.value is not None and self.class_label is not None:
            raise InputError(
                f"--class {self.class_label} and --value {self.value:g} are for different models: give one."
            )

    @property
    def told_label(self):
        """The class, or the number, that the model is told."""
        return self.class_label if self.value is None else self.value

    def keywords(self):
        """The arguments for the call of a pipeline."""
        return {
            "num_inference_steps": self.steps,
            "eta": self.eta,
            "class_labels": self.told_label,
            "guidance_scale": self.guidance_scale,
            **{name: text for name in ("prompt", "negative_prompt") if (text := getattr(self, name)) is not None},
        }


@dataclass
class ExecutionOptions:
    """The options for the noise, the batches and the device of a verb."""

    title: ClassVar[str] = "Execution"

    seed: int = option(0, "Seed of all the noise.", min=0, max=LARGEST_SEED)
    batch_size: int = option(64, "Images at a time.", min=1)
    device: str | None = option(None, "cpu, cuda or mps; by default the fastest device.")


@dataclass
class DrawingExecutionOptions(ExecutionOptions):
    """The execution of verbs that draw; `auto` is decided by a short measurement, where the work is worth one."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "Precision of the weights; auto: for work of more than some seconds, the fastest as measured here."
    )
    channels_last: Literal["auto", "yes", "no"] = option(
        "auto", "Order weights and images in memory by channel last; auto as for --precision."
    )
    compile: Literal["auto", "yes", "no"] = option(
        "auto", "Compile the network by torch.compile; auto: for long work, where it is faster."
    )


@dataclass
class ExactExecutionOptions(DrawingExecutionOptions):
    """The execution of verbs whose results rest on exact outputs of the network, which is called in float32."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "fp32, and auto is the same: errors of half precision would be measured as errors of the model."
    )
    channels_last: Literal["auto", "yes", "no"] = option(
        "auto", "Order weights and images in memory by channel last; auto: no."
    )
    compile: Literal["auto", "yes", "no"] = option("auto", "Compile the network by torch.compile; auto: no.")


# The fields of `DrawingExecutionOptions` that say how the network is called.
SPEED = ("precision", "channels_last", "compile")


# Comma-separated values ----------------------------------------------------------------------------------------------


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
