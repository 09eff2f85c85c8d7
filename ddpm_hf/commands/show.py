"""The verbs of `ddpm-hf show`, which draw figures of a model, a run or a data set."""

from dataclasses import MISSING
from pathlib import Path
from typing import Annotated

import typer

from ddpm_hf.command_line import Verbs
from ddpm_hf.command_options import offered, with_options
from ddpm_hf.commands.options import (
    NUMBERED,
    POINTS,
    SAMPLES,
    ExecutionOptions,
    Model,
    ModelVerb,
    SamplingOptions,
    numbers,
)
from ddpm_hf.commands.preparation import open_pipeline
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.results import free_output

FIGURES = (".png", ".svg")

app = Verbs(ModelVerb, help="Draw figures of a model, a run or a data set, as PNG or SVG files.")

Figure = Annotated[
    Path | None,
    typer.Option("--output", help=f"The PNG or SVG file to write; {NUMBERED.format('the name of the figure')}."),
]
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
    output: Figure = None,
):
    """Draw the betas, the shares of signal and noise, and log-SNR, by timestep."""

    def draw():
        from ddpm_hf.figures.scheduler_figures import schedules

        return schedules(model)

    _save_new_figure(draw, output, "schedules.png")


@app.command("forward")
@with_options
def show_forward(
    model: Model,
    output: Figure = None,
    *,
    data: ModelData,
    num_samples: NumPoints = 1000,
    timesteps: Annotated[str | None, typer.Option(help="Comma-separated timesteps, 0-based and ascending.")] = None,
    execution: offered(ExecutionOptions, "seed"),
):
    """Draw data on their way to noise, step by step and by the closed form, with the p-value of a test that they agree."""
    timesteps = None if timesteps is None else numbers("timesteps", timesteps)

    def draw():
        from ddpm_hf.figures.model_figures import forward

        return forward(open_pipeline(model, "cpu"), data, num_samples, timesteps, seed=execution.seed)

    _save_new_figure(draw, output, "forward.png")


@app.command("loss")
def show_loss(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, with its loss.csv.")],
    output: Figure = None,
):
    """Draw the training loss by optimizer update."""
    output = free_output(output, "loss.png", FIGURES)
    from ddpm_hf.reports.loss_curve import draw_loss_curve

    draw_loss_curve(folder, output)
    typer.echo(str(output))


@app.command("samples")
@with_options
def show_samples(
    model: Model,
    output: Figure = None,
    *,
    data: PointData,
    num_samples: NumPoints = 2000,
    sampling: Sampling,
    execution: Execution,
):
    """Draw samples of a model of points over its data."""

    def draw():
        from ddpm_hf.figures.model_figures import samples

        pipeline = open_pipeline(model, execution.device, recipe=sampling.recipe, steps=sampling.steps)
        return samples(pipeline, data, num_samples, execution.seed, **sampling.keywords())

    _save_new_figure(draw, output, "samples.png")


@app.command("path")
@with_options
def show_path(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option(help=f"A strip (PNG or SVG), or an animation (GIF); {NUMBERED.format('path.png')}."),
    ] = None,
    num_samples: NumPoints = 2000,
    frames: Annotated[int, typer.Option(min=2, max=1000, help="Number of frames, with noise and samples.")] = 12,
    *,
    sampling: Sampling,
    execution: Execution,
):
    """Draw points on their way from noise; `ddpm-hf sample --trajectory` does this for images."""
    output = free_output(output, "path.png", (*FIGURES, ".gif"))
    from ddpm_hf.figures.model_figures import path
    from ddpm_hf.files import written_whole
    from ddpm_hf.pipelines.trajectory_pictures import save_animation
    from ddpm_hf.visualization.points import draw_path, path_images
    from ddpm_hf.visualization.style import save_figure

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
    output: Figure = None,
    *,
    data: PointData,
    num_samples: NumPoints = 1000,
    timesteps: Annotated[
        str | None, typer.Option(help="Comma-separated timesteps, 0-based, each with a panel.")
    ] = None,
    execution: Execution,
):
    """Draw the score of a model of points as arrows over its noisy data."""
    timesteps = None if timesteps is None else numbers("timesteps", timesteps)

    def draw():
        from ddpm_hf.figures.model_figures import score_field

        pipeline = open_pipeline(model, execution.device)
        return score_field(pipeline, data, num_samples, timesteps, execution.seed)

    _save_new_figure(draw, output, "score.png")


@app.command("gamma")
def show_gamma(model: Model, output: Figure = None):
    """Draw the calibration of a scheduler: 1 - mean square error of the predicted noise, and the std of x0 from it."""

    def draw():
        from ddpm_hf.figures.scheduler_figures import gamma

        return gamma(model)

    _save_new_figure(draw, output, "gamma.png")


@app.command("variances")
@with_options
def show_variances(
    model: Model,
    output: Figure = None,
    steps: Annotated[int, typer.Option(min=2, help="Number of timesteps of the trajectory.")] = 25,
    *,
    data: ModelData,
    num_samples: Annotated[
        int, typer.Option("--num_samples", min=1, max=1_000_000, help="Number of samples for the variances of a head.")
    ] = 64,
    execution: Execution,
):
    """Draw the noise that each recipe adds by timestep; a head has a mean, and a band from 10 to 90 %."""

    def draw():
        from ddpm_hf.figures.model_figures import variances

        return variances(open_pipeline(model, execution.device), steps, data, num_samples, execution.seed)

    _save_new_figure(draw, output, "variances.png")


@app.command("timesteps")
def show_timesteps(
    model: Model,
    output: Figure = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of timesteps of a trajectory.")] = 25,
):
    """Draw the timesteps that each spacing visits, and those of the model's plan for this number of steps."""

    def draw():
        from ddpm_hf.figures.scheduler_figures import timesteps

        return timesteps(model, steps)

    _save_new_figure(draw, output, "timesteps.png")


def _save_new_figure(draw, output, default):
    """Writes the figure that `draw` returns into a new file, `output` or else one with the name `default`."""
    output = free_output(output, default, FIGURES)
    figure = draw()
    from ddpm_hf.files import written_whole
    from ddpm_hf.visualization.style import save_figure

    with written_whole(output) as aside:
        save_figure(figure, aside)
    typer.echo(str(output))
