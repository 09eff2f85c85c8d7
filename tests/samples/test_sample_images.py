"""Images: levels, range, and what a pipeline returns."""

import numpy as np
import pytest
import torch

from ddpm_hf.samples import kind_of

CONFIG = {"in_channels": 1, "sample_size": 2}


def test_levels_become_the_grid_of_the_network_range():
    levels = torch.tensor([0, 51, 255, 128], dtype=torch.uint8).view(1, 1, 2, 2)
    x_0 = kind_of(CONFIG).from_data(levels)
    torch.testing.assert_close(x_0.flatten(), torch.tensor([-1, -0.6, 1, 128 / 127.5 - 1]))
    # Values on the grid stay the same floats.
    assert torch.equal(kind_of(CONFIG).from_data(x_0), x_0)
    two = kind_of(CONFIG, levels=2)
    assert two.from_data(torch.tensor([[[[0, 1], [1, 0]]]])).flatten().tolist() == [-1, 1, 1, -1]


def test_values_off_the_grid_are_refused():
    with pytest.raises(ValueError, match="Image 7 has the value 0.5: images must be in .* levels=256"):
        kind_of(CONFIG).check_data(torch.full((1, 1, 2, 2), 0.5), first=7)
    with pytest.raises(ValueError, match="Image 0 has the level 4: levels=4 are 0 .. 3"):
        kind_of(CONFIG, levels=4).check_data(torch.full((1, 1, 2, 2), 4))


@pytest.mark.parametrize("value, inside", [(1.0, True), (-1.0005, True), (1.01, False), (float("nan"), False)])
def test_range(value, inside):
    assert kind_of(CONFIG).in_range(torch.tensor([0.0, value])) is inside


def test_output():
    samples, x_0 = kind_of(CONFIG), torch.tensor([-1.0, 0.0, 1.0, 2.0]).view(1, 1, 2, 2)
    assert samples.agreed_output_type(None) == "pil"
    assert np.array(samples.to_output(x_0, "pil")[0]).flatten().tolist() == [0, 128, 255, 255]
    assert samples.to_output(x_0, "np").shape == (1, 2, 2, 1)
    assert samples.to_output(x_0, "pt").flatten().tolist() == [0, 0.5, 1, 1]
