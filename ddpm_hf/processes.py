"""The processes that share a piece of work, as `accelerate launch` starts them, and which part of it is whose."""

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object


def join_processes(device=None, **options):
    """The [`accelerate.Accelerator`] of all processes that were started together, or of this one alone.

    On a machine without GPUs, accelerate joins processes only if it is told that they compute on CPUs.

    Args:
        device (`str`, *optional*): "cpu" to leave an accelerator alone; the fastest there is by default.
        options: of [`accelerate.Accelerator`].
    """
    return Accelerator(cpu=device == "cpu" or not torch.accelerator.is_available(), **options)


def own_part(total, accelerator):
    """Which of the places 0 .. total - 1 are for this process, as a `range`: one stretch for each, in their order.

    None has more than the main process, which says how long it takes.
    """
    index, processes = accelerator.process_index, accelerator.num_processes
    return range(-(-total * index // processes), -(-total * (index + 1) // processes))


def gather_parts(part, accelerator):
    """The lists of all processes as one, in their order, for each of them; every process must call this."""
    return gather_object(part) if accelerator.num_processes > 1 else part
