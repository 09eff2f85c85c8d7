"""Finds the largest batch that fits into memory, without changing the update."""

import dataclasses

import torch
from accelerate.utils import find_executable_batch_size

from ddpm_hf.errors import InputError
from ddpm_hf.training.trial import check_can_be_tried, example_batch, trial_of_diffusion


def with_fitting_batch(args, accelerator, unet, scheduler, source):
    """`args` with a batch size whose update fits into memory, and correspondingly more accumulation steps.

    It must fit on the devices of all processes. The trial runs without DDP, which keeps another copy of the gradients.

    Raises:
        InputError: if a single image does not fit, or for engines that shard the network.
    """
    check_can_be_tried(accelerator, "find_batch_size", "leave it out, and give --batch_size")

    def try_update(batch_size):
        # One batch is enough, because accumulation takes no more memory.
        trial_args = dataclasses.replace(args, gradient_accumulation_steps=1, compile="no")
        trial_of_diffusion(trial_args, accelerator, unet, scheduler).update(example_batch(source.largest, batch_size))

    devices = [] if accelerator.device.type == "cpu" else [accelerator.device]
    with torch.random.fork_rng(devices):
        fitting = largest_batch_size(try_update, args.batch_size)
    fitting = accelerator.gather(torch.tensor([fitting], device=accelerator.device)).min().item()
    if fitting == 0:
        raise InputError(
            f"Not even one image at a time fits into the memory of {accelerator.device}: choose a smaller --unet or "
            "--resolution, or add --gradient_checkpointing."
        )
    times = args.batch_size // fitting
    fitted = dataclasses.replace(
        args, batch_size=fitting, gradient_accumulation_steps=args.gradient_accumulation_steps * times
    )
    accelerator.gradient_accumulation_steps = fitted.gradient_accumulation_steps
    accelerator.print(
        f"batch_size {fitting} fits into memory"
        + (
            f" ({args.batch_size} does not): {times} times as many accumulation steps keep the update"
            if times > 1
            else ""
        )
    )
    return fitted


def largest_batch_size(try_update, batch_size):
    """The largest batch size that fits: `batch_size` or a divisor of at most half of it; 0 if none fits.

    A divisor makes the requested update from a whole number of batches.
    """
    sizes = [batch_size]
    while sizes[-1] > 1:
        sizes.append(max(size for size in range(1, sizes[-1] // 2 + 1) if sizes[-1] % size == 0))
    smaller = iter([*sizes[1:], 0])

    @find_executable_batch_size(starting_batch_size=batch_size, reduce_batch_size_fn=lambda: next(smaller))
    def search(size):
        try_update(size)
        return size

    try:
        return search()
    except RuntimeError as error:
        if "No executable batch size found" in str(error):
            return 0
        raise
