"""A lock for one run at a time in a folder, which the system releases however the process ends."""

import json
import os
import socket
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from ddpm_hf.distributed import together
from ddpm_hf.errors import InputError
from ddpm_hf.files import cannot_write

LOCK_FILE = "run.lock"
# Workers of a killed run hold its lock until they notice, within five seconds.
SECONDS_TO_WAIT = 10


@contextmanager
def alone_in(output_dir, accelerator):
    """A context in which this run is the only one in its folder; every process must call this.

    `run.lock` names host and process. The system holds the lock and releases it with the process, so a killed run
    blocks nobody.

    Raises:
        InputError: in all processes, with host and process of the other run, if one is in the folder.
    """
    folder = Path(output_dir)
    is_new = not folder.exists()
    lock = together(accelerator, partial(_lock, folder / LOCK_FILE), main_process_only=True)
    try:
        yield
    finally:
        if lock is not None:
            # Removed while held: a process that has already opened the file notices this and creates another.
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
            if is_new and not any(folder.iterdir()):  # the run was refused
                folder.rmdir()


def _lock(path):
    lock = FileLock(path, timeout=SECONDS_TO_WAIT)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        holder = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        path.write_text(json.dumps(holder) + "\n", encoding="utf-8")
    except Timeout as error:
        raise InputError(
            f"output_dir={str(path.parent)!r} is being trained in by {_holder(path)}: wait until it has ended, stop "
            "it (it saves a checkpoint on SIGTERM), or choose another output_dir."
        ) from error
    except OSError as error:
        raise InputError(cannot_write(path, error)) from error
    return lock


def _holder(path):
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['process']} on host {holder['host']}, since {holder['since']}"
    except (OSError, ValueError):  # the other run has just ended, or has not written yet
        return "another process"
