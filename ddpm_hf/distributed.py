"""The processes that share a piece of work, as `accelerate launch` starts them, and which part of it is whose."""

from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object

from ddpm_hf.devices import open_device
from ddpm_hf.errors import InputError

# What one process does alone, while the others wait, may take long: downloads, a large data set, plans, uploads. By default
# NCCL ends the run after 10 minutes of it, gloo after 30.
LONGEST_WAIT = timedelta(hours=6)


def join_processes(device=None, **options):
    """The [`accelerate.Accelerator`] of all processes that were started together, or of this one alone.

    On a machine without GPUs, accelerate joins processes only if it is told that they compute on CPUs.

    Args:
        device (`str`, *optional*): "cpu" to leave an accelerator alone; the fastest there is by default.
        options: of [`accelerate.Accelerator`].

    Raises:
        InputError: for a device that this machine does not have.
    """
    open_device(device)
    cpu = device == "cpu" or not torch.accelerator.is_available()
    return Accelerator(cpu=cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)], **options)


def own_part(total, accelerator):
    """Which of the places 0 .. total - 1 are for this process, as a `range`: one stretch for each, in their order.

    None has more than the main process, which says how long it takes.
    """
    index, processes = accelerator.process_index, accelerator.num_processes
    return range(-(-total * index // processes), -(-total * (index + 1) // processes))


def gather_parts(part, accelerator):
    """The lists of all processes as one, in their order, for each of them; every process must call this."""
    return gather_object(part) if accelerator.num_processes > 1 else part


def together(accelerator, work, errors=InputError, main_process_only=False):
    """What `work()` returns, in each process; every process must call this.

    Args:
        errors: of `work` that end all processes; any other one is of the process that it comes up in.
        main_process_only (`bool`): the others get None.

    Raises:
        InputError: in all processes, if one of `errors` was raised in any, so that none is left waiting for another.
    """
    result = problem = None
    if accelerator.is_main_process or not main_process_only:
        try:
            result = work()
        except errors as error:
            problem = " ".join(str(error).split())
    problems = [problem for problem in gather_parts([problem], accelerator) if problem is not None]
    accelerator.wait_for_everyone()  # what raises may end the program: see `leave_processes`
    if problems:
        raise InputError(problems[0])
    return result


def main_process_first(accelerator, work):
    """What `work()` returns, in each process; the main one does it before the others, and downloads what they then find.

    Raises:
        InputError: in all processes, if `work` raises it in any.
    """
    first = together(accelerator, work, main_process_only=True)
    return together(accelerator, lambda: first if accelerator.is_main_process else work())


def leave_processes(accelerator):
    """Ends the trackers and the group of processes; every process must call this.

    The barrier is for torch: it waits for the threads of a gloo group with Python's lock in its hands, and a thread that
    is about to free the tensors of the last collective waits for that lock. A barrier has no tensors.
    """
    accelerator.wait_for_everyone()
    accelerator.end_training()
