"""The environment of a run: library versions and the commit of the code."""

import logging
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

import ddpm_hf
from ddpm_hf.errors import InputError

LIBRARIES = ("torch", "diffusers", "accelerate", "datasets", "transformers", "huggingface_hub")


def describe_environment(num_processes=1):
    versions = {"python": platform.python_version(), "ddpm_hf": ddpm_hf.__version__}
    versions |= {name: version(name) for name in LIBRARIES}
    return versions | {"num_processes": num_processes, "git_commit": _git_commit()}


def _git_commit():
    """The commit of the checkout of this code; None if it was installed without one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def check_torchvision():
    """Checks that torchvision, which this package does not need, fits the installed torch, before it is imported.

    diffusers and transformers import it where it is there, and fail with it. It fits if its requirement is met, and if
    it is built for CPUs alone as torch is.

    Raises:
        InputError: with the line that repairs the environment.
    """
    try:
        torchvision, needed = version("torchvision"), requires("torchvision")
    except PackageNotFoundError:
        return
    torch = version("torch")
    wanted = [Requirement(each) for each in needed or () if Requirement(each).name == "torch"]
    is_other_build = torch.endswith("+cpu") and not torchvision.endswith("+cpu")
    if is_other_build or not all(each.specifier.contains(torch, prereleases=True) for each in wanted):
        raise InputError(
            f"torchvision {torchvision} does not fit the installed torch {torch}, and diffusers and transformers "
            "cannot be imported beside it: `pip uninstall torchvision`, which nothing here needs, or install the one "
            "for your torch."
        )


def leave_out_notices_of_torchvision():
    """Leaves out that transformers reads images by PIL where torchvision is missing, which no command here needs."""
    logging.getLogger("transformers.utils.import_utils").addFilter(_needs_no_torchvision)


def _needs_no_torchvision(record):
    return "requires torchvision" not in record.getMessage()
