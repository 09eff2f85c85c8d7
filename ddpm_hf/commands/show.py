"""The verbs of `ddpm-hf show`, which draw figures of a model, a run or a data set."""

from dataclasses import MISSING
from pathlib import Path
from typing import Annotated

import typer

from ddpm_hf.command_options import offered, with_options
from ddpm_hf.commands.options import (
    POINTS,
    SAMPLES,
    ExecutionOptions,
    Model,
    SamplingOptions,
    numbers,
)
from ddpm_hf.commands.preparation import open_pipeline
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.results import check_free_file

FIGURES = (".png", ".svg")

app = typer.Typer(help="Draw figures of a model, a run or a data set, as PNG or SVG files.", no_args_is_help=True)

Figure = Annotated[Path, typer.Option("--output", help="The PNG or SVG file to write.")]
NumPoints = Annotated[
    int, typer.Option("--num_samples", min=4, max=1_000_000, help="Number of data points, and of samples.")
]
ModelData = offered(DataArguments, *SAMPLES, split={"help": "Split to draw from."})
PointData = offered(
    DataArguments,
    *POINTS,
    dataset={"default": MISSING, "help": "Points, as in training."},
    split={"help": "Split to draw from."},
)
Sampling = offered(SamplingOptions, "steps", "recipe", "eta")
Execution = offered(ExecutionOptions, "seed", "device")


@app.command("schedules")
def show_schedules(
    model: Annotated[str | None, typer.Argument(help="A pipeline folder or Hub id; by default all schedules.")] = None,
    output: Figure = Path("schedules.png"),
):
    """Draw the betas, the shares of signal and noise, and log-SNR, by timestep."""
    from ddpm_hf.figures.scheduler_figures import schedules

    _save_new_figure(lambda: schedules(model), output)


@app.command("forward")
@with_options
def show_forward(
    model: Model,
    output: Figure = Path("forward.png"),
    *,
    data: ModelData,
    num_samples: NumPoints = 1000,
    timesteps: Annotated[str | None, typer.Option(help="Comma-separated timesteps, 0-based and ascending.")] = None,
    execution: offered(ExecutionOptions, "seed"),
):
    """Draw data on their way to noise, step by step and by the closed form, with the p-value of a test that they agree."""
    from ddpm_hf.figures.model_figures import forward

    timesteps = None if timesteps is None else numbers("timesteps", timesteps)

    def draw():
        return forward(open_pipeline(model, "cpu"), data, num_samples, timesteps, seed=execution.seed)

    _save_new_figure(draw, output)


@app.command("loss")
def show_loss(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, with its loss.csv.")],
    output: Figure = Path("loss.png"),
):
    """Draw the training loss by optimizer update."""
    from ddpm_hf.reports.loss_curve import draw_loss_curve

    check_free_file(output, FIGURES)
    draw_loss_curve(folder, output)
    typer.echo(str(output))


@app.command("samples")
@with_options
def show_samples(
    model: Model,
    output: Figure = Path("samples.png"),
    *,
    data: PointData,
    num_samples: NumPoints = 2000,
    sampling: Sampling,
    execution: Execution,
):
    """Draw samples of a model of points over its data."""
    from ddpm_hf.figures.model_figures import samples

    def draw():
        pipeline = open_pipeline(model, execution.device, recipe=sampling.recipe, steps=sampling.steps)
        return samples(pipeline, data, num_samples, execution.seed, **sampling.keywords())

    _save_new_figure(draw, output)


@app.command("path")
@with_options
def show_path(
    model: Model,
    output: Annotated[Path, typer.Option(help="A strip (PNG or SVG), or an animation (GIF).")] = Path("path.png"),
    num_samples: NumPoints = 2000,
    frames: Annotated[int, typer.Option(min=2, max=1000, help="Number of frames, with noise and samples.")] = 12,
    *,
    sampling: Sampling,
    execution: Execution,
):
    """Draw points on their way from noise; `ddpm-hf sample --trajectory` does this for images."""
    from ddpm_hf.figures.model_figures import path
    from ddpm_hf.files import written_whole
    from ddpm_hf.pipelines.trajectory_pictures import save_animation
    from ddpm_hf.visualization.points import draw_path, path_images
    from ddpm_hf.visualization.style import save_figure

    check_free_file(output, (*FIGURES, ".gif"))
    pipeline = open_pipeline(model, execution.device, recipe=sampling.recipe, steps=sampling.steps)
    states = path(pipeline, num_samples, frames, execution.seed, **sampling.keywords())
    with written_whole(output) as aside:
        if output.suffix.lower() == ".gif":
            save_animation(path_images(states), aside)
        else:
            save_figure(draw_path(states), aside)
    typer.echo(str(output))


@app.command("score")
@with_options
def show_score(
    model: Model,
    output: Figure = Path("score.png"),
    *,
    data: PointData,
    num_samples: NumPoints = 1000,
    timesteps: Annotated[
        str | None, typer.Option(help="Comma-separated timesteps, 0-based, each with a panel.")
    ] = None,
    execution: Execution,
):
    """Draw the score of a model of points as arrows over its noisy data."""
    from ddpm_hf.figures.model_figures import score_field

    timesteps = None if timesteps is None else numbers("timesteps", timesteps)

    def draw():
        pipeline = open_pipeline(model, execution.device)
        return score_field(pipeline, data, num_samples, timesteps, execution.seed)

    _save_new_figure(draw, output)


@app.command("gamma")
def show_gamma(model: Model, output: Figure = Path("gamma.png")):
    """Draw the calibration of a scheduler: 1 - mean square error of the predicted noise, and the std of x0 from it."""
    from ddpm_hf.figures.scheduler_figures import gamma

    _save_new_figure(lambda: gamma(model), output)


@app.command("variances")
@with_options
def show_variances(
    model: Model,
    output: Figure = Path("variances.png"),
    steps: Annotated[int, typer.Option(min=2, help="Number of timesteps of the trajectory.")] = 25,
    *,
    data: ModelData,
    num_samples: Annotated[
        int, typer.Option("--num_samples", min=1, max=1_000_000, help="Number of samples for the variances of a head.")
    ] = 64,
    execution: Execution,
):
    """Draw the noise that each recipe adds by timestep; a head has a mean, and a band from 10 to 90 %."""
    from ddpm_hf.figures.model_figures import variances

    def draw():
        return variances(open_pipeline(model, execution.device), steps, data, num_samples, execution.seed)

    _save_new_figure(draw, output)


@app.command("timesteps")
def show_timesteps(
    model: Model,
    output: Figure = Path("timesteps.png"),
    steps: Annotated[int, typer.Option(min=1, help="Number of timesteps of a trajectory.")] = 25,
):
    """Draw the timesteps that each spacing visits, and those of the model's plan for this number of steps."""
    from ddpm_hf.figures.scheduler_figures import timesteps

    _save_new_figure(lambda: timesteps(model, steps), output)


def _save_new_figure(draw, output):
    """Writes the figure that `draw` returns into a new file."""
    from ddpm_hf.files import written_whole
    from ddpm_hf.visualization.style import save_figure

    check_free_file(output, FIGURES)
    figure = draw()
    with written_whole(output) as aside:
        save_figure(figure, aside)
    typer.echo(str(output))
