"""Options that were left out and that the run in the output folder already has."""

from dataclasses import replace

from ddpm_hf.reports.report_files import TRAINING_OPTIONS
from ddpm_hf.training.arguments import WITH_NAMED_NETWORK
from ddpm_hf.training.run_folder import holds_updates
from ddpm_hf.training.run_length import updates_in

RATE = "updates_per_minute"


def with_earlier_options(args):
    """The options, and where some were left out those of the run in the output folder, so that it goes on as it began.

    `minutes` means as many updates as it did when the run began.
    """
    if not holds_updates(args):
        return args
    args = with_earlier_precision(args)
    stored = TRAINING_OPTIONS.read(args.output_dir)
    chosen = () if args.unet is not None or args.init_from is not None else ("unet", "resolution", *WITH_NAMED_NETWORK)
    names = [name for name in (*chosen, *args.intervals_to_fill()) if getattr(args, name) is None]
    if args.has_no_length:
        names += ["max_train_steps", "num_epochs"]
    changes = {name: stored.get(name) for name in names}
    rate = updates_per_minute(args.output_dir)
    if args.minutes is not None and rate is not None:
        changes |= {"minutes": None, "max_train_steps": updates_in(args.minutes, rate)}
    return replace(args, **changes)


def with_earlier_precision(args):
    """The options, and where the precision is to be measured that of the run in the output folder, if there is one."""
    if args.mixed_precision != "auto" or not holds_updates(args):
        return args
    return replace(args, mixed_precision=TRAINING_OPTIONS.read(args.output_dir).get("mixed_precision", "no"))


def updates_per_minute(output_dir):
    """The measured speed of the run in a folder; None if it was not measured, or there is no run."""
    return TRAINING_OPTIONS.read(output_dir).get("environment", {}).get(RATE)
