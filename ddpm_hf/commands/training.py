"""The verbs that train: `train`, `train_classifier`, `ema`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


# The options of training are a dataclass, and its parser knows them: everything after `train` goes there.
@app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    help="Train a model on images; `ddpm-hf train --help` lists the options.",
)
def train(context: typer.Context):
    from ddpm_hf.training.train import main as train_main

    train_main(context.args)


# The parser of the training knows the options, as with `train`.
@app.command(
    "train_classifier",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    help="Train a classifier that steers a model to classes; `ddpm-hf train_classifier --help` lists the options.",
)
def train_classifier(context: typer.Context):
    from ddpm_hf.training.train_classifier import main as train_classifier_main

    train_classifier_main(context.args)


@app.command()
def ema(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run that was trained with --ema power.")],
    std: Annotated[float, typer.Option(help="Relative standard deviation of the average: 0.05 is short, 0.15 long.")],
    output: Annotated[Path, typer.Option(help="The new pipeline folder.")],
    step: Annotated[
        int | None, typer.Option(help="The update after which the average is taken; by default the last.")
    ] = None,
):
    """Make a model with another length of the average of its weights, from the snapshots of a run."""
    from ddpm_hf.training.power_ema import save_reconstructed

    share_left = save_reconstructed(run, std, output, step)
    typer.echo(
        f"{output} has the average of std {std:g}; the snapshots make it up but for {share_left:.2%} of its profile."
    )
