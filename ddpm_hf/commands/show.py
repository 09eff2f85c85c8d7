"""The verbs of `ddpm-hf show`, which draw what a model, a run or a data set is like."""

from pathlib import Path
from typing import Annotated

import typer

from ddpm_hf.commands.options import (
    Dataset,
    DatasetConfig,
    Device,
    Eta,
    ImageColumn,
    LabelColumn,
    Model,
    PointColumns,
    Recipe,
    Seed,
    Steps,
    data_arguments,
    numbers,
    open_pipeline,
)
from ddpm_hf.results import check_free_file

FIGURES = (".png", ".svg")

app = typer.Typer(help="Draw what a model, a run or a data set is like, as a PNG or SVG file.", no_args_is_help=True)

Figure = Annotated[Path, typer.Option("--output", help="The PNG or SVG file to write.")]
Split = Annotated[str, typer.Option(help="As in training.")]
NumPoints = Annotated[int, typer.Option("--num_samples", min=4, max=1_000_000, help="Data, and samples, as many.")]


@app.command("schedules")
def show_schedules(
    model: Annotated[
        str | None, typer.Argument(help="A pipeline folder or Hub id; all schedules if not given.")
    ] = None,
    output: Figure = Path("schedules.png"),
):
    """The betas, the shares of signal and noise, and log-SNR, by timestep."""
    from ddpm_hf.figures.scheduler_figures import schedules

    _save_new_figure(lambda: schedules(model), output)


@app.command("forward")
def show_forward(
    model: Model,
    output: Figure = Path("forward.png"),
    dataset: Dataset = None,
    dataset_config: DatasetConfig = None,
    split: Split = "train",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    point_columns: PointColumns = None,
    num_samples: NumPoints = 1000,
    timesteps: Annotated[str | None, typer.Option(help="0-based, ascending, with commas between.")] = None,
    seed: Seed = 0,
):
    """Data on their way to noise, step by step above and by the closed form below, with p of the test that they agree."""
    from ddpm_hf.figures.model_figures import forward

    data = data_arguments(dataset, dataset_config, split, image_column, label_column, point_columns)
    timesteps = None if timesteps is None else numbers("timesteps", timesteps)
    _save_new_figure(lambda: forward(open_pipeline(model, "cpu"), data, num_samples, timesteps, seed=seed), output)


@app.command("loss")
def show_loss(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, with its loss.csv.")],
    output: Figure = Path("loss.png"),
):
    """The training loss, by optimizer update."""
    from ddpm_hf.reports.loss_curve import draw_loss_curve

    check_free_file(output, FIGURES)
    draw_loss_curve(folder, output)
    typer.echo(str(output))


@app.command("samples")
def show_samples(
    model: Model,
    dataset: Annotated[str, typer.Option(help="Points, as in training.")],
    output: Figure = Path("samples.png"),
    dataset_config: DatasetConfig = None,
    point_columns: PointColumns = None,
    split: Split = "train",
    num_samples: NumPoints = 2000,
    steps: Steps = None,
    recipe: Recipe = None,
    eta: Eta = None,
    seed: Seed = 0,
    device: Device = None,
):
    """Samples of a model of points over its data."""
    from ddpm_hf.figures.model_figures import samples

    data = data_arguments(dataset, dataset_config, split, None, None, point_columns)

    def draw():
        return samples(
            open_pipeline(model, device, recipe=recipe), data, num_samples, seed, num_inference_steps=steps, eta=eta
        )

    _save_new_figure(draw, output)


@app.command("path")
def show_path(
    model: Model,
    output: Annotated[Path, typer.Option(help="A strip (PNG or SVG), or an animation (GIF).")] = Path("path.png"),
    num_samples: NumPoints = 2000,
    frames: Annotated[int, typer.Option(min=2, max=1000, help="Noise and samples included.")] = 12,
    steps: Steps = None,
    recipe: Recipe = None,
    eta: Eta = None,
    seed: Seed = 0,
    device: Device = None,
):
    """Points on their way from noise; of images, `ddpm-hf sample --trajectory` writes it."""
    from ddpm_hf.figures.model_figures import path
    from ddpm_hf.files import written_whole
    from ddpm_hf.pipelines.trajectory_pictures import save_animation
    from ddpm_hf.visualization.points import draw_path, path_images
    from ddpm_hf.visualization.style import save_figure

    check_free_file(output, (*FIGURES, ".gif"))
    pipeline = open_pipeline(model, device, recipe=recipe)
    states = path(pipeline, num_samples, frames, seed, num_inference_steps=steps, eta=eta)
    with written_whole(output) as aside:
        if output.suffix.lower() == ".gif":
            save_animation(path_images(states), aside)
        else:
            save_figure(draw_path(states), aside)
    typer.echo(str(output))


@app.command("score")
def show_score(
    model: Model,
    dataset: Annotated[str, typer.Option(help="Points, as in training.")],
    output: Figure = Path("score.png"),
    dataset_config: DatasetConfig = None,
    point_columns: PointColumns = None,
    split: Split = "train",
    num_samples: NumPoints = 1000,
    timesteps: Annotated[str | None, typer.Option(help="0-based, with commas between: a panel for each.")] = None,
    seed: Seed = 0,
    device: Device = None,
):
    """The score of a model of points as arrows over its noisy data."""
    from ddpm_hf.figures.model_figures import score_field

    data = data_arguments(dataset, dataset_config, split, None, None, point_columns)
    timesteps = None if timesteps is None else numbers("timesteps", timesteps)
    _save_new_figure(lambda: score_field(open_pipeline(model, device), data, num_samples, timesteps, seed), output)


@app.command("gamma")
def show_gamma(model: Model, output: Figure = Path("gamma.png")):
    """What a calibrated scheduler holds: 1 - the mean square error of the predicted noise, and the std of x0 that follows."""
    from ddpm_hf.figures.scheduler_figures import gamma

    _save_new_figure(lambda: gamma(model), output)


@app.command("variances")
def show_variances(
    model: Model,
    output: Figure = Path("variances.png"),
    steps: Annotated[int, typer.Option(min=2, help="Of the trajectory.")] = 25,
    dataset: Dataset = None,
    dataset_config: DatasetConfig = None,
    split: Split = "train",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    point_columns: PointColumns = None,
    num_samples: Annotated[
        int, typer.Option("--num_samples", min=1, max=1_000_000, help="Data for the variances of a head.")
    ] = 64,
    seed: Seed = 0,
    device: Device = None,
):
    """How much noise each recipe's steps add, by timestep; those of a head are a mean, and a band from 10 to 90 %."""
    from ddpm_hf.figures.model_figures import variances

    data = data_arguments(dataset, dataset_config, split, image_column, label_column, point_columns)
    _save_new_figure(lambda: variances(open_pipeline(model, device), steps, data, num_samples, seed), output)


@app.command("timesteps")
def show_timesteps(
    model: Model,
    output: Figure = Path("timesteps.png"),
    steps: Annotated[int, typer.Option(min=1, help="Of a trajectory.")] = 25,
):
    """Which timesteps each spacing visits, and the plan of the model where it has one for so many steps."""
    from ddpm_hf.figures.scheduler_figures import timesteps

    _save_new_figure(lambda: timesteps(model, steps), output)


def _save_new_figure(draw, output):
    """What `draw` returns, as a file that is not there yet."""
    from ddpm_hf.files import written_whole
    from ddpm_hf.visualization.style import save_figure

    check_free_file(output, FIGURES)
    figure = draw()
    with written_whole(output) as aside:
        save_figure(figure, aside)
    typer.echo(str(output))
