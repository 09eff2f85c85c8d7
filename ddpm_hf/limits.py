"""Estimates of time and memory before work begins, and refusals of absurd amounts."""

import time
from contextlib import contextmanager
from datetime import timedelta

import psutil
from accelerate.utils.memory import should_reduce_batch_size

from ddpm_hf.errors import InputError

LONGEST = timedelta(days=365)


def seconds_of(call):
    """The seconds that `call()` takes, measured after a warm-up call. It must wait for the device."""
    for _ in range(2):
        started = time.perf_counter()
        call()
    return time.perf_counter() - started


def expected_duration(seconds, advice):
    """The seconds as a `timedelta`, to be shown as h:mm:ss.

    Raises:
        InputError: for more than a year; `advice` says which numbers to lower.
    """
    if seconds > LONGEST.total_seconds():
        years = seconds / LONGEST.total_seconds()
        raise InputError(f"This would take about {years:.3g} years, and at most one is allowed: {advice}.")
    return timedelta(seconds=round(seconds))


def check_fits_memory(what, num_bytes, advice):
    """Raises InputError if something takes more than all the memory of this machine.

    Args:
        what (`str`): subject and verb, such as "a batch takes".
        advice (`str`): what to do instead.
    """
    memory = psutil.virtual_memory().total
    if num_bytes > memory:
        raise InputError(
            f"{what} {num_bytes / 2**30:,.0f} GiB of memory, and this machine has {memory / 2**30:,.0f} GiB: {advice}."
        )


@contextmanager
def fitting_into_memory(advice):
    """A context that raises InputError, with `advice`, if a device runs out of memory."""
    try:
        yield
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        raise InputError(f"The memory of the device does not suffice: {advice}.") from error
