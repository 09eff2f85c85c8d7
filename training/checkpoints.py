"""Checkpoints: everything a run needs to go on, in folders that are there as a whole or not at all."""

import os
import re
import shutil
from pathlib import Path

FOLDER = "checkpoints"
NAME = re.compile(r"step-(\d+)")


def list_checkpoints(output_dir):
    """Whole checkpoints by step, oldest first."""
    folder = Path(output_dir) / FOLDER
    found = [(NAME.fullmatch(path.name), path) for path in folder.glob("step-*")]
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def save_checkpoint(accelerator, output_dir, step, limit):
    """Saves what `accelerator` has prepared and registered; every process must call this.

    `limit` is the number of checkpoints that are left, this one included.
    """
    folder = Path(output_dir) / FOLDER
    final, aside = folder / f"step-{step:06d}", folder / f"step-{step:06d}.tmp"
    if accelerator.is_main_process:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    accelerator.wait_for_everyone()
    # On every process: each has a random state of its own, and a sharded model a part of the weights.
    accelerator.save_state(str(aside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        os.replace(aside, final)
        for old in list(list_checkpoints(output_dir).values())[:-limit]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_newest_checkpoint(accelerator, output_dir):
    """Restores the newest checkpoint into what `accelerator` has prepared and registered; False if there is none."""
    checkpoints = list_checkpoints(output_dir)
    if not checkpoints:
        return False
    accelerator.load_state(str(checkpoints[max(checkpoints)]))
    return True
