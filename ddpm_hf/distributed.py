"""Work shared by processes that `accelerate launch` starts."""

from contextlib import ExitStack, contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object

from ddpm_hf.devices import open_device
from ddpm_hf.errors import InputError

# Processes may wait long for one that works alone (downloads, large data sets, plans, uploads). By default NCCL ends
# the run after 10 minutes, gloo after 30.
LONGEST_WAIT = timedelta(hours=6)


def join_processes(device=None, **options):
    """The [`accelerate.Accelerator`] of all processes that were started together, or of this one alone.

    Without GPUs, accelerate joins processes only if it is told that they compute on CPUs.

    Args:
        device (`str`, *optional*): "cpu" to ignore an accelerator; by default the fastest device.
        options: arguments of [`accelerate.Accelerator`].

    Raises:
        InputError: for a device that this machine does not have.
    """
    open_device(device)
    cpu = device == "cpu" or not torch.accelerator.is_available()
    return Accelerator(cpu=cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)], **options)


def own_part(total, accelerator):
    """The `range` of 0 .. total - 1 for this process; the ranges of all processes are contiguous and in order.

    No process has more than the main one, which shows the progress.
    """
    index, processes = accelerator.process_index, accelerator.num_processes
    return range(-(-total * index // processes), -(-total * (index + 1) // processes))


def gather_parts(part, accelerator):
    """The concatenated lists of all processes, in their order; every process must call this and gets the result."""
    return gather_object(part) if accelerator.num_processes > 1 else part


def together(accelerator, work, errors=InputError, main_process_only=False):
    """The result of `work()` in each process; every process must call this.

    Args:
        errors: exceptions of `work` that are re-raised in all processes; others stay local.
        main_process_only (`bool`): only the main process does the work; the others get None.

    Raises:
        InputError: in all processes if one of `errors` was raised in any, so that no process waits for another.
    """
    result = problem = None
    if accelerator.is_main_process or not main_process_only:
        try:
            result = work()
        except errors as error:
            problem = " ".join(str(error).split())
    problems = [problem for problem in gather_parts([problem], accelerator) if problem is not None]
    accelerator.wait_for_everyone()  # an error may end the program: see `leave_processes`
    if problems:
        raise InputError(problems[0])
    return result


@contextmanager
def main_process_in(context, accelerator):
    """A context that the main process alone enters; every process must call this.

    Raises:
        InputError: in all processes, if entering the context raises it.
    """
    with ExitStack() as stack:
        together(accelerator, lambda: stack.enter_context(context), main_process_only=True)
        yield


def main_process_first(accelerator, work):
    """The result of `work()` in each process; the main process goes first, so that the others find its downloads.

    Raises:
        InputError: in all processes, if `work` raises it in any.
    """
    first = together(accelerator, work, main_process_only=True)
    return together(accelerator, lambda: first if accelerator.is_main_process else work())


def leave_processes(accelerator):
    """Ends the trackers and the group of processes; every process must call this.

    The barrier prevents a deadlock: torch holds the GIL while it waits for the threads of a gloo group, and a thread
    that frees the tensors of the last collective waits for the GIL. A barrier has no tensors.
    """
    accelerator.wait_for_everyone()
    accelerator.end_training()
