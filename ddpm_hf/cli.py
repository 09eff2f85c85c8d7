"""The command `ddpm-hf`: each verb, in `commands`, is a thin layer on a function of the package."""

import sys
from itertools import pairwise

import typer

from ddpm_hf.commands import measuring, sampling, sharing, show, training
from ddpm_hf.errors import refuse_empty

app = typer.Typer(
    help="Train, sample and share denoising diffusion models.", no_args_is_help=True, add_completion=False
)
for verbs in (training, sampling, measuring, sharing):
    app.add_typer(verbs.app)
app.add_typer(show.app, name="show")


def main():
    try:
        refuse_empty_values(sys.argv[1:])
        app()
    except (ValueError, OSError) as error:  # the user's to mend, and the message says how
        sys.exit(f"ddpm-hf: error: {error}")


def refuse_empty_values(arguments):
    """An empty value is a shell variable that is not set: no verb has a use for one, and some would take it for a default."""
    for name, value in pairwise(["", *arguments]):
        if not value.strip():
            refuse_empty(name if name.startswith("--") else "an argument", value)
        if value.startswith("--") and value.endswith("="):
            refuse_empty(value.removesuffix("="), "")


if __name__ == "__main__":
    main()
