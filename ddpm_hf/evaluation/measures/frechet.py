"""The Frechet distance of features with its error and bias, and its limit for infinitely many samples."""

import numpy as np
import torch

from ddpm_hf.evaluation.distances import FeatureStatistics, RootedStatistics, frechet_distance
from ddpm_hf.evaluation.measures.estimates import GROUPS, Estimate, jackknife, random_groups

# The number of sizes of Chong & Forsyth (2020), and their smallest size as a share of all samples.
SIZES, SMALLEST_SHARE = 15, 0.1
# Below this number of samples for each dimension the distance does not yet follow its law a + b / N.
SAMPLES_PER_DIMENSION = 2


def estimate_frechet_distance(samples, reference, groups=GROUPS):
    """The squared Frechet distance of `frechet_distance`, with its error and bias by the jackknife.

    The bias is that of N samples, about (a constant) / N. Where the reference is features, the error and the bias have
    its part too; statistics are taken as they are.

    Args:
        samples (`torch.Tensor`): features (N, D).
        reference (`torch.Tensor` or statistics): features (M, D), or [`FeatureStatistics`] or [`Moments`].
        groups (`int`): groups of the jackknife, each of which costs an eigenvalue problem of D dimensions.

    Returns:
        [`Estimate`]

    Raises:
        ValueError: for fewer than two samples for each group.
    """
    whole, target = FeatureStatistics(samples), reference
    parts = [_without_each(samples, whole, groups, RootedStatistics(_statistics(target)))]
    if isinstance(reference, torch.Tensor):
        target = FeatureStatistics(reference)
        parts.append(_without_each(reference, target, groups, RootedStatistics(whole)))
    return jackknife(frechet_distance(whole, target), *parts)


def extrapolated_frechet_distance(samples, reference, sizes=SIZES):
    """The Frechet distance of infinitely many samples (Chong & Forsyth 2020, "Effectively unbiased FID").

    The distance of N samples is about a + b / N. It is measured for N / 10 to N samples, drawn at random, and the line
    through these values of 1 / N has the limit a. Its error is that of the distance of all samples, combined with that
    of the fitted line.

    Args:
        samples (`torch.Tensor`): features (N, D).
        reference (`torch.Tensor` or statistics): as in `estimate_frechet_distance`; its own bias stays.
        sizes (`int`): how many numbers of samples the line goes through.

    Returns:
        [`Estimate`]

    Raises:
        ValueError: for too few samples for the law, `samples_for_extrapolation` of them.
    """
    count, dimensions = samples.shape
    if count < samples_for_extrapolation(dimensions):
        raise ValueError(
            f"The limit of the Frechet distance in {dimensions} dimensions needs at least "
            f"{samples_for_extrapolation(dimensions)} samples; there are {count}."
        )
    smallest = max(round(SMALLEST_SHARE * count), SAMPLES_PER_DIMENSION * dimensions)
    target, generator = RootedStatistics(_statistics(reference)), torch.Generator().manual_seed(0)
    counts = np.linspace(smallest, count, sizes).round().astype(int)
    values = [
        target.distance_to(FeatureStatistics(samples[torch.randperm(count, generator=generator)[:size]]))
        for size in counts.tolist()
    ]
    (_, limit), covariance = np.polyfit(1 / counts, values, 1, cov=True)
    error = estimate_frechet_distance(samples, reference).standard_error
    return Estimate(float(limit), float(np.sqrt(covariance[1, 1] + error**2)))


def samples_for_extrapolation(dimensions):
    """The least number of samples of `extrapolated_frechet_distance`: its smallest size twice."""
    return 2 * SAMPLES_PER_DIMENSION * dimensions


def _statistics(features):
    return FeatureStatistics(features) if isinstance(features, torch.Tensor) else features


def _without_each(features, whole, groups, target):
    """The distances to the target of all features without each of the groups."""
    return [
        target.distance_to(whole.without(FeatureStatistics(features[group])))
        for group in random_groups(len(features), groups)
    ]
