import sys

import pytest


@pytest.fixture
def module_cache(tmp_path, monkeypatch):
    """The folder in which diffusers keeps the code of repositories, for one test."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path / "modules"
    for name in [name for name in sys.modules if name.split(".")[0] == "diffusers_modules"]:
        del sys.modules[name]
