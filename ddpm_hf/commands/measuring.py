"""The verbs that measure a model: `evaluate`, `calibrate`, `compare`."""

from pathlib import Path
from typing import Annotated

import typer

from ddpm_hf.commands.options import (
    LARGEST_SEED,
    BatchSize,
    Dataset,
    DatasetConfig,
    Device,
    ImageColumn,
    LabelColumn,
    Model,
    PointColumns,
    data_arguments,
    numbers,
)
from ddpm_hf.errors import InputError

app = typer.Typer()


@app.command()
def evaluate(
    model: Model,
    output: Annotated[Path, typer.Option(help="The folder for figures and numbers.")],
    metrics: Annotated[str, typer.Option(help="What to measure: bpd, bits per dimension (lower is better).")] = "bpd",
    dataset: Dataset = None,
    dataset_config: DatasetConfig = None,
    split: Annotated[str, typer.Option(help="One that the model has not been trained on.")] = "test",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    point_columns: PointColumns = None,
    num_images: Annotated[
        int | None, typer.Option("--num_images", min=1, help="As many, drawn at random; all by default.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Timesteps to visit; all of training's by default.")] = None,
    variance_type: Annotated[
        str | None, typer.Option("--variance_type", help="fixed_small, fixed_large, ..; the model's own by default.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the noise, and of the choice of images.")
    ] = 0,
    batch_size: BatchSize = 64,
    device: Device = None,
):
    """Measure how good a model is on images that it has not seen; on all processes of `accelerate launch -m ddpm_hf.cli`."""
    from ddpm_hf.evaluation.run import evaluate_bits_per_dim

    if metrics != "bpd":
        raise InputError(f"metrics={metrics!r} is not known; there is 'bpd'.")
    data = data_arguments(dataset, dataset_config, split, image_column, label_column, point_columns)
    evaluate_bits_per_dim(model, output, data, num_images, steps, variance_type, batch_size, seed, device)


@app.command()
def calibrate(
    model: Model,
    output_dir: Annotated[Path | None, typer.Option("--output_dir", help="The new pipeline folder.")] = None,
    dataset: Dataset = None,
    dataset_config: DatasetConfig = None,
    split: Annotated[str, typer.Option(help="That of the training.")] = "train",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    point_columns: PointColumns = None,
    num_images: Annotated[int, typer.Option("--num_images", min=1, help="More make it exacter.")] = 1000,
    plan: Annotated[str | None, typer.Option(help="Numbers of steps to plan timesteps for, as 10,25,50.")] = None,
    plan_cost: Annotated[
        str,
        typer.Option(
            "--plan_cost",
            help="What a plan keeps low: bound (likelihood), local_error (samples), global_error (samples; slower, better).",
        ),
    ] = "bound",
    push_to_hub: Annotated[
        str | None, typer.Option("--push_to_hub", help="A repository that gets the new folder too.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the noise, and of the choice of images.")
    ] = 0,
    batch_size: BatchSize = 64,
    device: Device = None,
):
    """Measure a model's noise prediction and write a copy that samples better in few steps, its weights untouched."""
    from ddpm_hf.calibration.run import calibrate

    data = data_arguments(dataset, dataset_config, split, image_column, label_column, point_columns)
    plans = None if plan is None else numbers("plan", plan)
    calibrate(model, output_dir, data, num_images, plans, plan_cost, batch_size, seed, device, push_to_hub)


@app.command()
def compare(
    model: Model,
    output: Annotated[Path, typer.Option(help="The folder for tables and pictures.")],
    features: Annotated[
        str,
        typer.Option(
            help="Where images are compared: a folder of an image classifier, or 'inception'. `python -m "
            "ddpm_hf.evaluation.feature_network FOLDER` trains a small one."
        ),
    ],
    dataset: Dataset = None,
    dataset_config: DatasetConfig = None,
    split: Annotated[str, typer.Option(help="One that the model has not been trained on.")] = "test",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    samplers: Annotated[
        str | None, typer.Option(help="Names with commas between: recipes of ours, samplers of diffusers.")
    ] = None,
    steps: Annotated[str, typer.Option(help="Numbers of network calls, with commas between.")] = "5,10,25,50",
    num_images: Annotated[int, typer.Option("--num_images", min=2, help="Samples for each distance.")] = 1000,
    seeds: Annotated[str, typer.Option(help="Of the noise; a distance for each.")] = "0,1,2",
    bound_images: Annotated[
        int | None, typer.Option("--bound_images", help="For bits/dim; as many as samples by default, 0 for none.")
    ] = None,
    batch_size: BatchSize = 100,
    device: Device = None,
):
    """Sample a model by many samplers and set their quality beside steps and seconds: a table and pictures."""
    from ddpm_hf.evaluation.compare import DEFAULT_SAMPLERS, compare

    data = data_arguments(dataset, dataset_config, split, image_column, label_column)
    names = DEFAULT_SAMPLERS if samplers is None else samplers.split(",")
    counts, seeds = numbers("steps", steps), numbers("seeds", seeds)
    compare(model, output, features, data, names, counts, num_images, seeds, batch_size, device, bound_images)
