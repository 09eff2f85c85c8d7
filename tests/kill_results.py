"""Kills `calibrate`, `export` and `evaluate` at many moments and makes the table of docs/evaluation.md.

python tests/kill_results.py              # 40 kills of each, and the table; the exit code tells whether all is well
python tests/kill_results.py NUMBER SEED  # another number of kills, at other moments
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
from diffusers.utils import logging
from kill_training import (
    KINDS,
    kill_before_operation,
    kill_in_a_file_after_operation,
    kill_in_turns,
    make_start,
    on_file_operations,
    start_child,
    wait_for,
)

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.calibration.run import STATE_FILE, calibrate
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.evaluation.run import evaluate_bits_per_dim
from ddpm_hf.files import FOLDER_ASIDE, half_moved_files
from ddpm_hf.folder_lock import LOCK_FILE
from ddpm_hf.hub.export import export_self_contained, export_stock
from ddpm_hf.hub.reading import INDEX_FILE
from ddpm_hf.reports.report_files import BOUND

# The duration of a calibration differs each time.
MEASURED = ("seconds",)


class Scenario:
    """A result to kill the making of: `make(folder)` writes it, the file `last` at its end, and `straight` is the result
    that nobody disturbed."""

    def __init__(self, name, make, last, folder):
        folder.mkdir()
        self.name, self.make, self.last = name, make, last
        self.folder, self.log = folder / "result", folder / "log"
        make(self.folder)  # what is imported and cached here, each child has
        self.begin_anew()
        self.operations = len(self.list_operations())
        self.begin_anew()
        began = time.monotonic()
        assert wait_for(self.start()) == 0, self.log.read_text(encoding="utf-8")
        self.seconds = time.monotonic() - began
        self.straight = contents(self.folder)
        self.largest_file = max(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def begin_anew(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, prepare=lambda options: None):
        """The making of the result in a child; returns its process id."""

        def work():
            prepare({"output_dir": str(self.folder)})
            self.make(self.folder)

        return start_child(work, self.log)

    def list_operations(self):
        """The name of each operation on a file of the folder."""
        listed = self.folder.with_suffix(".operations")

        def note(number, what):
            with open(listed, "a", encoding="utf-8") as file:
                file.write(f"{what}\n")

        listed.unlink(missing_ok=True)
        assert wait_for(self.start(lambda options: on_file_operations(self.folder, note))) == 0, self.log.read_text(
            encoding="utf-8"
        )
        return listed.read_text(encoding="utf-8").splitlines()

    def kill_once(self, kind, random):
        """Kills it at a random moment of that kind, looks at what it left, and gives the same command again.

        Returns:
            What it left, in words, and what is wrong, a list; None and an empty one if it ended before it was killed.
        """
        self.begin_anew()
        operation = random.integers(1, self.operations + 1)
        if kind == KINDS[0]:
            child = self.start(kill_before_operation(operation))
        elif kind == KINDS[1]:
            size = int(np.exp(random.uniform(np.log(30), np.log(self.largest_file))))
            child = self.start(kill_in_a_file_after_operation(operation, size))
        else:
            child = self.start()
            time.sleep(random.uniform(0, self.seconds))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        code = wait_for(child)
        if code == 0:
            return None, []
        problems = [] if code in (-signal.SIGKILL, -signal.SIGXFSZ) else [f"ended with {code}"]
        return self.found(), problems + self.problems_of_another_run()

    def found(self):
        if not self.folder.exists() or {path.name for path in self.folder.iterdir()} <= {LOCK_FILE}:
            return "nothing"
        if self.is_whole():
            return "the whole result"
        if half_moved_files(self.folder):
            return "the result half moved in"
        return "the result half written" if (self.folder / FOLDER_ASIDE).exists() else "the measurement so far"

    def is_whole(self):
        """Whether nothing is left to do: the same command is then refused, as the result is there."""
        is_unfinished = (
            half_moved_files(self.folder)
            or (self.folder / FOLDER_ASIDE).exists()
            or any(self.folder.glob(f"{Path(STATE_FILE).stem}*"))
        )
        return (self.folder / self.last).exists() and not is_unfinished

    def problems_of_another_run(self):
        was_whole = self.is_whole()
        code = wait_for(self.start())
        if (code == 0) == was_whole:
            return [f"the same again ended with {code}"]
        now = contents(self.folder)
        different = sorted(
            name for name in now.keys() | self.straight.keys() if now.get(name) != self.straight.get(name)
        )
        return [f"differs from the result of an undisturbed run in {', '.join(different)}"] if different else []


def contents(folder):
    """{name: bytes} of all files, without what was measured of the machine."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if "calibration.json" in files:
        report = json.loads(files["calibration.json"])
        files["calibration.json"] = json.dumps({k: v for k, v in report.items() if k not in MEASURED}).encode()
    return files


def makers(folder):
    """{verb: how its result is made in a folder, the file that is written last}, of a model that is measured quickly."""
    data = DataArguments(dataset=make_start(folder)["dataset"])
    unet = GaussianDiffusionPipeline.from_pretrained(folder / "start").unet
    model = folder / "model"
    GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler(4, 0.3, 0.95)).save_pretrained(model)
    logging.disable_progress_bar()
    measured = {"data": data, "num_images": 16, "batch_size": 4, "device": "cpu"}
    return {
        "calibrate": (partial(_calibrate, model, **measured, plans=[3]), INDEX_FILE),
        "export": (partial(_export, export_self_contained, model), INDEX_FILE),
        "export --stock": (partial(_export, export_stock, model), INDEX_FILE),
        "evaluate": (partial(_evaluate, model, **measured), BOUND.name),
    }


def _calibrate(model, folder, **options):
    calibrate(str(model), folder, **options)


def _export(export, model, folder):
    export(str(model), folder)


def _evaluate(model, folder, **options):
    evaluate_bits_per_dim(str(model), folder, **options)


def main(number=40, seed=0):
    with tempfile.TemporaryDirectory() as temporary:
        made = makers(Path(temporary))
        scenarios = [Scenario(name, *made[name], Path(temporary) / name) for name in made]
        assert threading.active_count() == 1, "a thread would be missing in the children"
        headings = ("the command", "what the kill left", "the same again: the same files")
        return kill_in_turns(scenarios, KINDS, number * len(scenarios), np.random.default_rng(seed), headings)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
