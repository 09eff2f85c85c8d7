"""A lock for one command at a time in a folder, which the system releases however the process ends."""

import json
import os
import socket
import time
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ddpm_hf.errors import InputError
from ddpm_hf.files import cannot_write_to, made_if_absent

LOCK_FILE = "run.lock"
# Workers of a killed run hold its lock until they notice, within five seconds.
SECONDS_TO_WAIT = 10


@contextmanager
def alone_in(folder):
    """A context in which this process is the only one that writes its results into a folder.

    `run.lock` names host and process. The system holds the lock and releases it with the process, so a killed command
    blocks nobody. A folder that is made for it and stays empty is removed.

    Raises:
        InputError: with host and process of the other command, if one is in the folder.
    """
    with made_if_absent(folder):
        lock = _lock(Path(folder) / LOCK_FILE)
        try:
            yield
        finally:
            # Removed while held: a process that has already opened the file notices this and creates another.
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


def _lock(path):
    lock = FileLock(path, timeout=SECONDS_TO_WAIT)
    try:
        lock.acquire()
        holder = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        path.write_text(json.dumps(holder) + "\n", encoding="utf-8")
    except Timeout as error:
        raise InputError(
            f"{path.parent} is in use by {_holder(path)}: wait until it has ended, stop it (training saves a "
            "checkpoint on SIGTERM), or choose another folder."
        ) from error
    except OSError as error:
        raise InputError(cannot_write_to(path.parent, error)) from error
    return lock


def _holder(path):
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['process']} on host {holder['host']}, since {holder['since']}"
    except (OSError, ValueError):  # the other command has just ended, or has not written yet
        return "another process"
