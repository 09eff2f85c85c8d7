"""A torchvision that does not fit is found before it breaks the imports of transformers and diffusers."""

import importlib.metadata
import importlib.util
import subprocess
import sys

import pytest

from ddpm_hf.environment import check_torchvision
from ddpm_hf.errors import InputError

# The one that is there may fit or not, and where it is there, transformers has nothing to say.
WITHOUT_TORCHVISION = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed"
)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that makes torch and torchvision appear installed in these versions."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(torch, torchvision, needs):
        for name, version, lines in (("torch", torch, ""), ("torchvision", torchvision, f"Requires-Dist: {needs}\n")):
            folder = tmp_path / f"{name}-{version}.dist-info"
            folder.mkdir()
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{lines}"
            (folder / "METADATA").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()

    return install


@pytest.mark.parametrize(
    "torch, torchvision, needs",
    [
        ("2.13.0+cpu", "0.28.0", "torch==2.13.0"),
        ("2.13.0", "0.29.1", "torch==2.14.1"),
        ("2.13.0+cpu", "0.29.1+cpu", "torch (==2.14)"),
    ],
)
def test_one_that_does_not_fit(installed, torch, torchvision, needs):
    installed(torch, torchvision, needs)
    with pytest.raises(InputError) as raised:
        check_torchvision()
    assert f"torchvision {torchvision} does not fit the installed torch {torch}" in str(raised.value)
    assert "pip uninstall torchvision" in str(raised.value)


@pytest.mark.parametrize("build", ["+cpu", "", "+cu130"])
def test_one_that_fits(installed, build):
    installed(f"2.13.0{build}", f"0.28.0{build}", "torch==2.13.0")
    check_torchvision()


@WITHOUT_TORCHVISION
def test_none():
    check_torchvision()


@WITHOUT_TORCHVISION
@pytest.mark.parametrize("call, is_said", [("", True), ("leave_out_notices_of_torchvision()", False)])
def test_notices_of_transformers(call, is_said):
    code = f"from ddpm_hf.environment import leave_out_notices_of_torchvision\n{call}\n"
    code += "from transformers import CLIPImageProcessor\nCLIPImageProcessor()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ("requires torchvision" in done.stderr) is is_said
