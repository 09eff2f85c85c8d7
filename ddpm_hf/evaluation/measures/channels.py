"""Means and deviations of the channels of images, in which a tint or a loss of contrast shows."""

import math

import torch

from ddpm_hf.evaluation.measures.estimates import Estimate

# The channels of grey, colour and transparent images.
MOST_CHANNELS = 4


def channel_features(images):
    """The mean and the mean square of the levels of each channel of each image, (N, 2C), for uint8 (N, C, H, W)."""
    pixels = images.double().flatten(2)
    return torch.cat([pixels.mean(2), pixels.square().mean(2)], dim=1)


def channel_moments(features):
    """The mean and the standard deviation of each channel over all pixels of all images, two of (C,), in levels.

    Args:
        features (`torch.Tensor`): from `channel_features`.
    """
    means, squares = features.double().mean(0).chunk(2)
    return means, (squares - means.square()).clamp(min=0).sqrt()


def channel_differences(samples, reference):
    """How far the channels of samples are from those of the data, in levels of 0 to 255.

    Args:
        samples, reference (`torch.Tensor`): (N, 2C) and (M, 2C), from `channel_features`.

    Returns:
        `dict`: {"channel_0_mean": [`Estimate`], "channel_0_deviation": .., "channel_1_mean": ..}, samples less data. A
        deviation's error is that of its linearisation.
    """
    (means, deviations), (data_means, data_deviations) = channel_moments(samples), channel_moments(reference)
    of_samples, of_reference = _influences(samples), _influences(reference)
    errors = [
        (a.var(0) / len(samples) + b.var(0) / len(reference)).sqrt()
        for a, b in zip(of_samples, of_reference, strict=True)
    ]
    found = {}
    for channel in range(len(means)):
        for name, value, data, error in (
            ("mean", means, data_means, errors[0]),
            ("deviation", deviations, data_deviations, errors[1]),
        ):
            found[f"channel_{channel}_{name}"] = Estimate((value - data)[channel].item(), error[channel].item())
    return found


def _influences(features):
    """What each image adds to the mean and to the deviation of each channel, (N, C) each.

    The deviation is sqrt(E q - (E m)^2), which changes by (dq - 2 E m dm) / (2 deviation).
    """
    means, deviations = channel_moments(features)
    of_mean, of_square = features.double().chunk(2, dim=1)
    return of_mean, (of_square - 2 * means * of_mean) / (2 * deviations.clamp(min=math.ulp(1.0)))
