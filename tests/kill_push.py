"""Kills a push at many moments and makes the table of docs/sharing.md.

python tests/kill_push.py              # 40 kills, and the table; the exit code tells whether all is well
python tests/kill_push.py NUMBER SEED  # another number of kills, at other moments

Each push is a child of this process, which is the Hub, and so can kill it at any request.
"""

import contextlib
import os
import shutil
import signal
import sys
import threading
import time

import numpy as np
from hub_server import Fault
from huggingface_hub import close_session, constants
from huggingface_hub.utils import disable_progress_bars
from kill_training import kill_in_turns, start_child, wait_for
from push_faults import FOLDER, HUB, NEW, OLD, PATIENCE
from tqdm import tqdm

from ddpm_hf.hub.push import push_folder

KINDS = ("before the Hub does a request", "after it changed something, before its answer", "at a random time")
CHANGES = ("create_repo", "create_branch", "lfs_upload", "commit")
REPOSITORY = "someone/model"
LOG = FOLDER / "log"
THREADS = threading.active_count()
tqdm.monitor_interval = 0  # it would be a thread
disable_progress_bars()


class Scenario:
    """A push to kill: its options, what the Hub has before it, and what it has after one that nobody kills."""

    def __init__(self, name, options, is_new=False):
        self.name, self.options, self.is_new = name, options, is_new
        self.begin_anew()
        self.push()  # what is imported here, each child has
        close_session()
        self.begin_anew()
        began = time.monotonic()
        assert wait_for(self.start()) == 0, LOG.read_text(encoding="utf-8")
        self.seconds = time.monotonic() - began
        self.requests, self.expected = list(HUB.requests), state_of_the_hub()

    def begin_anew(self):
        shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
        HUB.repositories.clear()
        HUB.large_files.clear()
        HUB.requests[:] = HUB.faults[:] = []
        if not self.is_new:
            HUB.add(REPOSITORY, OLD)
        self.before = state_of_the_hub()

    def push(self):
        push_folder(NEW, REPOSITORY, patience=PATIENCE, **self.options)

    def start(self):
        return start_child(self.push, LOG)

    def kill_once(self, kind, random):
        """Kills a push at a random moment of that kind, looks at what it left, and pushes again.

        Returns:
            What it left, in words, and what is wrong, a list; None and an empty one if the push ended before it was killed.
        """
        self.begin_anew()
        if kind == KINDS[2]:
            child = self.start()
            time.sleep(random.uniform(0, self.seconds))
            kill(child)
        else:
            victim, is_done = [], kind == KINDS[1]
            HUB.faults.append(self.fault(self.choose_request(is_done, random), victim, is_done))
            victim.append(child := self.start())
        if wait_for(child) == 0:
            return None, []
        wait_for_answers()
        HUB.faults.clear()
        found = self.found()
        if wait_for(self.start()) != 0:
            return found, ["the same again failed"]
        wait_for_answers()
        if state_of_the_hub() != self.expected:
            return found, ["the repository is another than that of a push which nobody kills"]
        return found, []

    def choose_request(self, is_change, random):
        """The number of one; of those that change something each kind as often as the others."""
        if not is_change:
            return random.integers(len(self.requests))
        kind = random.choice(sorted({kind for kind in self.requests if kind in CHANGES}))
        return random.choice([number for number, other in enumerate(self.requests) if other == kind])

    def fault(self, number, victim, is_done):
        """Kills the process in the list at that request, which the Hub then does, or does not."""
        kind = self.requests[number]

        def effect():
            while not victim:  # it asks before its parent knows who it is
                time.sleep(0.001)
            kill(victim[0])
            if not is_done:
                raise ConnectionAbortedError

        return Fault(kind, effect, nth=self.requests[: number + 1].count(kind))

    def found(self):
        now = state_of_the_hub()
        if now == self.expected:
            return "the commit was made"
        if HUB.large_files:
            return "weights were sent, no commit"
        return (
            "nothing was changed"
            if now == self.before
            else "the repository or branch was made, and is empty or as before"
        )


def state_of_the_hub():
    """All commits of all branches and pull requests, by a hash of their files and of the commits before them."""
    return {
        name: ({ref: [commit.oid for commit in commits] for ref, commits in there.refs.items()}, there.pull_requests)
        for name, there in HUB.repositories.items()
    }


def kill(child):
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def wait_for_answers():
    """Until the Hub has done all that a process asked of it: its threads end with the connections."""
    until = time.monotonic() + 30
    while threading.active_count() > THREADS:
        assert time.monotonic() < until, threading.enumerate()
        time.sleep(0.001)


def main(number=40, seed=0):
    scenarios = [
        Scenario("a new repository", {}, is_new=True),
        Scenario("a new version", {}),
        Scenario("a new branch", {"revision": "v2"}),
        Scenario("a pull request", {"create_pr": True}),
    ]
    headings = ("the push", "what the kill left", "the same again: the same repository")
    return kill_in_turns(scenarios, KINDS, number, np.random.default_rng(seed), headings)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
