"""The length of a training by time: how many updates fill some minutes, measured once and kept with the run."""

import statistics
import time
from dataclasses import replace

import torch

from ddpm_hf.training.trial import check_can_be_tried, example_batch, trial_of_diffusion

DEFAULT_MINUTES = 30.0
# Updates over which the learning rate rises, unless a tenth of the run is less.
WARMUP_UPDATES = 100
# The rest is for samples, checkpoints and what comes after the last update.
SHARE_OF_UPDATES = 0.9
# Samples and checkpoints of a run whose length is a time, at most so many in all.
GRIDS, CHECKPOINTS = 5, 10
# Calls of the network that take as long as an update of as many images: forward, and backward twice as long.
CALLS_PER_UPDATE = 3
TIMED_SECONDS = 3.0


def with_length(args, updates_per_minute):
    """The options with a number of updates in place of `minutes`, and with the intervals that follow from it."""
    updates = updates_in(args.minutes or DEFAULT_MINUTES, updates_per_minute)
    intervals = {"sample_every": _sample_every(args, updates), "checkpoint_every": max(1, updates // CHECKPOINTS)}
    left_out = {name: intervals[name] for name in args.intervals_to_fill() if getattr(args, name) is None}
    return replace(args, minutes=None, max_train_steps=updates, **left_out)


def _sample_every(args, updates):
    """Updates between grids that take no more time than is left for them; 0 for one at the end only."""
    images_per_update = args.batch_size * args.gradient_accumulation_steps
    updates_per_grid = args.num_samples * args.sample_steps / (CALLS_PER_UPDATE * images_per_update)
    grids = min(GRIDS, int((1 - SHARE_OF_UPDATES) * updates / updates_per_grid))
    return updates // grids if grids > 1 else 0


def with_warmup(args, total_steps):
    """The options with a warm-up that suits the length, if it was left out."""
    if args.lr_warmup_steps is not None:
        return args
    is_flat = args.lr_scheduler == "constant"
    return replace(args, lr_warmup_steps=0 if is_flat else min(WARMUP_UPDATES, total_steps // 10))


def updates_in(minutes, updates_per_minute):
    """The number of updates in that time."""
    return max(1, round(minutes * updates_per_minute))


def measure_updates_per_minute(args, accelerator, unet, scheduler, source):
    """Updates per minute of the slowest process, samples and checkpoints included, rounded to three digits.

    It trains a copy of `unet` for a few updates; the random state stays.

    Raises:
        InputError: for engines that shard the network.
    """
    check_can_be_tried(accelerator, "A length by time", "give --max_train_steps or --num_epochs")
    devices = [] if accelerator.device.type == "cpu" else [accelerator.device]
    with torch.random.fork_rng(devices):
        trial = trial_of_diffusion(args, accelerator, unet, scheduler)
        seconds = seconds_per_update(trial, example_batch(source, args.batch_size))
    slowest = accelerator.gather(torch.tensor([seconds], device=accelerator.device)).max().item()
    return float(f"{SHARE_OF_UPDATES * 60 / slowest:.3g}")


def seconds_per_update(trial, batch):
    """The median over the updates of some seconds, one at least."""
    trial.update(batch)  # the first update is slower
    seconds, begun = [], time.perf_counter()
    while not seconds or time.perf_counter() - begun < TIMED_SECONDS:
        start = time.perf_counter()
        trial.update(batch)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
