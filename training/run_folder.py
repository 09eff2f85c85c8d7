"""The output folder of a run, claimed by `training_args.yaml`, so that no run overwrites another."""

import json
import os
import platform
import shutil
import signal
import time
from pathlib import Path

from ddpm_hf.environment import describe_environment
from ddpm_hf.errors import InputError
from ddpm_hf.files import aside_name, written_whole
from ddpm_hf.folder_lock import LOCK_FILE
from ddpm_hf.reports.report_files import TRAINING_OPTIONS
from ddpm_hf.training.argument_checks import option_names, read_stds
from ddpm_hf.training.arguments import MAY_CHANGE
from ddpm_hf.training.checkpoints import FOLDER, list_checkpoints

FINISHED_FILE = f"{FOLDER}/finished.json"
# Another machine may see a file this much later, because network file systems cache missing files for a while.
SECONDS_UNTIL_SEEN = 60


def check_run_folder(args, num_processes=1):
    """Checks that the folder is empty, or holds this run or a run that ended before its first update.

    Raises:
        InputError: if it holds anything else, naming the files or the options that differ.
    """
    folder = Path(args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir={args.output_dir!r} is a file: choose a folder.")
    _check_writable(folder)
    present = _present(folder)
    if not present:
        return
    if TRAINING_OPTIONS.name not in present:
        names = ", ".join(sorted(present)[:3])
        raise InputError(
            f"output_dir={args.output_dir!r} holds files that are not of a training run ({names}): choose an empty "
            "folder or a new one."
        )
    differences = _differences(TRAINING_OPTIONS.read(folder), args, num_processes)
    # Files from before the first update need no protection, as the run may have ended with advice to change an option.
    if differences and holds_updates(args):
        raise InputError(
            f"output_dir={args.output_dir!r} holds another run, with {'; '.join(differences)}. Give the options of "
            "that run to continue it, or choose another output_dir."
        )


def holds_updates(args):
    """Whether the output folder holds a run that began its updates."""
    present = _present(Path(args.output_dir))
    return TRAINING_OPTIONS.name in present and not present <= {TRAINING_OPTIONS.name, Path(args.logging_dir).parts[0]}


def _present(folder):
    """The names of the files in a folder, without those of a run that was killed while claiming the folder."""
    left = {LOCK_FILE, aside_name(TRAINING_OPTIONS.name)}
    return {path.name for path in folder.iterdir() if path.name not in left} if folder.is_dir() else set()


def _check_writable(folder):
    """Checks that `folder` can be written to or created."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"output_dir={str(folder)!r} cannot be written ({existing}): choose another, or change its rights."
        )


def _differences(stored, args, num_processes):
    environment = stored.get("environment", {})
    processes_before = environment.get("num_processes", num_processes)
    length = {"max_train_steps", "num_epochs"}
    # A constant learning rate does not depend on the length of the run; the other schedules do.
    free = MAY_CHANGE | length if args.lr_scheduler.startswith("constant") else MAY_CHANGE
    kind = type(args)
    before = {name: stored.get(name, getattr(kind, name)) for name in option_names(kind)}
    now = {name: getattr(args, name) for name in before}
    # The order of the data, and everything counted in updates, depends on their product alone.
    same_updates = _images_per_update(before, processes_before) == _images_per_update(now, num_processes)
    free = free | {"batch_size", "gradient_accumulation_steps"} if same_updates else free
    differences = []
    for name in before:
        if name not in free and before[name] != now[name]:
            reason = f" (the {args.lr_scheduler} schedule was laid out for it)" if name in length else ""
            differences.append(f"{name}={before[name]} instead of {now[name]}{reason}")
    if processes_before != num_processes and getattr(args, "streaming", False):
        reason = "each has a place of its own in a stream, so that their number stays"
    elif processes_before != num_processes and not same_updates:
        reason = "their number, batch_size and gradient_accumulation_steps may change as long as their product stays"
    else:
        return differences
    return [*differences, f"{processes_before} processes instead of {num_processes} ({reason})"]


def _images_per_update(options, num_processes):
    return options["batch_size"] * options["gradient_accumulation_steps"] * num_processes


def check_room(args, model):
    """Checks that the disk has room for the checkpoints, the pipeline and the first snapshots of averages.

    Raises:
        InputError: if there is too little room.
    """
    folder = Path(args.output_dir).absolute()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    num_averages = len(read_stds(args.ema_stds)) if args.ema == "power" else 1
    # The weights, their averages, and Adam's two moments.
    size = (1 + num_averages) * weights + 2 * trained
    # The pipeline, which is written beside an existing one, and snapshots of all averages.
    others = weights + (num_averages * weights if args.ema == "power" else 0)
    # One more than are kept, because an old one is removed after the new one is complete.
    missing = max(args.checkpoints_limit + 1 - len(list_checkpoints(folder)), 1)
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    needed = missing * size + others
    if free < needed:
        raise InputError(
            f"output_dir={args.output_dir!r} has {free / 1e6:.0f} MB of free disk, and the run needs "
            f"{needed / 1e6:.0f} MB ({missing} checkpoint(s) of {size / 1e6:.0f} MB, and the averaged weights): make "
            "room, choose another output_dir, or keep fewer with --checkpoints_limit."
        )


def mark_finished(output_dir, step):
    """Records that the run is complete, including the work after its last update `step`."""
    with written_whole(Path(output_dir) / FINISHED_FILE) as aside:
        aside.write_text(json.dumps({"finished_at_step": step}) + "\n", encoding="utf-8")


def is_finished(output_dir, step):
    path = Path(output_dir) / FINISHED_FILE
    return path.exists() and json.loads(path.read_text(encoding="utf-8")) == {"finished_at_step": step}


def how_to_continue(signum, output_dir, total_steps=None):
    """The message of a run that a signal has stopped."""
    name, step = signal.Signals(signum).name, max(list_checkpoints(output_dir), default=None)
    if step is None:
        return f"Stopped by {name} before the first checkpoint. To begin again, run the same command."
    where = f"step {step}" if total_steps is None else f"step {step} of {total_steps}"
    return f"Stopped by {name}. {output_dir} has a checkpoint of {where}: to continue, run the same command again."


def write_arguments(args, num_processes=1, num_images=None, data_fingerprint=None, measured=None):
    """Claims the folder by writing all options and the environment of the run, with what was `measured` of it."""
    folder = Path(args.output_dir)
    options = {name: getattr(args, name) for name in option_names(type(args))}
    # On another machine, "data/cats" could be taken for a data set on the Hub.
    local = [name for name in options.values() if isinstance(name, str) and name and Path(name).exists()]
    environment = describe_environment(num_processes)
    environment |= {"num_images": num_images, "data_fingerprint": data_fingerprint, "local": local, **(measured or {})}
    TRAINING_OPTIONS.write(folder, options | {"environment": environment})


def check_folder_is_shared(args):
    """Checks that this process sees the main process's files, for which other machines may have to wait.

    Raises:
        InputError: if it does not see them.
    """
    path, begun = Path(args.output_dir) / TRAINING_OPTIONS.name, time.monotonic()
    while not path.exists():
        if time.monotonic() - begun > SECONDS_UNTIL_SEEN:
            raise InputError(
                f"output_dir={args.output_dir!r} must be on a disk that all machines share, under the same path: "
                f"{platform.node()} does not see what the main process has written there."
            )
        time.sleep(1)
