"""What several verbs of the command line take, and how it is read."""

import math
from pathlib import Path
from typing import Annotated

import typer

from ddpm_hf.errors import InputError

# Seeds of several images lie side by side, and torch takes them up to 2^64.
LARGEST_SEED = 2**62
# With fewer, measuring how long a call takes would be a large part of the work.
CALLS_WORTH_SAYING = 200

Dataset = Annotated[str | None, typer.Option(help="As in training; the embedded Fashion-MNIST if not given.")]
DatasetConfig = Annotated[str | None, typer.Option("--dataset_config", help="As in training.")]
ImageColumn = Annotated[str | None, typer.Option("--image_column", help="As in training.")]
LabelColumn = Annotated[str | None, typer.Option("--label_column", help="As in training.")]
PointColumns = Annotated[str | None, typer.Option("--point_columns", help="As in training.")]
Model = Annotated[str, typer.Argument(help="A pipeline folder, or the id of a repository on the Hub.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps; the fastest there is by default.")]
BatchSize = Annotated[int, typer.Option("--batch_size", min=1, help="Images at a time.")]

PngOutput = Annotated[Path, typer.Option(help="The PNG file to write.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Timesteps of the whole way; all of training's by default.")]
Recipe = Annotated[
    str | None, typer.Option(help="A sampler by name, as ddim-2m or analytic-ddpm; the model's own by default.")
]
Eta = Annotated[float | None, typer.Option(help="0 is DDIM, 1 is DDPM; the model's own by default.")]
ClassLabel = Annotated[int | None, typer.Option("--class", help="A label of a class-conditional model.")]
GuidanceScale = Annotated[float, typer.Option("--guidance_scale", help="1 is no guidance.")]
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of all the noise.")]


def data_arguments(dataset, dataset_config, split, image_column, label_column, point_columns=None):
    from ddpm_hf.data.arguments import DataArguments

    return DataArguments(
        dataset=dataset,
        dataset_config=dataset_config,
        split=split,
        image_column=image_column,
        label_column=label_column,
        point_columns=point_columns,
    )


def numbers(name, text):
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise InputError(f"--{name} {text} must be whole numbers with commas between, as 10,25,50.")
    return [int(part) for part in text.split(",")]


def open_pipeline(model, device, classifier=None, recipe=None):
    """The pipeline of a folder or repository, on its device, with the sampler of that name.

    Raises:
        InputError: for what is no model, a device that is not there, and a sampler that the model does not have.
    """
    from ddpm_hf.devices import open_device
    from ddpm_hf.hub.model_folder import load_pipeline
    from ddpm_hf.models.noisy_image_classifier import NoisyImageClassifier
    from ddpm_hf.recipes import changes_for, check_head, with_recipe

    parts = {} if classifier is None else {"classifier": NoisyImageClassifier.from_pretrained(classifier)}
    device = open_device(device)
    pipeline = load_pipeline(model, **parts).to(device)
    if recipe is not None:
        config = pipeline.unet.config
        pipeline.register_modules(scheduler=with_recipe(pipeline.scheduler, recipe, **changes_for(config)))
        check_head(pipeline.unet, pipeline.scheduler)
    return pipeline


def fractions(name, text):
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise InputError(f"--{name} {text} must be finite numbers with commas between, as 0,0.5,1.")
    return values


def check_batch(pipeline, batch_size, advice):
    """Raises InputError for a batch that no memory of this machine can hold; `advice` says what to lower."""
    from ddpm_hf.limits import check_fits_memory
    from ddpm_hf.models.batch_bytes import least_batch_bytes

    check_fits_memory("a batch takes at least", least_batch_bytes(pipeline.unet.config, batch_size), advice)


def say_duration(pipeline, batch_size, calls, advice):
    """Prints how long so many calls of the network will take, unless they are few.

    Raises:
        InputError: for calls that take more than a year, and for a batch that the device does not hold; `advice` says
            what to lower.
    """
    import torch

    from ddpm_hf.limits import expected_duration, fitting_into_memory, seconds_of
    from ddpm_hf.models.network_config import classes_of

    if calls < CALLS_WORTH_SAYING or None in pipeline.samples.shape:
        return
    unet = pipeline.unet
    x = torch.zeros(batch_size, *pipeline.samples.shape, device=unet.device, dtype=unet.dtype)
    t = torch.zeros((), dtype=torch.int64, device=unet.device)
    labels = None
    if classes_of(unet.config)[0] is not None:
        labels = torch.zeros(batch_size, dtype=torch.int64, device=unet.device)
    with torch.no_grad(), fitting_into_memory(advice):
        seconds = seconds_of(lambda: unet(x, t, labels, return_dict=False)[0].sum().item())
    typer.echo(f"{calls} network calls of {batch_size}: about {expected_duration(calls * seconds, advice)} (h:mm:ss)")
