"""The environment of a run: library versions and the commit of the code."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import ddpm_hf

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
