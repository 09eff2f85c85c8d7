"""The verbs that put models together and share them: `cascade`, `push`, `export`, `demo`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from ddpm_hf.command_line import Verbs
from ddpm_hf.command_options import offered, with_options
from ddpm_hf.commands.options import ExecutionOptions, Model, ModelOrEmbedded, ModelVerb
from ddpm_hf.data.arguments import option
from ddpm_hf.errors import InputError
from ddpm_hf.places import EMBEDDED_MODEL, check_model_place

app = Verbs(ModelVerb)


@dataclass
class CommitOptions:
    """The options of `push` for the commit."""

    title: ClassVar[str] = "Commit"

    private: bool = option(False, "Create the repository as private.")
    revision: str | None = option(None, "A branch, created from main if it does not exist; by default main.")
    create_pr: bool = option(False, "Offer the commit as a pull request.")
    dry_run: bool = option(
        False, "Say which files would change, with their sizes, and change nothing; needs no token."
    )
    log: bool = option(
        True, "Share the log of the training too: loss.csv, its curve, bits_per_dim.csv.", spelling="--log/--no_log"
    )


@app.command()
def cascade(
    base: Annotated[str, typer.Argument(help="The model of the smallest images: a pipeline folder, or a Hub id.")],
    upscalers: Annotated[list[str], typer.Argument(help="Models trained with --low_resolution, from small to large.")],
    output: Annotated[Path, typer.Option(help="The new pipeline folder.")],
):
    """Put a model and models that enlarge its images together to one that draws large images."""
    for model in (base, *upscalers):
        check_model_place(model)
    from ddpm_hf.hub.cascade import make_cascade

    sides = [stage.samples.sides for stage in make_cascade(base, upscalers, output).stages]
    typer.echo(f"{output}: a cascade of {', '.join('{}x{}'.format(*each) for each in sides)}")


@app.command()
@with_options
def push(
    folder: Annotated[Path, typer.Argument(help="A pipeline folder.")],
    repository: Annotated[str, typer.Argument(help="NAME or OWNER/NAME on the Hub, created if it does not exist.")],
    commit: CommitOptions,
    license: Annotated[
        str | None, typer.Option(help="Licence for the model card, as the Hub spells it: apache-2.0.")
    ] = None,
    evaluation: Annotated[
        list[Path] | None, typer.Option(help="A folder of `compare` or `evaluate` for the card; may be repeated.")
    ] = None,
):
    """Upload a pipeline folder with a model card, in one commit; the same command continues an interrupted upload."""
    from ddpm_hf.hub.push import push_folder

    options = vars(commit) | {"private": commit.private or None}
    pushed = push_folder(folder, repository, **options, license=license, evaluations=evaluation or ())
    typer.echo(str(pushed))
    typer.echo("Nothing was changed (--dry_run)." if commit.dry_run else f"Uploaded: {pushed.url}")


@app.command()
def export(
    model: Model,
    output_dir: Annotated[Path, typer.Option("--output_dir", help="The new folder.")],
    stock: Annotated[
        bool, typer.Option("--stock", help="Write stock classes of diffusers only, without code.")
    ] = False,
):
    """Write a model as a repository, with the code that runs it, or with stock classes only."""
    from ddpm_hf.hub.export import export_self_contained, export_stock

    if not stock:
        export_self_contained(model, output_dir)
    else:
        for loss in export_stock(model, output_dir):
            typer.echo(f"not held by stock classes: {loss}")
    typer.echo(f"The repository is in {output_dir}")


@app.command()
@with_options
def demo(
    model: ModelOrEmbedded = EMBEDDED_MODEL,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port of the page; by default the first free one from 7860 on."),
    ] = None,
    *,
    execution: offered(ExecutionOptions, "device"),
    space: Annotated[
        Path | None, typer.Option(help="Write a folder for a Space of the Hub instead; it must not exist yet.")
    ] = None,
):
    """Serve a page on this machine that draws images, as they form, by any sampler that the model can run."""
    if space is None:
        from ddpm_hf.devices import open_device
        from ddpm_hf.hub.demo import serve

        return serve(model, port, open_device(execution.device))
    from ddpm_hf.hub.space import write_space

    if port is not None:
        raise InputError("--port is of a page on this machine; leave it out with --space.")
    write_space(model, space)
    typer.echo(f"The Space is in {space}; `hf upload OWNER/NAME {space} . --type space` shares it.")
