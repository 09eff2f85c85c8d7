"""The verb that takes in checkpoints of other codebases: `convert`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer

from ddpm_hf.command_line import Verbs
from ddpm_hf.command_options import offered, with_options
from ddpm_hf.commands.options import ExecutionOptions, ModelVerb
from ddpm_hf.data.arguments import DataArguments, option
from ddpm_hf.errors import InputError

app = Verbs(ModelVerb)


@dataclass
class CheckOptions:
    """How `convert` finds out whether a checkpoint was read as it was trained."""

    title: ClassVar[str] = "Check"

    check: bool = option(
        True,
        "Measure the error of the network at half noise, and that of other readings of its options.",
        spelling="--check/--no_check",
    )
    check_images: str | None = option(
        None, "Images like those of its training, as a folder or a name on the Hub; by default samples of its own."
    )
    num_images: int = option(32, "How many images; of samples at most 16.", min=2)
    steps: int = option(25, "Timesteps of sampling, where there are no images.", min=1)

    def __post_init__(self):
        if self.check_images is not None and not self.check:
            raise InputError("--check_images is for the check: leave --no_check out.")


@app.command()
@with_options
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The file: .pt, .pth, .ckpt, .bin or .safetensors.")],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="The new pipeline folder.")],
    options: Annotated[
        list[str] | None,
        typer.Option(
            help="What the weights do not tell: a JSON or YAML file, flags in quotes ('--image_size 64 --num_heads 4'), "
            "or the name of a published checkpoint; may be repeated, and later ones replace earlier ones."
        ),
    ] = None,
    weights: Annotated[
        Literal["ema", "raw"] | None, typer.Option(help="By default averaged weights, where there are some.")
    ] = None,
    *,
    check: CheckOptions,
    execution: offered(ExecutionOptions, "seed"),
):
    """Convert a checkpoint of another codebase, and say whether its options fit it."""
    from ddpm_hf.converters import convert_checkpoint
    from ddpm_hf.converters.self_check import SelfCheck

    typer.echo(f"Reading {checkpoint}.")
    self_check = None
    if check.check:
        data = None if check.check_images is None else DataArguments(dataset=check.check_images)
        self_check = SelfCheck(data, check.num_images, check.steps, execution.seed, typer.echo)
    result = convert_checkpoint(checkpoint, options, output_dir, weights, self_check)
    typer.echo(f"The {type(result).__name__} is in {output_dir}.")
