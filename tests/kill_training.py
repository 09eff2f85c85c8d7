"""Kills a small training run at many moments and makes the table of docs/training.md.

python tests/kill_training.py              # 200 kills, and the table; the exit code tells whether all is well
python tests/kill_training.py NUMBER SEED  # another number of kills, at other moments

Modules are imported once: each run is a child of this process, and gets SIGKILL or a limit on file sizes that kills it
while it writes a file.
"""

import contextlib
import gc
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from tqdm import tqdm
from tqdm.auto import tqdm as auto_tqdm

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.interruptions import clear_exit
from ddpm_hf.reports.loss_curve import read_rows
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.checkpoint_manifest import find_damage
from ddpm_hf.training.checkpoints import list_checkpoints
from ddpm_hf.training.train import train

STEPS = 4
# These say how fast the machine was and what it had in memory.
MEASURED = ("images_per_second", "peak_memory_gb")
CHANGING_FILES = ("loss.csv", "training_args.yaml")


def make_start(folder):
    """Images, and a network that trains in milliseconds."""
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # it would be a thread
    for bar in (tqdm, auto_tqdm):
        bar.set_lock(threading.RLock())  # by default one of all processes, which a child that is killed may hold
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)
    (folder / "images").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / "images" / f"{i:02d}.png")
    unet = DDPMUNet2DModel(
        **{"sample_size": 8, "in_channels": 1, "block_out_channels": (8, 16), "layers_per_block": 1, "dropout": 0.3},
        **{"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "norm_num_groups": 4},
    )
    GaussianDiffusionPipeline(unet=unet, scheduler=GaussianDiffusionScheduler()).save_pretrained(folder / "start")
    return {
        **{"dataset": str(folder / "images"), "init_from": str(folder / "start"), "batch_size": 5, "log_every": 1},
        **{"checkpoint_every": 1, "sample_every": 2, "num_samples": 2, "sample_steps": 2, "learning_rate": 1e-2},
        **{"random_flip": True, "timestep_sampling": "low_discrepancy"},
    }


# Running and killing -------------------------------------------------------------------------------------------------


def start_run(options, log, before=lambda: None):
    """A training in a child; returns its process id."""

    def work():
        before()
        with clear_exit("train"):
            train(TrainingArguments(**options))

    return start_child(work, log)


def start_child(work, log):
    """`work()` in a child, which exits with 0 after it; returns its process id. What it says is added to a file."""
    child = os.fork()
    if child:
        return child
    gc.freeze()  # what the parent has is not searched for garbage, which would copy its memory
    code = 1
    with open(log, "a", encoding="utf-8") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        sys.stdout = sys.stderr = said
        try:
            work()
            code = 0
        except SystemExit as end:
            print(end.code, file=sys.stderr, flush=True)
            code = end.code if isinstance(end.code, int) else 1
        finally:
            os._exit(code)


def wait_for(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def on_file_operations(folder, act):
    """Calls act(number, what) before each operation of Python on a file of `folder`."""
    count, acting = 0, False
    changing = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "open", "shutil.rmtree"}

    def hook(event, arguments):
        nonlocal count, acting
        # Operations of `act` on files are not counted.
        if event in changing and not acting and str(arguments[0]).startswith(str(folder)):
            count, acting = count + 1, True
            try:
                act(count, f"{event} {Path(str(arguments[0])).relative_to(folder)}")
            finally:
                acting = False

    sys.addaudithook(hook)


def list_file_operations(options):
    """The name of each operation of a whole run."""
    listed = Path(options["output_dir"]).with_suffix(".operations")
    descriptor = os.open(listed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def note(number, what):
        os.write(descriptor, f"{what}\n".encode())

    assert wait_for(start_run(options, os.devnull, lambda: on_file_operations(options["output_dir"], note))) == 0
    return listed.read_text(encoding="utf-8").splitlines()


def kill_before_operation(number):
    return signal_before_operation(number, signal.SIGKILL)


def pause_before_operation(number):
    """The process stops there until it gets SIGCONT."""
    return signal_before_operation(number, signal.SIGSTOP)


def signal_before_operation(number, signum):
    return lambda options: on_file_operations(
        options["output_dir"], lambda count, what: os.kill(os.getpid(), signum) if count == number else None
    )


def kill_in_a_file_after_operation(number, size):
    """From this operation on, the system ends the process if it writes more than `size` bytes to a file."""

    def prepare(options):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, and gets an error instead
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        on_file_operations(options["output_dir"], lambda count, what: count == number and limit_files(size))

    return prepare


def limit_files(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


# One kill ------------------------------------------------------------------------------------------------------------


def kill_once(options, straight, log, prepare=None, seconds=None):
    """Kills a run, looks at what it left, and runs it again.

    Returns:
        What it left, in words, and what is wrong, a list; None and an empty one if the run ended before it was killed.
    """
    folder = Path(options["output_dir"])
    child = start_run(options, log, (lambda: prepare(options)) if prepare else lambda: None)
    if seconds is not None:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    code = wait_for(child)
    if code == 0:
        return None, []
    found, problems = look_at(folder)
    if code not in (-signal.SIGKILL, -signal.SIGXFSZ):
        problems.append(f"ended with {code} instead of being killed")
    if wait_for(start_run(options, log)) != 0:
        problems.append("was not resumed")
    elif different := differences(folder, straight):
        problems.append(f"differs from the uninterrupted run in {', '.join(different)}")
    return found, problems


def look_at(folder):
    """The files that a killed run left, in words, and those that are damaged."""
    # A whole checkpoint is never damaged, and a pipeline that is there loads.
    problems = [
        f"{path.name}: {damage}" for path in list_checkpoints(folder).values() if (damage := find_damage(path))
    ]
    if (folder / "model_index.json").exists() and not loads(folder):
        problems.append("the pipeline does not load")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.tmp*"))
    if any(name.startswith("checkpoints/step") for name in names):
        found = "a checkpoint half written, or half removed"
    elif any(name.startswith("new.tmp") for name in names):
        found = "the pipeline half written or half moved in"
    elif names:
        found = "another file half written (options, log, samples, curve, card)"
    else:
        found = "nothing half written"
    newest = max(list_checkpoints(folder), default=None)
    return f"{found}; {'no checkpoint' if newest is None else 'whole checkpoints'}", problems


def loads(folder):
    """Whether the pipeline is whole, in a process of its own."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            pipeline = DiffusionPipeline.from_pretrained(folder)
            code = 0 if all(p.isfinite().all() for p in pipeline.unet.parameters()) else 1
        finally:
            os._exit(code)
    return wait_for(child) == 0


def contents(folder):
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name not in CHANGING_FILES
    }
    rows = [[value for name, value in row.items() if name not in MEASURED] for row in read_rows(folder / "loss.csv")]
    return files | {"loss.csv": repr(rows)}


def differences(folder, straight):
    """The files that are not the same, byte for byte, in both runs."""
    one, other = contents(folder), contents(straight)
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


# All -----------------------------------------------------------------------------------------------------------------

KINDS = ("before an operation on a file", "in the middle of writing a file", "at a random time")


class Scenario:
    """A run to kill: its options, the folder that it begins with, and the same run uninterrupted.

    Args:
        started (`dict`, *optional*): options of a run that is finished in the folder before this one begins.
    """

    def __init__(self, name, options, folder, started=None):
        self.name, self.options, self.log, self.before = name, options, folder / "log", folder / f"{name}, before"
        self.folder, self.straight = Path(options["output_dir"]), folder / f"{name}, uninterrupted"
        if started is not None:
            assert wait_for(start_run(started | {"output_dir": str(self.before)}, self.log)) == 0
        self.begin_anew()
        self.operations = len(list_file_operations(options))
        self.begin_anew()
        began = time.monotonic()
        assert wait_for(start_run(options, self.log)) == 0, self.log.read_text(encoding="utf-8")
        self.seconds = time.monotonic() - began
        shutil.move(self.folder, self.straight)
        self.largest_file = max(path.stat().st_size for path in self.straight.rglob("*") if path.is_file())

    def begin_anew(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.before.exists():
            shutil.copytree(self.before, self.folder)

    def kill_once(self, kind, random):
        """Kills the run at a random moment of this kind, and returns the result of the function `kill_once`."""
        self.begin_anew()
        operation = random.integers(1, self.operations + 1)
        if kind == KINDS[0]:
            how = {"prepare": kill_before_operation(operation)}
        elif kind == KINDS[1]:
            size = int(np.exp(random.uniform(np.log(30), np.log(self.largest_file))))
            how = {"prepare": kill_in_a_file_after_operation(operation, size)}
        else:
            how = {"seconds": random.uniform(0, 0.8 * self.seconds)}  # most of it, as no two take equally long
        return kill_once(self.options, self.straight, self.log, **how)


def make_scenarios(folder):
    base = make_start(folder) | {"output_dir": str(folder / "run"), "max_train_steps": STEPS}
    # The children inherit the imports and caches of this process.
    train(TrainingArguments(**base | {"output_dir": str(folder / "first")}))
    assert threading.active_count() == 1, "a thread would be missing in the children"
    return [
        Scenario("a new run", base, folder),
        Scenario("a finished run that goes on", base, folder, started=base | {"max_train_steps": STEPS // 2}),
        Scenario("a run on streaming data", base | {"streaming": True}, folder),
    ]


def main(number=200, seed=0):
    with tempfile.TemporaryDirectory() as temporary:
        scenarios = make_scenarios(Path(temporary))
        return kill_in_turns(scenarios, KINDS, number, np.random.default_rng(seed))


def kill_in_turns(scenarios, kinds, number, random, headings=("the run", "what the kill left", "resumed and equal")):
    """Kills each scenario in turn, in each way in turn, and prints the table and what went wrong; 1 if anything did."""
    times, failures = Counter(), []
    for i in tqdm(range(number), unit="kill"):
        scenario, kind = scenarios[i % len(scenarios)], kinds[i // len(scenarios) % len(kinds)]
        found = None
        while found is None:
            found, problems = scenario.kill_once(kind, random)
        times[scenario.name, found, kind] += 1
        times[scenario.name, found, "resumed"] += not problems
        if problems:
            failures.append(f"{scenario.name}, {kind}: {found}; {'; '.join(problems)}")
    print(markdown(times, kinds, headings))
    for failure in failures:
        print(failure)
    return 1 if failures else 0


def markdown(times, kinds, headings):
    """A table of how often each run was killed in each way: `times` by run, what was left, and kind or "resumed"."""
    lines = [f"| {' | '.join([*headings[:2], *kinds, headings[2]])} |", "|---" * (len(kinds) + 3) + "|"]
    for name, found in sorted({key[:2] for key in times}):
        counts = [times[name, found, kind] for kind in kinds]
        lines.append(
            f"| {name} | {found} | {' | '.join(map(str, counts))} | {times[name, found, 'resumed']} of {sum(counts)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
