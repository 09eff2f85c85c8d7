"""Data of the kind that the samples of a network are, and the questions that all sources answer."""

import pytest
import torch

from ddpm_hf.data import DataArguments, data_for, draw_images
from ddpm_hf.models.presets import NETWORK_PRESETS

IMAGES = {"in_channels": 1, "sample_size": 8}
POINTS = {"in_channels": 2, "data_mean": [0.0, 0.0], "data_std": [2.0, 2.0]}


@pytest.fixture(scope="module")
def sources():
    """Test images of Fashion-MNIST at 8x8, and points."""
    options = {"split": "test[:20]", "class_conditional": True}
    return {
        "images": data_for(IMAGES).open_for_network(DataArguments(**options), IMAGES, "m"),
        "points": data_for(POINTS).open_for_network(
            DataArguments(dataset="two_moons", num_points=20, class_conditional=True), POINTS, "m"
        ),
    }


@pytest.mark.parametrize("kind", ["images", "points"])
def test_sources_of_every_kind_answer_alike(sources, kind):
    source = sources[kind]
    assert source.samples.name == kind and source.samples.shape[0] == source.channels
    network = source.network_class(
        **NETWORK_PRESETS["fashion_mnist" if kind == "images" else "mlp"] | source.network_options
    )
    assert network.config.in_channels == source.channels
    everything, loaded = source.decode(0), source.load(1, 0).tensors
    drawn = draw_images(source, 5, seed=1)
    assert len(source) == 20 and len(drawn) == 5
    some = drawn.decode(0)
    for name, tensor in everything.items():
        assert torch.equal(tensor, loaded[name])
        assert all(any(torch.equal(one, other) for other in tensor) for one in some[name])
    assert some.keys() == {"images", "labels"}
    source.samples.check_data(everything["images"])
    source.check_batch_fits(4)


def test_a_trained_network_decides_size_and_units(sources):
    assert sources["images"].resolution == 8 and "resized to 8x8" in sources["images"].resizing
    assert sources["points"].std.tolist() == [2, 2] and sources["points"].resizing is None


def test_a_new_network_gets_those_of_the_data():
    preset = NETWORK_PRESETS["images_64"]
    assert data_for(preset).open_for_preset(DataArguments(split="test[:4]"), preset).resolution == 28
    preset = NETWORK_PRESETS["mlp"]
    source = data_for(preset).open_for_preset(DataArguments(dataset="two_moons"), preset)
    assert source.std.tolist() != [2, 2] and source.points.std(0).tolist() == pytest.approx([1, 1], abs=1e-3)
