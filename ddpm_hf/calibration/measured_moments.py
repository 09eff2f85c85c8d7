"""The mean and the leading covariance of data, measured for a solver's free first call."""

import torch

from ddpm_hf.schedulers.data_moments import DataMoments, LowestFrequencies, PrincipalAxes

# The most numbers of principal axes in a config, a third of a megabyte there; without eight axes, frequencies serve.
MOST_NUMBERS = 2**16
LEAST_AXES, MOST_AXES = 8, 64
MOST_FREQUENCIES = 24


def measured_moments(data):
    """The [`DataMoments`] of data in the network's units, (N, C, *), float32.

    Of small samples, up to 8,192 numbers, the principal axes; of larger images the spectrum of the 24 lowest
    frequencies along each side, in each channel. The covariance has the divisor N.
    """
    dimensions = data[0].numel()
    number = min(MOST_AXES, MOST_NUMBERS // dimensions, dimensions)
    small = number >= min(LEAST_AXES, dimensions)
    return _of_axes(data, number) if small else _of_frequencies(data)


def _of_axes(data, number):
    mean = data.mean(0)
    offsets = (data - mean).flatten(1).double()
    covariance = offsets.T @ offsets / len(data)
    variances, axes = torch.linalg.eigh(covariance)
    others = len(covariance) - number
    rest = variances[:others].clamp(min=0).mean().item() if others else 0.0
    leading = PrincipalAxes(axes.T[others:].flip(0))
    return DataMoments(mean, variances[others:].flip(0).clamp(min=0), rest, leading)


def _of_frequencies(data):
    sides = data.shape[2:]
    axes = LowestFrequencies([min(side, MOST_FREQUENCIES) for side in sides], sides)
    coefficients = axes.project(data)
    variances, mean = coefficients.var(0, unbiased=False), coefficients.mean(0)
    everything = (data - data.mean(0)).square().mean(0).sum() - variances.sum()
    others = data[0].numel() - variances.numel()
    return DataMoments(axes.lift(mean, data.shape[1:]), variances, (everything / others).clamp(min=0).item(), axes)
