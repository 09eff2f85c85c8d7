"""Checks of the number of worker processes against the machine, and of the batch against the data."""

import os

from ddpm_hf.errors import InputError

# More processes per core than this only wait for each other, unless the disk or the network is slow.
WORKERS_PER_CORE = 4
WORKERS_ANYWHERE = 64


def check_workers(wanted):
    """Raises InputError for more decoding processes than this machine can use."""
    cores = usable_cores()
    most = max(WORKERS_ANYWHERE, WORKERS_PER_CORE * cores)
    if wanted is not None and wanted > most:
        raise InputError(
            f"dataloader_workers={wanted} would start as many processes on {cores} core(s): give at most {most}, or "
            "leave it out for one a core."
        )


def check_batch_size(batch_size, num_images):
    """Raises InputError for a batch of more images than there are."""
    if batch_size > num_images:
        raise InputError(f"batch_size={batch_size} is larger than the data set, which has {num_images} images.")


def usable_cores():
    """Number of cores that this process may use; a queue or a container may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
