"""What several verbs of the command line take, and how it is read."""

from pathlib import Path
from typing import Annotated

import typer

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
Seed = Annotated[int, typer.Option(help="Of all the noise.")]


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
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise ValueError(f"--{name} {text} must be whole numbers with commas between, as 10,25,50.")
    return [int(part) for part in text.split(",")]


def open_pipeline(model, device, classifier=None, recipe=None):
    """The pipeline of a folder or repository, on its device, with the sampler of that name."""
    from ddpm_hf.hub.model_folder import load_pipeline
    from ddpm_hf.models.noisy_image_classifier import NoisyImageClassifier
    from ddpm_hf.recipes import changes_for, check_head, with_recipe

    parts = {} if classifier is None else {"classifier": NoisyImageClassifier.from_pretrained(classifier)}
    pipeline = load_pipeline(model, **parts).to(device or fastest_device())
    if recipe is not None:
        config = pipeline.unet.config
        pipeline.register_modules(scheduler=with_recipe(pipeline.scheduler, recipe, **changes_for(config)))
        check_head(pipeline.unet, pipeline.scheduler)
    return pipeline


def check_new(path, *suffixes):
    """Before the work: a file that is there is never overwritten."""
    if path.exists():
        raise ValueError(f"{path} is already there; choose another name, or move it away.")
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path} must end in {' or '.join(suffixes)}.")


def fractions(name, text):
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--{name} {text} must be numbers with commas between, as 0,0.5,1.") from None


def fastest_device():
    import torch

    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
