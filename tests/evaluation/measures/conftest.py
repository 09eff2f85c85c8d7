import importlib
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest

from ddpm_hf.evaluation.inception import without_init


@pytest.fixture
def fidelity():
    """A function that gives a module of torch-fidelity without the parts that read images, which need torchvision."""
    if find_spec("torch_fidelity") is None:
        pytest.skip("torch-fidelity is not installed: pip install --no-deps torch-fidelity")
    reading = ModuleType("torch_fidelity.utils")
    reading.__getattr__ = lambda name: None

    def module(name):
        with without_init("torch_fidelity"):
            sys.modules[reading.__name__] = reading
            return importlib.import_module(f"torch_fidelity.{name}")

    return module
