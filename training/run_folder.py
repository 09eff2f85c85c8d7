"""The output folder of a run: `training_args.yaml` says whose it is, so that no run writes over another."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import yaml

import ddpm_hf
from ddpm_hf.training.arguments import MAY_CHANGE, option_names
from ddpm_hf.training.errors import InputError

ARGUMENTS_FILE = "training_args.yaml"
LIBRARIES = ("torch", "diffusers", "accelerate", "datasets", "transformers", "huggingface_hub")


def check_run_folder(args, num_processes=1):
    """Passes where the folder is empty or holds this very run.

    Raises:
        InputError: if it holds anything else, naming the files or the options that differ.
    """
    folder = Path(args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir={args.output_dir!r} is a file: choose a folder.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / ARGUMENTS_FILE).is_file():
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:3])
        raise InputError(
            f"output_dir={args.output_dir!r} holds files that are not of a training run ({names}): choose an empty "
            "folder or a new one."
        )
    stored = yaml.safe_load((folder / ARGUMENTS_FILE).read_text(encoding="utf-8"))
    differences = _differences(stored, args, num_processes)
    if differences:
        raise InputError(
            f"output_dir={args.output_dir!r} holds another run, with {'; '.join(differences)}. Give the options of that "
            "run to continue it, or choose another output_dir."
        )


def _differences(stored, args, num_processes):
    length = {"max_train_steps", "num_epochs"}
    # A constant learning rate does not depend on where the run ends; the others were laid out for their length.
    free = MAY_CHANGE | length if args.lr_scheduler.startswith("constant") else MAY_CHANGE
    differences = []
    for name in option_names(type(args)):
        before, now = stored.get(name, getattr(type(args), name)), getattr(args, name)
        if name not in free and before != now:
            reason = f" (the {args.lr_scheduler} schedule was laid out for it)" if name in length else ""
            differences.append(f"{name}={before} instead of {now}{reason}")
    before = stored.get("environment", {}).get("num_processes", num_processes)
    if before != num_processes:
        # Each process has its own random state, and that of a process that was not there cannot be restored.
        differences.append(f"{before} processes instead of {num_processes}")
    return differences


def write_arguments(args, num_processes=1):
    """Claims the folder: all options, and what the run was made with."""
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    options = {name: getattr(args, name) for name in option_names(type(args))}
    text = yaml.safe_dump(options | {"environment": describe_environment(num_processes)}, sort_keys=False)
    aside = folder / f"{ARGUMENTS_FILE}.tmp"
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, folder / ARGUMENTS_FILE)


def describe_environment(num_processes=1):
    versions = {"python": platform.python_version(), "ddpm_hf": ddpm_hf.__version__}
    versions |= {name: version(name) for name in LIBRARIES}
    return versions | {"num_processes": num_processes, "git_commit": _git_commit()}


def _git_commit():
    """The commit of the checkout that this code runs from, None where it was installed without one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
