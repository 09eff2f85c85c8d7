"""Numbers of processes that no machine of this size can use, refused before the work."""

import os

from ddpm_hf.errors import InputError

# More processes than this for each core only wait for each other, unless they wait for a slow disk or network.
WORKERS_PER_CORE = 4
WORKERS_ANYWHERE = 64


def check_workers(wanted):
    """Raises InputError for more processes that decode than can be of use here."""
    cores = usable_cores()
    most = max(WORKERS_ANYWHERE, WORKERS_PER_CORE * cores)
    if wanted is not None and wanted > most:
        raise InputError(
            f"dataloader_workers={wanted} would start as many processes on {cores} core(s): give at most {most}, or leave it "
            "out for one a core."
        )


def usable_cores():
    """Those that this process may run on, which a queue or a container makes fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
