"""The verbs that train: `train`, `train_classifier`, `train_autoencoder`, `ema`."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from ddpm_hf.command_line import PROGRAM, Verbs
from ddpm_hf.commands.options import ModelVerb

app = Verbs(ModelVerb)


# Everything after the name of a training is for its own parser, which knows the options of its dataclass.
PARSED_LATER = {
    "cls": TyperCommand,
    "add_help_option": False,
    "context_settings": {"ignore_unknown_options": True, "allow_extra_args": True},
}


@app.command(help="Train a model on images or points; `ddpm-hf train --help` lists the options.", **PARSED_LATER)
def train(context: typer.Context):
    from ddpm_hf.training.arguments import TrainingArguments

    run_training(context, TrainingArguments)


@app.command(
    "train_classifier",
    help="Train a classifier that steers a model to classes; `ddpm-hf train_classifier --help` lists the options.",
    **PARSED_LATER,
)
def train_classifier(context: typer.Context):
    from ddpm_hf.training.classifier_arguments import ClassifierArguments

    run_training(context, ClassifierArguments)


@app.command(
    "train_autoencoder",
    help="Train an autoencoder, in whose latents `train --vae` trains; `ddpm-hf train_autoencoder --help` lists the options.",
    **PARSED_LATER,
)
def train_autoencoder(context: typer.Context):
    from ddpm_hf.training.autoencoder_arguments import AutoencoderArguments

    run_training(context, AutoencoderArguments)


def run_training(context, arguments):
    """Runs the program of a verb; its module, which imports torch, is imported once the options are right.

    Args:
        context: the verb, by whose name the module is called, and what stands behind it.
        arguments: the dataclass of the options.
    """
    from ddpm_hf.training.argument_parsing import parse_arguments

    verb = context.info_name
    prog = f"{PROGRAM} {verb}"
    args = parse_arguments(context.args, arguments, prog=prog)
    import_module(f"ddpm_hf.training.{verb}").run_program(args, prog)


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
