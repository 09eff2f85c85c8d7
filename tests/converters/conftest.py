"""Checkpoints of other codes with their options, inputs and outputs (tests/reference/README.md)."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreign_names import in_improved_names

from ddpm_hf import ADMUNet2DModel

FOLDER = Path(__file__).parents[1] / "reference" / "unets"
ARRAYS = np.load(FOLDER / "unets.npz")


class ForeignModel(NamedTuple):
    """A checkpoint, its options, and what its code makes of an input."""

    name: str

    @property
    def checkpoint(self):
        return next(file for file in FOLDER.glob(f"{self.name}.*") if file.suffix in (".safetensors", ".pt"))

    @property
    def options(self):
        return FOLDER / f"{self.name}.json"

    def array(self, key):
        return torch.from_numpy(ARRAYS[f"{self.name}/{key}"])

    def inputs(self, dtype):
        """The arguments of the network: x_t with what is told beside it, the timesteps, and labels."""
        x, keys = self.array("sample").to(dtype), set(ARRAYS)
        if f"{self.name}/low_res" in keys:
            enlarged = F.interpolate(self.array("low_res").to(dtype), x.shape[-2:], mode="bilinear")
            x = torch.cat([x, enlarged], dim=1)
        labels = (self.array("labels"),) if f"{self.name}/labels" in keys else ()
        return x, self.array("timesteps"), *labels

    def output_of(self, network):
        """What a network makes of the input, in its precision."""
        with torch.no_grad():
            output = network(*self.inputs(network.dtype))
        return getattr(output, "sample", output)

    def error_of(self, network, key="output"):
        """The largest error of a network's output, relative to the largest value."""
        expected = self.array(key)
        return ((self.output_of(network) - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture
def foreign():
    return ForeignModel


# Two levels, the second with attention, of widths that 32 groups divide.
SMALL = {
    "sample_size": 8,
    "in_channels": 1,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D"),
    "attn_norm_num_groups": 32,
}
FLAGS = {
    "image_size": 8,
    "use_new_attention_order": False,
    "noise_schedule": "linear",
    "diffusion_steps": 1000,
    "rescale_timesteps": True,
}


def small_network(num_heads=1, learn_sigma=False):
    torch.manual_seed(0)
    head = {"variance_head": "learned_range"} if learn_sigma else {}
    return ADMUNet2DModel(**SMALL | head, num_attention_heads=num_heads, attention_head_dim=None).eval()


@pytest.fixture
def written():
    """A function that makes the network that `improved` writes."""
    return small_network


@pytest.fixture
def improved(tmp_path):
    """A function of options that writes a random network as improved-diffusion does: its file, and its flags."""

    def write(num_heads=1, learn_sigma=False, **changes):
        path = tmp_path / "model.pt"
        torch.save(in_improved_names(small_network(num_heads, learn_sigma)), path)
        return path, FLAGS | {"num_heads": num_heads} | changes

    return write
