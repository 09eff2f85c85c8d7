"""The kind of samples of a config, and the interface of every kind."""

import pytest
import torch

from ddpm_hf.models.presets import MLP_PRESETS, NETWORK_PRESETS, UNET_PRESETS
from ddpm_hf.samples import kind_of, kind_of_batch
from ddpm_hf.samples.kind import sides_of


@pytest.mark.parametrize(
    "config, name, shape, layout",
    [
        ({"in_channels": 3, "sample_size": 8}, "images", (3, 8, 8), "(N, 3, height, width)"),
        ({"in_channels": 1, "sample_size": [8, 12]}, "images", (1, 8, 12), "(N, 1, height, width)"),
        ({"in_channels": 1, "sample_size": None}, "images", (1, None, None), "(N, 1, height, width)"),
        ({"in_channels": 2}, "points", (2,), "(N, 2)"),
        ({"in_channels": 5, "sample_size": ()}, "points", (5,), "(N, 5)"),
    ],
)
def test_the_config_of_a_network_says_the_kind(config, name, shape, layout):
    samples = kind_of(config)
    assert samples.name == name and samples.shape == shape and samples.layout() == layout
    assert sides_of(config) == shape[1:]


def test_presets_are_of_a_kind_before_their_channels_are_known():
    assert {kind_of(NETWORK_PRESETS[name]).name for name in UNET_PRESETS} == {"images"}
    assert {kind_of(NETWORK_PRESETS[name]).name for name in MLP_PRESETS} == {"points"}


@pytest.mark.parametrize("config", [{"in_channels": 3, "sample_size": 4}, {"in_channels": 3}])
def test_a_batch_has_the_dimensions_and_channels_of_the_samples(config):
    samples = kind_of(config)
    batch = samples.random_data(2)
    assert batch.shape == (2, *samples.shape) and samples.fits(batch)
    assert type(kind_of_batch(batch)) is type(samples) and kind_of_batch(batch).shape == samples.shape
    samples.check_data(batch)
    for other in (batch[0], batch[:, :2], batch[..., None]):
        assert not samples.fits(other)
        with pytest.raises(ValueError, match=rf"{samples.name.capitalize()} of shape .* must be \(N, 3"):
            samples.check_data(other)


def test_data_as_the_network_takes_them_are_within_its_range():
    for config in ({"in_channels": 1, "sample_size": 4}, {"in_channels": 2}):
        samples = kind_of(config)
        x_0 = samples.from_data(samples.random_data(8))
        assert x_0.dtype == torch.float32 and samples.in_range(x_0)


def test_what_is_for_images_alone():
    assert kind_of({"in_channels": 1, "sample_size": (8, 4)}).image_shape(otherwise=ValueError("no")) == (1, 8, 4)
    with pytest.raises(KeyError, match="no images"):
        kind_of({"in_channels": 1}).image_shape(otherwise=KeyError("no images"))
