"""The command `ddpm-hf`: each verb, in `commands`, is a thin layer on a function of the package."""

import sys

import typer

from ddpm_hf.commands import measuring, sampling, sharing, show, training

app = typer.Typer(
    help="Train, sample and share denoising diffusion models.", no_args_is_help=True, add_completion=False
)
for verbs in (training, sampling, measuring, sharing):
    app.add_typer(verbs.app)
app.add_typer(show.app, name="show")


def main():
    try:
        app()
    except (ValueError, OSError) as error:  # the user's to mend, and the message says how
        sys.exit(f"ddpm-hf: error: {error}")


if __name__ == "__main__":
    main()
