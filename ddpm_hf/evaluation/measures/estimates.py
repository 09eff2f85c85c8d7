"""A figure with its standard error, and the jackknives that give the error and the bias."""

import math
from typing import NamedTuple

import torch

# More groups, or halves, give a steadier error and cost one evaluation of the measure each.
GROUPS = HALVES = 20


class Estimate(NamedTuple):
    """A figure of a set of samples.

    value: the figure. standard_error: the standard deviation of the figure between repeated draws of the samples and
    of the reference, None if it is not known. bias: the estimated excess of the figure's mean over the figure of
    infinitely many samples, None for a measure without bias or one whose bias is not known.
    """

    value: float
    standard_error: float | None = None
    bias: float | None = None


def jackknife(value, *values_without):
    """The delete-a-group jackknife of Tukey (1958); Efron & Stein (1981) show that its error is not too small.

        variance = (G - 1) / G sum over g of (v_g - mean of v)^2,   bias = (G - 1) (mean of v - value)

    Args:
        value (`float`): the figure of everything.
        values_without: for each set that is drawn independently, (G,): the figures without each of its G groups. The
            variances and the biases of several sets add up.

    Returns:
        [`Estimate`]
    """
    variance = bias = 0.0
    for values in values_without:
        count, values = len(values), torch.as_tensor(values, dtype=torch.float64)
        variance += (count - 1) / count * (values - values.mean()).square().sum().item()
        bias += (count - 1) * (values.mean().item() - value)
    return Estimate(value, math.sqrt(variance), bias)


def half_jackknife(value, values_of_halves):
    """The delete-half jackknife (Shao & Wu 1989), whose error is right for figures of nearest neighbours too.

    variance = mean over halves h of (v_h - mean of v)^2

    Args:
        value (`float`): the figure of everything.
        values_of_halves: the figures of random halves of everything, all sets halved together.

    Returns:
        [`Estimate`]
    """
    return Estimate(value, torch.tensor(values_of_halves, dtype=torch.float64).std().item())


def random_halves(count, seed, halves=HALVES):
    """Which of `count` samples are in each random half: (halves, count), `bool`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(count, generator=generator) < count // 2 for _ in range(halves)])


def random_groups(count, groups=GROUPS):
    """The indices 0 .. count - 1 in random groups of nearly equal size, because data are often sorted by class.

    Args:
        groups (`int`): the number of groups, each with at least two indices.

    Raises:
        ValueError: for fewer than two indices for each group.
    """
    if count < 2 * groups:
        raise ValueError(f"The error of a figure needs at least {2 * groups} samples; there are {count}.")
    return torch.randperm(count, generator=torch.Generator().manual_seed(0)).tensor_split(groups)
