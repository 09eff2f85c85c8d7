"""Whether samples lie nearer to the training images than unseen images do."""

import math

import torch

from ddpm_hf.evaluation.measures.estimates import Estimate


def nearer_than_unseen(sample_distances, unseen_distances):
    """The chance that a sample is nearer to its nearest training image than an unseen image is to its own.

        P(d_sample < d_unseen) + P(d_sample = d_unseen) / 2

    It is the Mann-Whitney statistic, with which Meehan et al. (2020) test for copied data: 0.5 for samples that are like
    unseen images, 1 for copies of training images, below 0.5 for samples that are unlike the data. Blurred samples are
    nearer in pixels than sharp images are, so that a value somewhat above 0.5 can mean blur.

    Args:
        sample_distances, unseen_distances (`torch.Tensor`): (N,) and (M,), distances to the nearest training image.

    Returns:
        [`Estimate`]: its error is that of DeLong et al. (1988), for given training images.
    """
    unseen = unseen_distances.double().sort().values
    samples = sample_distances.double().sort().values
    farther = _shares_above(samples, unseen)
    nearer = 1 - _shares_above(unseen, samples)
    variance = farther.var() / len(samples) + nearer.var() / len(unseen)
    return Estimate(farther.mean().item(), math.sqrt(variance.item()))


def _shares_above(values, others):
    """For each value the share of the other, sorted ones above it; an equal one counts as half."""
    not_above = torch.searchsorted(others, values, right=True)
    below = torch.searchsorted(others, values)
    return 1 - (not_above + below).double() / (2 * len(others))
