"""Checkpoints hold everything that a run needs to continue, in folders that are complete or absent.

checkpoints/step-001000/    a complete checkpoint: accelerate's files, the run's own state, and a manifest
checkpoints/*.tmp           being written or removed; ignored at the start
checkpoints/*.damaged       set aside because of damage
"""

import logging
import os
import re
import shutil
from pathlib import Path

from accelerate.utils import DistributedType, broadcast_object_list
from torch.distributed.checkpoint.api import CheckpointException

from ddpm_hf.distributed import together
from ddpm_hf.errors import InputError
from ddpm_hf.files import ASIDE, WRITE_ERRORS, flush_to_disk
from ddpm_hf.training.checkpoint_manifest import find_damage, forget_cached, read_manifest, write_manifest
from ddpm_hf.training.engine_state import read_random_state
from ddpm_hf.training.own_state import write_own_state
from ddpm_hf.training.plain_reading import refuse_foreign_pickles

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
NAME = re.compile(r"step-(\d+)")
DAMAGED = ".damaged"


def list_checkpoints(output_dir):
    """Complete checkpoints by step, oldest first."""
    folder = Path(output_dir) / FOLDER
    found = [(NAME.fullmatch(path.name), path) for path in folder.glob("step-*")]
    return dict(sorted((int(match[1]), path) for match, path in found if match))


# Saving --------------------------------------------------------------------------------------------------------------


def save_checkpoint(accelerator, output_dir, own_parts, step, limit, about):
    """Saves the objects prepared by `accelerator` and `own_parts`; every process must call this.

    The state of `own_parts` must need no communication, because a process that fails to write cannot take part in any.
    The new checkpoint is read back from the disk before it gets its name, and older ones are removed after that.

    Args:
        own_parts (`dict`): further parts of the run, for `write_own_state`.
        limit (`int`): the number of checkpoints kept, including this one.
        about (`dict`): further entries of the manifest, as JSON.

    Raises:
        InputError: in every process, if one cannot write; existing checkpoints stay.
    """
    final = Path(output_dir) / FOLDER / f"step-{step:06d}"
    aside = final.with_name(final.name + ASIDE)
    try:
        # Every process saves: each has its own random state, and its own part of a sharded model.
        together(accelerator, lambda: _make_empty(aside), WRITE_ERRORS, main_process_only=True)
        together(accelerator, lambda: _save_state(accelerator, own_parts, aside), WRITE_ERRORS)
        together(accelerator, lambda: _seal(aside, final, about), WRITE_ERRORS, main_process_only=True)
    except InputError as error:
        if accelerator.is_main_process:
            shutil.rmtree(aside, ignore_errors=True)
        former = max(list_checkpoints(output_dir), default=None)
        rest = "No checkpoint was there before" if former is None else f"The checkpoint of step {former} stands"
        raise InputError(
            f"The checkpoint of step {step} cannot be written in {final.parent} ({error}). {rest}: make room, or "
            "repair the disk, and run the same command again to go on."
        ) from error
    if accelerator.is_main_process:
        remove_old_checkpoints(output_dir, limit)
    accelerator.wait_for_everyone()


def _make_empty(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _save_state(accelerator, own_parts, folder):
    try:
        accelerator.save_state(str(folder))
        if accelerator.is_main_process:
            write_own_state(own_parts, folder)
    except CheckpointException as error:  # from FSDP, in every process; not a subclass of `Exception`
        cause, _ = next(iter(error.failures.values()))
        raise OSError(str(cause)) from error
    except WRITE_ERRORS as error:
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            # The others wait within DeepSpeed and cannot be notified; the launcher ends them after this one.
            raise InputError(" ".join(str(error).split())) from error
        raise


def _seal(aside, final, about):
    write_manifest(aside, about)
    forget_cached(aside)
    if damage := find_damage(aside):
        raise OSError(f"it was written and cannot be read back: {damage}")
    os.replace(aside, final)
    flush_to_disk(final.parent)


def remove_old_checkpoints(output_dir, limit):
    """Removes all but the newest `limit` checkpoints, and those set aside as damaged."""
    damaged = (Path(output_dir) / FOLDER).glob(f"*{DAMAGED}")
    for old in [*list(list_checkpoints(output_dir).values())[:-limit], *damaged]:
        # The name goes first, so that a partly removed folder is not taken for a checkpoint.
        removed = old.with_name(old.name + ASIDE)
        os.replace(old, removed)
        shutil.rmtree(removed)


# Loading -------------------------------------------------------------------------------------------------------------


def load_newest_checkpoint(accelerator, output_dir, check, restore):
    """Restores the newest undamaged checkpoint; every process must call this.

    Leftovers of a killed program are removed.

    Args:
        check: `check(manifest)` raises `InputError` if the checkpoint belongs to another run.
        restore: `restore(folder)` reads everything except the random states, in every process.

    Returns:
        The manifest, or None if there is no checkpoint.

    Raises:
        InputError: if all checkpoints are damaged, if `check` raises it, or if the newest one is not plain data.
    """
    found = [None]
    if accelerator.is_main_process:
        found = [_choose(output_dir)]
    # The main process decides for all, so that all read the same checkpoint.
    path, problem = broadcast_object_list(found)[0]
    if problem is not None:
        raise InputError(problem)
    if path is None:
        return None
    manifest = read_manifest(path)
    check(manifest)
    together(accelerator, lambda: refuse_foreign_pickles(path), main_process_only=True)
    restore(path)
    # Restored last, because restoring the rest may draw numbers. An additional process keeps its own state.
    is_known = accelerator.process_index < manifest["num_processes"]
    together(accelerator, lambda: read_random_state(accelerator, path) if is_known else None)
    return manifest


def _choose(output_dir):
    """The newest undamaged checkpoint or None, and a description of the damage if all are damaged."""
    folder = Path(output_dir) / FOLDER
    for left in folder.glob(f"*{ASIDE}"):
        shutil.rmtree(left)
    checkpoints = list(list_checkpoints(output_dir).values())
    damages = {}
    for path in reversed(checkpoints):
        damage = find_damage(path)
        if damage is None:
            break
        damages[path] = damage
    if len(damages) == len(checkpoints) and damages:
        described = "; ".join(f"{path.name}: {damage}" for path, damage in damages.items())
        return None, (
            f"None of the checkpoints in {folder} can be used ({described}). Restore one from a copy, or remove the "
            "folder to begin anew."
        )
    for bad, damage in damages.items():
        logger.warning("The checkpoint %s is damaged and the one before it is used: %s.", bad, damage)
        shutil.rmtree(bad.with_name(bad.name + DAMAGED), ignore_errors=True)
        os.replace(bad, bad.with_name(bad.name + DAMAGED))
    return (path if checkpoints else None), None
