"""Imports run one way, from the verbs of the command line down to the ground; the contract stands in setup.cfg."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_imports_run_one_way(tmp_path):
    # The package lies as in an installation, because import-linter finds a package in one folder.
    shutil.copytree(ROOT / "ddpm_hf", tmp_path / "ddpm_hf")
    for name in ("pipelines", "training"):
        shutil.copytree(ROOT / name, tmp_path / "ddpm_hf" / name)
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", ROOT / "setup.cfg"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
