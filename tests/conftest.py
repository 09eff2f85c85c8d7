import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from ddpm_hf import DDPMUNet2DModel

TINY = {
    "sample_size": 8,
    "in_channels": 1,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
}


class Reference:
    """One file of reference arrays, as torch tensors in float64 or int64."""

    def __init__(self, name):
        self.arrays = np.load(Path(__file__).parent / "reference" / f"{name}.npz")
        self.keys = list(self.arrays)

    def __getitem__(self, key):
        return torch.from_numpy(np.asarray(self.arrays[key]))


@pytest.fixture(scope="session")
def reference():
    files = {}
    return lambda name: files.setdefault(name, Reference(name))


@pytest.fixture
def stock_unet():
    torch.manual_seed(0)
    return UNet2DModel(**TINY, out_channels=1)


@pytest.fixture
def tiny_unet():
    """A function that makes a tiny network of ours: `tiny_unet(num_classes=3)`."""

    def make(**kwargs):
        torch.manual_seed(0)
        return DDPMUNet2DModel(**(TINY | kwargs))

    return make


@pytest.fixture
def diffusers_log(caplog):
    """What diffusers' loggers, and ours, say during a test (they do not propagate by themselves)."""
    root = logging.getLogger("diffusers")
    root.addHandler(caplog.handler)
    yield caplog
    root.removeHandler(caplog.handler)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors are slower on many threads, most of all when test runs share the cores."""
    torch.set_num_threads(1)
