"""Stop signals: recorded on arrival, agreed on by all processes, and obeyed between two updates."""

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager

import torch
from accelerate.utils.memory import should_reduce_batch_size

from ddpm_hf.distributed import LONGEST_WAIT
from ddpm_hf.errors import InputError

# Sent by the keyboard, by job schedulers, and by Slurm's `--signal=USR1@SECONDS`.
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
# One Ctrl-C reaches a process twice: from the terminal, and from the launcher that passes it on.
SAME_REQUEST_SECONDS = 2.0


class Interrupted(KeyboardInterrupt):
    """A signal has stopped the run; the message says how to continue.

    `exit_code` is 128 + the signal, as in shells; 0 would tell a job scheduler or `&&` that the run is complete.
    """

    def __init__(self, signum, message):
        super().__init__(message)
        self.exit_code = 128 + signum


class StopRequest:
    """Records whether a process of the run was asked to stop."""

    def __init__(self, num_processes=1):
        self.signum, self.time = 0, None
        # Over the hosts: a collective of the devices would wait for their queued work.
        self.group = None
        if num_processes > 1:
            self.group = torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)

    @contextmanager
    def listening(self):
        """A context that records signals. A second signal, later than `SAME_REQUEST_SECONDS`, quits at once."""
        with handled_by(self._note):
            yield

    def _note(self, signum, frame):
        if not self.signum:
            self.signum, self.time = signum, time.monotonic()
        elif time.monotonic() - self.time > SAME_REQUEST_SECONDS:
            quit_by(signum)

    def agreed(self):
        """The signal that any process has recorded, or 0; every process must call this and gets the same answer."""
        if self.group is None:
            return self.signum
        signum = torch.tensor(self.signum)
        torch.distributed.all_reduce(signum, torch.distributed.ReduceOp.MAX, self.group)
        return signum.item()


@contextmanager
def raising_interrupted(message):
    """A context in which a signal raises `Interrupted` with `message()` at once; a second signal quits."""
    first = None

    def handle(signum, frame):
        nonlocal first
        if first is None:
            first = time.monotonic()
            raise Interrupted(signum, message(signum))
        if time.monotonic() - first > SAME_REQUEST_SECONDS:
            quit_by(signum)

    with handled_by(handle):
        yield


@contextmanager
def clear_exit(prog, how=""):
    """A context for programs: errors become one sentence, and the exit code says how the program ended.

    Args:
        prog (`str`): the name of the program.
        how (`str`): what the sentence about a full memory adds to a smaller --batch_size.
    """
    try:
        yield
    except InputError as error:
        sys.exit(f"{prog}: error: {error}")
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        first = str(error).strip().splitlines()[0]
        sys.exit(
            f"{prog}: error: The memory is full ({first}): choose a smaller --batch_size{how}, a smaller network, or "
            "smaller images."
        )
    except Interrupted as interrupted:
        if os.environ.get("RANK", "0") == "0":  # one process reports for all
            print(f"{prog}: {interrupted}", file=sys.stderr)
        sys.exit(interrupted.exit_code)


@contextmanager
def handled_by(handler):
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return
    before = {signum: signal.signal(signum, handler) for signum in STOP_SIGNALS}
    try:
        yield
    finally:
        for signum, former in before.items():
            signal.signal(signum, former)


def quit_by(signum):
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


def ignore_stop_signals(worker):
    """Makes workers ignore stop signals, which job schedulers send to all processes; the trainer ends them."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
