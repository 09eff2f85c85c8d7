"""The command `ddpm-hf`: each verb is a thin layer on a function of the package."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Train, sample and share denoising diffusion models.", no_args_is_help=True, add_completion=False
)


def main():
    try:
        app()
    except (ValueError, OSError) as error:  # the user's to mend, and the message says how
        sys.exit(f"ddpm-hf: error: {error}")


# What several verbs take.
Dataset = Annotated[str | None, typer.Option(help="As in training; the embedded Fashion-MNIST if not given.")]
DatasetConfig = Annotated[str | None, typer.Option("--dataset_config", help="As in training.")]
ImageColumn = Annotated[str | None, typer.Option("--image_column", help="As in training.")]
LabelColumn = Annotated[str | None, typer.Option("--label_column", help="As in training.")]
Model = Annotated[str, typer.Argument(help="A pipeline folder, or the id of a repository on the Hub.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps; the fastest there is by default.")]
BatchSize = Annotated[int, typer.Option("--batch_size", min=1, help="Images at a time.")]


# The options of training are a dataclass, and its parser knows them: everything after `train` goes there.
@app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    help="Train a model on images; `ddpm-hf train --help` lists the options.",
)
def train(context: typer.Context):
    from ddpm_hf.training.train import main as train_main

    train_main(context.args)


@app.command()
def sample(
    model: Model,
    output: Annotated[Path, typer.Option(help="The PNG file to write: a grid of the images.")] = Path("samples.png"),
    num_images: Annotated[int, typer.Option("--num_images", min=1)] = 16,
    steps: Annotated[int | None, typer.Option(min=1, help="Timesteps to visit; all of training's by default.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A sampler by name, as ddim-2m or analytic-ddpm; the model's own by default.")
    ] = None,
    eta: Annotated[float | None, typer.Option(help="0 is DDIM, 1 is DDPM; the model's own by default.")] = None,
    class_label: Annotated[int | None, typer.Option("--class", help="A label of a class-conditional model.")] = None,
    guidance_scale: Annotated[float, typer.Option("--guidance_scale", help="1 is no guidance.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Image i is that of seed + i, whatever the batch size.")] = 0,
    batch_size: BatchSize = 64,
    device: Device = None,
):
    """Draw images from a model and write them as one PNG grid."""
    from ddpm_hf.pipelines.image_grids import image_grid, sample_images
    from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
    from ddpm_hf.recipes import check_head, with_recipe

    if output.exists():
        raise ValueError(f"{output} is already there; choose another --output, or move it away.")
    if output.suffix.lower() != ".png":
        raise ValueError(f"--output {output} must end in .png.")
    pipeline = GaussianDiffusionPipeline.from_pretrained(model).to(device or _fastest_device())
    if recipe is not None:
        pipeline.register_modules(scheduler=with_recipe(pipeline.scheduler, recipe))
        check_head(pipeline.unet, pipeline.scheduler)
    images = sample_images(
        pipeline,
        num_images,
        seed=seed,
        batch_size=batch_size,
        num_inference_steps=steps,
        eta=eta,
        class_labels=class_label,
        guidance_scale=guidance_scale,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    image_grid(images).save(output)
    typer.echo(f"{num_images} images in {output}")


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
    num_images: Annotated[
        int | None, typer.Option("--num_images", min=1, help="As many, drawn at random; all by default.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Timesteps to visit; all of training's by default.")] = None,
    variance_type: Annotated[
        str | None, typer.Option("--variance_type", help="fixed_small, fixed_large, ..; the model's own by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise, and of the choice of images.")] = 0,
    batch_size: BatchSize = 64,
    device: Device = None,
):
    """Measure how good a model is on images that it has not seen; on all processes of `accelerate launch -m ddpm_hf.cli`."""
    from ddpm_hf.evaluation.run import evaluate_bits_per_dim

    if metrics != "bpd":
        raise ValueError(f"metrics={metrics!r} is not known; there is 'bpd'.")
    data = _data(dataset, dataset_config, split, image_column, label_column)
    evaluate_bits_per_dim(model, output, data, num_images, steps, variance_type, batch_size, seed, device)


@app.command()
def calibrate(
    model: Model,
    output_dir: Annotated[Path, typer.Option("--output_dir", help="The new pipeline folder.")],
    dataset: Dataset = None,
    dataset_config: DatasetConfig = None,
    split: Annotated[str, typer.Option(help="That of the training.")] = "train",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    num_images: Annotated[int, typer.Option("--num_images", min=1, help="More make it exacter.")] = 1000,
    plan: Annotated[str | None, typer.Option(help="Numbers of steps to plan timesteps for, as 10,25,50.")] = None,
    plan_cost: Annotated[
        str, typer.Option("--plan_cost", help="What a plan saves: bound (likelihood) or local_error (samples).")
    ] = "bound",
    seed: Annotated[int, typer.Option(help="Of the noise, and of the choice of images.")] = 0,
    batch_size: BatchSize = 64,
    device: Device = None,
):
    """Measure a model's noise prediction and write a copy that samples better in few steps, its weights untouched."""
    from ddpm_hf.calibration.run import calibrate

    data = _data(dataset, dataset_config, split, image_column, label_column)
    plans = None if plan is None else _numbers("plan", plan)
    calibrate(model, output_dir, data, num_images, plans, plan_cost, batch_size, seed, device)


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
    batch_size: BatchSize = 100,
    device: Device = None,
):
    """Sample a model by many samplers and set their quality beside steps and seconds: a table and pictures."""
    from ddpm_hf.evaluation.compare import DEFAULT_SAMPLERS, compare

    data = _data(dataset, dataset_config, split, image_column, label_column)
    names = DEFAULT_SAMPLERS if samplers is None else samplers.split(",")
    counts, seeds = _numbers("steps", steps), _numbers("seeds", seeds)
    compare(model, output, features, data, names, counts, num_images, seeds, batch_size, device or _fastest_device())


def _data(dataset, dataset_config, split, image_column, label_column):
    from ddpm_hf.training.arguments import DataArguments

    return DataArguments(
        dataset=dataset,
        dataset_config=dataset_config,
        split=split,
        image_column=image_column,
        label_column=label_column,
    )


def _numbers(name, text):
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise ValueError(f"--{name} {text} must be whole numbers with commas between, as 10,25,50.")
    return [int(part) for part in text.split(",")]


def _fastest_device():
    import torch

    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"


if __name__ == "__main__":
    main()
