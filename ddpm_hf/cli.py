"""The command `ddpm-hf`; each of its commands, in `commands`, is a thin layer over a function of the package."""

import sys
from itertools import pairwise

from ddpm_hf.command_line import PROGRAM, Verbs
from ddpm_hf.commands import converting, measuring, sampling, sharing, show, training
from ddpm_hf.environment import check_torchvision, leave_out_notices_of_torchvision
from ddpm_hf.errors import refuse_empty

app = Verbs(
    help="Train, sample and share denoising diffusion models. Options may be written with hyphens or underscores."
)
for verbs in (training, sampling, measuring, converting, sharing):
    app.add_typer(verbs.app)
app.add_typer(show.app, name="show")


def main():
    try:
        refuse_empty_values(sys.argv[1:])
        check_torchvision()
        leave_out_notices_of_torchvision()
        app()
    except (ValueError, OSError) as error:  # the message tells the user what to do
        sys.exit(f"{PROGRAM}: error: {error}")


def refuse_empty_values(arguments):
    """Raises InputError for empty values, as from unset shell variables; some commands would use a default."""
    for name, value in pairwise(["", *arguments]):
        if not value.strip():
            refuse_empty(name if name.startswith("--") else "an argument", value)
        if value.startswith("--") and value.endswith("="):
            refuse_empty(value.removesuffix("="), "")


if __name__ == "__main__":
    main()
