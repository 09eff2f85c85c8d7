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
    model: Annotated[str, typer.Argument(help="A pipeline folder, or the id of a repository on the Hub.")],
    output: Annotated[Path, typer.Option(help="The PNG file to write: a grid of the images.")] = Path("samples.png"),
    num_images: Annotated[int, typer.Option("--num_images", min=1)] = 16,
    steps: Annotated[int | None, typer.Option(min=1, help="Timesteps to visit; all of training's by default.")] = None,
    eta: Annotated[float | None, typer.Option(help="0 is DDIM, 1 is DDPM; the model's own by default.")] = None,
    class_label: Annotated[int | None, typer.Option("--class", help="A label of a class-conditional model.")] = None,
    guidance_scale: Annotated[float, typer.Option("--guidance_scale", help="1 is no guidance.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Image i is that of seed + i, whatever the batch size.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Images at a time.")] = 64,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; the fastest there is by default.")] = None,
):
    """Draw images from a model and write them as one PNG grid."""
    from ddpm_hf.pipelines.image_grids import image_grid, sample_images
    from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline

    if output.exists():
        raise ValueError(f"{output} is already there; choose another --output, or move it away.")
    if output.suffix.lower() != ".png":
        raise ValueError(f"--output {output} must end in .png.")
    pipeline = GaussianDiffusionPipeline.from_pretrained(model).to(device or _fastest_device())
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
    model: Annotated[str, typer.Argument(help="A pipeline folder, or the id of a repository on the Hub.")],
    output: Annotated[Path, typer.Option(help="The folder for figures and numbers.")],
    metrics: Annotated[str, typer.Option(help="What to measure: bpd, bits per dimension (lower is better).")] = "bpd",
    dataset: Annotated[
        str | None, typer.Option(help="As in training; the embedded Fashion-MNIST if not given.")
    ] = None,
    dataset_config: Annotated[str | None, typer.Option("--dataset_config", help="As in training.")] = None,
    split: Annotated[str, typer.Option(help="One that the model has not been trained on.")] = "test",
    image_column: Annotated[str | None, typer.Option("--image_column", help="As in training.")] = None,
    label_column: Annotated[str | None, typer.Option("--label_column", help="As in training.")] = None,
    num_images: Annotated[
        int | None, typer.Option("--num_images", min=1, help="As many, drawn at random; all by default.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Timesteps to visit; all of training's by default.")] = None,
    variance_type: Annotated[
        str | None, typer.Option("--variance_type", help="fixed_small, fixed_large, ..; the model's own by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise, and of the choice of images.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Images at a time.")] = 64,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; the fastest there is by default.")] = None,
):
    """Measure how good a model is on images that it has not seen; on all processes of `accelerate launch -m ddpm_hf.cli`."""
    from ddpm_hf.evaluation.run import evaluate_bits_per_dim
    from ddpm_hf.training.arguments import DataArguments

    if metrics != "bpd":
        raise ValueError(f"metrics={metrics!r} is not known; there is 'bpd'.")
    data = DataArguments(
        dataset=dataset,
        dataset_config=dataset_config,
        split=split,
        image_column=image_column,
        label_column=label_column,
    )
    evaluate_bits_per_dim(model, output, data, num_images, steps, variance_type, batch_size, seed, device)


def _fastest_device():
    import torch

    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"


if __name__ == "__main__":
    main()
