"""`mixed_precision="auto"`: float32 or bf16, whichever was measured to train this network faster on this machine."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, is_bf16_available

from ddpm_hf.execution import can_change, gains
from ddpm_hf.execution_cache import remembered_gain
from ddpm_hf.training.run_length import seconds_per_update
from ddpm_hf.training.run_setup import make_accelerator
from ddpm_hf.training.trial import check_can_be_tried, example_batch, trial_of_diffusion, trial_of_task

logger = logging.getLogger(__name__)

AUTO = "auto"
# A smaller gain is not worth the digits, and may be none: whole batches gain less or more than those of a trial.
WORTHWHILE_GAIN = 1.2
# Images of a trial update on a CPU, where more take longer and gain as much; other devices need whole batches.
TRIED_ON_CPU = 8


class Tried(NamedTuple):
    """What is tried in both precisions: a network, its [`Trial`], as a function that makes it, and a batch."""

    network: torch.nn.Module
    make_trial: Callable
    batch: dict


def settle_precision(args, accelerator, make_tried):
    """The options with the precision that was measured to be faster, and an accelerator that has it.

    Every process must call this; the main process decides. It trains copies of the network for a few updates, once for
    each machine, network and batch size; the random state stays. Networks without convolutions stay in float32.

    Args:
        make_tried: a function of the options in float32 that gives a [`Tried`].

    Raises:
        InputError: for engines that shard the network.
    """
    if args.mixed_precision != AUTO:
        return args, accelerator
    check_can_be_tried(accelerator, "mixed_precision='auto'", "name it: bf16, or no")
    args = replace(args, mixed_precision="no")
    tried = make_tried(args)
    if not can_change(tried.network):
        return args, accelerator
    gain, device = None, accelerator.device
    if accelerator.is_main_process:
        gain = _gain_of_bf16(tried, device)
    (gain,) = broadcast_object_list([gain])
    precision, said = precision_for(gain)
    accelerator.print(said)
    if precision == "no":
        return args, accelerator
    args = replace(args, mixed_precision=precision)
    # The processes stay joined, and the new accelerator casts what the network computes.
    AcceleratorState._reset_state()
    return args, make_accelerator(args)


def batch_to_try(args, accelerator, source):
    """The batch of a trial; example data of a source."""
    is_cpu = accelerator.device.type == "cpu"
    return example_batch(source, min(args.batch_size, TRIED_ON_CPU) if is_cpu else args.batch_size)


def tried_diffusion(args, accelerator, source, make_parts):
    """The [`Tried`] of a diffusion model.

    Args:
        make_parts: a function of the options, the accelerator and the source that gives options, network, scheduler.
    """
    args, unet, scheduler = make_parts(args, accelerator, source)
    once = replace(args, gradient_accumulation_steps=1)
    make_trial = partial(trial_of_diffusion, once, accelerator, unet, scheduler)
    return Tried(unet, make_trial, batch_to_try(args, accelerator, source))


def tried_task(args, accelerator, source, make_network, task):
    """The [`Tried`] of a network that is to learn a [`Task`]; `make_network` makes it."""
    with torch.random.fork_rng([]):
        network = make_network()
    once = replace(args, gradient_accumulation_steps=1)
    make_trial = partial(trial_of_task, once, accelerator, network, task)
    return Tried(network, make_trial, batch_to_try(args, accelerator, source))


def precision_for(gain):
    """The precision, and a sentence about it, where bf16 trains `gain` times as fast, or 0 where it cannot."""
    if gain >= WORTHWHILE_GAIN:
        return "bf16", f"Precision: bf16, which trains {gain:.2f} times as fast as float32 here."
    why = f"bf16 trains {gain:.2f} times as fast here" if gain else "bf16 is no faster here"
    return "no", f"Precision: float32, for {why}."


def _gain_of_bf16(tried, device):
    """The updates in bf16 in the time of one in float32; 0 where the device has none, emulates it, or fails in it."""
    # What accelerate refuses is not taken. The answer is not kept, for it is quick, and a busy machine errs in it.
    if not (is_bf16_available(ignore_tpu=True) and gains("bf16", device)):
        return 0.0
    size = len(tried.batch["images"])
    return remembered_gain(tried.network, size, device, lambda: _measured_gain(tried, device))


def _measured_gain(tried, device):
    with torch.random.fork_rng([] if device.type == "cpu" else [device]):
        trial = tried.make_trial()
        single = seconds_per_update(trial, tried.batch)
        trial.autocast = partial(torch.autocast, device.type, torch.bfloat16)
        try:
            return single / seconds_per_update(trial, tried.batch)
        except RuntimeError as error:  # a layer without bf16 on this device, or memory that is full
            logger.warning("bf16 is not taken: a trial in it failed (%s).", str(error).strip().splitlines()[0][:200])
            return 0.0
