"""Points: their units, and what they refuse that images have."""

import math

import pytest
import torch

from ddpm_hf.samples import kind_of

CONFIG = {"in_channels": 2, "data_mean": [1.0, -2.0], "data_std": [2.0, 4.0]}


def test_output_is_in_the_data_units():
    samples, x_0 = kind_of(CONFIG), torch.tensor([[0.0, 0.5]])
    assert samples.agreed_output_type(None) == "np"
    assert samples.to_output(x_0, "np").tolist() == [[1, 0]]
    assert torch.equal(samples.to_output(x_0, "pt"), torch.tensor([[1.0, 0.0]]))
    assert torch.equal(kind_of({"in_channels": 2}).to_output(x_0, "pt"), x_0)
    with pytest.raises(ValueError, match="output_type='pil' is for images; this model makes points"):
        samples.agreed_output_type("pil")


def test_the_bound_is_that_of_a_density_in_either_unit():
    """log2 of a density falls by log2 |det| where the unit becomes smaller: here by (1 + 2) / 2 for each dimension."""
    assert kind_of(CONFIG).bits_in_data_units(-1.0) == pytest.approx(-1 + math.log2(8) / 2)
    assert kind_of({"in_channels": 2}).bits_in_data_units(-1.0) == -1
    assert "0.5000 in their own unit" in kind_of(CONFIG).bound_note(-1.0)


def test_points_are_continuous():
    assert kind_of(CONFIG).levels is None
    with pytest.raises(ValueError, match="levels=256 are of images; points are continuous"):
        kind_of(CONFIG, levels=256)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="Point 4 has a value that is not finite"):
        kind_of(CONFIG).check_data(torch.tensor([[0.0, 1.0], [math.inf, 0.0]]), first=3)
