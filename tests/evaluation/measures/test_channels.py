"""Means and deviations of channels against NumPy, and by repeated draws."""

import numpy as np
import pytest
import torch
from features import share_covered

from ddpm_hf.evaluation.measures.channels import channel_differences, channel_features, channel_moments


def levels(count, seed, high=256):
    return torch.randint(high, (count, 3, 4, 5), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_they_are_those_of_all_pixels():
    images = levels(7, seed=0)
    means, deviations = channel_moments(channel_features(images))
    pixels = images.numpy().transpose(1, 0, 2, 3).reshape(3, -1).astype(float)
    np.testing.assert_allclose(means, pixels.mean(1), rtol=1e-12)
    np.testing.assert_allclose(deviations, pixels.std(1), rtol=1e-9)


def test_a_tint_shows():
    data = levels(50, seed=0, high=200)
    tinted = data.clone()
    tinted[:, 2] += 30
    found = channel_differences(channel_features(tinted), channel_features(data))
    assert found["channel_2_mean"].value == pytest.approx(30, rel=1e-9) and found["channel_0_mean"].value == 0
    assert found["channel_2_deviation"].value == pytest.approx(0, abs=1e-9)
    assert [*found] == [f"channel_{channel}_{name}" for channel in range(3) for name in ("mean", "deviation")]


@pytest.mark.parametrize("name", ["channel_1_mean", "channel_1_deviation"])
def test_the_errors_cover_the_truth_of_repeated_draws(name):
    """Images of a brightness of their own, so that pixels of one image are alike."""

    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        brightness = torch.randint(100, (60, 1, 1, 1), generator=generator)
        return channel_features((brightness + torch.randint(100, (60, 2, 3, 3), generator=generator)).to(torch.uint8))

    estimates = [channel_differences(drawn(seed), drawn(1000 + seed))[name] for seed in range(300)]
    assert 0.9 <= share_covered(estimates, 0) <= 0.99


def test_images_of_one_level_have_no_deviation_and_no_error():
    same = channel_features(torch.full((5, 1, 2, 2), 7, dtype=torch.uint8))
    assert channel_differences(same, same) == {"channel_0_mean": (0, 0, None), "channel_0_deviation": (0, 0, None)}
