"""Checks that a network has the same gradients compiled as it has without."""

from dataclasses import replace

import torch
from accelerate.utils import DistributedType

from ddpm_hf.errors import InputError
from ddpm_hf.training.model_setup import is_chosen
from ddpm_hf.training.trial import example_batch, trial_of_diffusion

# Norm of the difference, relative to that of the gradient: rounding is about 1e-6 in float32, 1e-3 in TF32, and some
# hundredths in 16 bits. A gradient that gets lost on the way is near 1.
LARGEST_DIFFERENCE = {"no": 0.01}
LARGEST_IN_16_BITS = 0.1


def check_compiled_gradients(args, accelerator, unet, scheduler, source):
    """Compares the gradients of one batch, compiled and not; nothing is done where nothing is compiled.

    torch 2.13 loses the gradient through an upsampling on CPUs, because the scattered sums are written after they are
    read, and the loss still falls. Networks that an engine shards are not tried, as they may not fit on one device.

    Args:
        args (`TrainingArguments`), accelerator (`accelerate.Accelerator`): of the run.
        unet, scheduler: network, which is copied, and scheduler of the run.
        source: the opened data, which give the form of a batch.

    Raises:
        InputError: if they differ by more than rounding.
    """
    is_sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if is_sharded or not is_chosen("compile", args.compile, accelerator.device):
        return
    with torch.random.fork_rng():
        batch = example_batch(source, args.batch_size)
        plain, compiled = (
            _gradients(trial_of_diffusion(replace(args, compile=choice), accelerator, unet, scheduler), batch)
            for choice in ("no", args.compile)
        )
    difference = ((compiled - plain).norm() / plain.norm()).item()
    if not difference <= LARGEST_DIFFERENCE.get(args.mixed_precision, LARGEST_IN_16_BITS):
        raise InputError(
            f"compile={args.compile!r} gives other gradients than without it: torch {torch.__version__} on "
            f"{accelerator.device} makes an error of {difference:.0%} in this network, which would not learn as it "
            "should. Leave it out, or try another version of torch."
        )


def _gradients(trial, batch):
    """The gradients of all weights as one vector, with the same noise each time and without dropout."""
    trial.model.eval()  # compiled dropout draws other numbers
    torch.manual_seed(0)
    trial.loss(batch).backward()
    return torch.cat([p.grad.flatten().double() for p in trial.model.parameters() if p.grad is not None])
