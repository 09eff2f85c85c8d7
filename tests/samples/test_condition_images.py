"""Condition images: how they are made of data, noised and enlarged."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ddpm_hf.samples import kind_of
from ddpm_hf.samples.condition_images import augmented, check_divides, condition_of, enlarged, with_levels

UPSCALER = {"in_channels": 2, "sample_size": (8, 12), "condition_channels": 1, "low_resolution": (4, 3)}


@pytest.fixture
def images():
    return torch.rand(2, 1, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_images_of_low_resolution_are_as_data_are_resized(images):
    """Pillow's filter, by which `decode_image` resizes data for the base of a cascade."""
    small = condition_of(UPSCALER).of_image(images)
    for ours, image in zip(small, images, strict=True):
        theirs = Image.fromarray(image[0].numpy()).resize((3, 4), Image.Resampling.LANCZOS)
        assert_close(ours[0], torch.from_numpy(np.array(theirs)).clamp(-1, 1), rtol=0, atol=1e-5)


def test_area_is_the_mean_of_blocks(images):
    small = condition_of(UPSCALER | {"downsampling": "area"}).of_image(images)
    assert_close(small, images.unflatten(2, (4, 2)).unflatten(4, (3, 4)).mean((3, 5)))


def test_the_image_of_low_resolution_stays_in_the_range():
    edge = torch.ones(1, 1, 8, 12)
    edge[..., :5, :7] = -1  # the filter overshoots at edges
    small = condition_of(UPSCALER).of_image(edge)
    assert small.min() >= -1 and small.max() <= 1


def test_augmentation_keeps_the_variance():
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(4, 1, 100, 100, generator=generator) for _ in range(2))
    levels = torch.tensor([0.0, 0.3, 0.8, 1.0])
    noised = augmented(clean, levels, noise)
    assert_close(noised[0], clean[0])
    assert_close(noised[3], noise[3])
    assert_close(noised.var((1, 2, 3)), torch.ones(4), rtol=0, atol=0.05)
    correlation = (noised * clean).mean((1, 2, 3))
    assert_close(correlation, (1 - levels**2).sqrt(), rtol=0, atol=0.05)


def test_a_constant_image_stays_constant_when_enlarged():
    image = torch.full((1, 2, 4, 3), 0.3)
    assert_close(enlarged(image, (8, 12)), torch.full((1, 2, 8, 12), 0.3))
    assert enlarged(image, (4, 3)) is image


def test_labels_and_levels():
    labels, levels = torch.tensor([2, 0]), torch.tensor([0.5, 0.25])
    assert with_levels(labels, None) is labels
    assert with_levels(None, levels).tolist() == [500, 250]
    assert with_levels(labels, levels).tolist() == [[2, 500], [0, 250]]


def test_a_kind_counts_the_channels_of_samples_alone(images):
    kind = kind_of(UPSCALER)
    assert kind.shape == (1, 8, 12) and kind.data_channels == 1
    x_0, condition = kind.split(images)
    assert x_0 is images and condition.shape == images.shape
    pairs = kind_of({"in_channels": 4, "sample_size": 8, "condition_channels": 3})
    assert pairs.shape == (1, 8, 8) and pairs.data_channels == 4
    x_0, condition = pairs.split(torch.arange(4.0).reshape(1, 4, 1, 1).expand(1, 4, 8, 8))
    assert x_0[0, :, 0, 0].tolist() == [0] and condition[0, :, 0, 0].tolist() == [1, 2, 3]
    assert kind_of({"in_channels": 3, "sample_size": 8}).condition is None


def test_the_message_of_a_low_resolution_that_does_not_divide():
    with pytest.raises(
        ValueError, match="low_resolution=5 must divide .* 28x28, and be smaller: choose one of 1, 2, 4"
    ):
        check_divides(5, (28, 28))
    with pytest.raises(ValueError, match="must divide"):
        check_divides(28, (28, 28))
    check_divides((4, 3), (8, 12))
