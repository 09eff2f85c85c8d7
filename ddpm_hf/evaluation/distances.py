"""Distances between two sets of samples: between points, and between the features of images."""

import math
from typing import NamedTuple

import torch


def sliced_wasserstein(points_a, points_b, num_projections=500, generator=None):
    """The sliced Wasserstein-2 distance of two point clouds (Bonneel et al. 2015, definition 9), in the points' unit.

        SW(a, b)^2 = mean over directions u of W_2(u . a, u . b)^2,   W_2^2 = int_0^1 (F_a^-1(q) - F_b^-1(q))^2 dq

    The distance on a line is exact; the directions are drawn uniformly from the sphere. Two clouds that differ by a
    shift v are |v| / sqrt(d) apart.

    Args:
        points_a, points_b (`torch.Tensor`): (N, d) and (M, d); N and M may differ.
        num_projections (`int`): number of directions; the error of SW^2 is proportional to one over its root.
        generator (`torch.Generator`, *optional*): source of the directions, equal ones to compare several clouds.

    Returns:
        `float`
    """
    _check_points(points_a, points_b)
    points_a, points_b = points_a.double(), points_b.double()
    directions = torch.randn(points_a.shape[1], num_projections, generator=generator, dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(points_a.device)
    a, b = (points_a @ directions).sort(dim=0).values, (points_b @ directions).sort(dim=0).values
    index_a, index_b, weight = _common_quantiles(len(a), len(b), points_a.device)
    squares = weight @ (a[index_a] - b[index_b]).square()
    return squares.mean().sqrt().item()


def _common_quantiles(n, m, device):
    """The pairs of order statistics of n and of m values that share quantiles, and the share of [0, 1] of each pair.

    The quantile functions have steps of width 1/n and 1/m, whose ends are whole multiples of 1/(n m).
    """
    ends_a, ends_b = torch.arange(1, n + 1, device=device) * m, torch.arange(1, m + 1, device=device) * n
    ends = torch.cat([ends_a, ends_b]).unique()
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return starts // m, starts // n, (ends - starts).double() / (n * m)


def energy_test(points_a, points_b, num_permutations=999, generator=None):
    """The energy distance of two point clouds, and the p-value of the hypothesis that they have one distribution.

        E(a, b) = 2 mean |a_i - b_j| - mean |a_i - a_j| - mean |b_i - b_j|     (Szekely & Rizzo 2013)

    It is 0 only for equal distributions. The permutation test is exact for every distribution: p is the share of
    relabellings of the points, with the given one, whose distance is at least as large (Phipson & Smyth 2010). The
    points must be independent draws; for two clouds that are made from the same points, p is too large.

    Args:
        points_a, points_b (`torch.Tensor`): (N, d) and (M, d); N and M may differ. Memory and time grow as (N + M)^2.
        num_permutations (`int`): number n of random relabellings; the least p is 1 / (n + 1).
        generator (`torch.Generator`, *optional*): source of the relabellings.

    Returns:
        the distance E, in the points' unit, and p, two `float`
    """
    _check_points(points_a, points_b)
    n, m = len(points_a), len(points_b)
    points = torch.cat([points_a.double(), points_b.double()])
    between = torch.cdist(points, points)
    orders = torch.stack(
        [torch.arange(n + m), *(torch.randperm(n + m, generator=generator) for _ in range(num_permutations))]
    )
    # Each relabelling has a column, with 1 / n for the points of the first cloud and -1 / m for those of the second.
    weights = torch.full((n + m, len(orders)), -1 / m, dtype=torch.float64, device=points.device)
    weights.scatter_(0, orders[:, :n].T.to(points.device), 1 / n)
    distances = -(weights * (between @ weights)).sum(0)
    # A random relabelling can equal the given one and still differ by rounding.
    as_large = distances >= distances[0] - 1e-12 * between.mean()
    return distances[0].item(), as_large.double().mean().item()


def _check_points(points_a, points_b):
    if points_a.ndim != 2 or points_b.ndim != 2 or points_a.shape[1] != points_b.shape[1]:
        raise ValueError(
            f"Points of shapes {tuple(points_a.shape)} and {tuple(points_b.shape)} must be (N, d) and (M, d)."
        )


class FeatureStatistics:
    """Mean and covariance (divisor N - 1) of batches of features, in float64.

    Batches are merged by the update of Chan et al. (1979), which loses no digits to a mean far from 0.

    Attributes:
        count: N. mean: (D,). covariance: (D, D).
    """

    def __init__(self, features=None):
        self.count = 0
        if features is not None:
            self.update(features)

    def update(self, features):
        """Adds a batch (B, D)."""
        features = features.double()
        if not features.isfinite().all():
            raise ValueError("Some features are not finite: look at the images, and at the feature network.")
        mean = features.mean(0)
        centred = features - mean
        self._merge(len(features), mean, centred.T @ centred)

    def merge(self, other):
        """Adds the statistics of other samples."""
        if other.count:
            self._merge(other.count, other.mean, other._scatter)

    def _merge(self, count, mean, scatter):
        if self.count == 0:
            self.count, self.mean, self._scatter = count, mean, scatter
            return
        total = self.count + count
        shift = mean - self.mean
        self._scatter = self._scatter + scatter + torch.outer(shift, shift) * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    def without(self, part):
        """The statistics of the samples that are not in `part`, which is the statistics of some of them."""
        rest = FeatureStatistics()
        rest.count = self.count - part.count
        rest.mean = self.mean + (self.mean - part.mean) * (part.count / rest.count)
        shift = part.mean - rest.mean
        lost = part._scatter + torch.outer(shift, shift) * (rest.count * part.count / self.count)
        rest._scatter = self._scatter - lost
        return rest

    @property
    def covariance(self):
        if self.count < 2:
            raise ValueError(f"A covariance needs at least 2 samples; there are {self.count}.")
        return self._scatter / (self.count - 1)


class Moments(NamedTuple):
    """Mean (D,) and covariance (D, D) in float64 that others have measured; `count` is None if they do not say."""

    count: int | None
    mean: torch.Tensor
    covariance: torch.Tensor


class RootedStatistics:
    """Statistics with the root of their covariance, to measure many distances to them.

    A^(1/2) B A^(1/2) is symmetric, so its root's trace is the sum of the roots of real eigenvalues; with fewer samples
    than dimensions some are 0, and rounding makes them slightly negative.

    Args:
        statistics: [`FeatureStatistics`] or [`Moments`].
    """

    def __init__(self, statistics):
        self._statistics = statistics
        values, vectors = torch.linalg.eigh(statistics.covariance)
        self._root = vectors * values.clamp(min=0).sqrt()

    def distance_to(self, other):
        """The squared Frechet distance, as in `frechet_distance`, to other statistics."""
        a, b = self._statistics, other
        check_dimensions(len(a.mean), len(b.mean))
        covariance = b.covariance
        overlap = torch.linalg.eigvalsh(self._root.T @ covariance @ self._root).clamp(min=0).sqrt().sum()
        squared_shift = (a.mean - b.mean).square().sum()
        return (squared_shift + a.covariance.trace() + covariance.trace() - 2 * overlap).item()


def check_dimensions(number, other):
    """Raises ValueError for features of different numbers of dimensions."""
    if number != other:
        raise ValueError(f"Features of {number} and {other} dimensions: both must be of the same network.")


def frechet_distance(a, b):
    """The Frechet distance of the normal distributions of two sets of features (Dowson & Landau 1982; Heusel 2017).

        d^2 = |mean_a - mean_b|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2))

    The literature on images calls d^2 the distance, and so does this function. It is biased upwards for few samples, so
    only values of equal numbers of samples and the same features compare.

    Args:
        a, b ([`FeatureStatistics`], [`Moments`] or `torch.Tensor`): statistics, or features (N, D).

    Returns:
        `float`: at least 0, apart from rounding.
    """
    a, b = (FeatureStatistics(x) if isinstance(x, torch.Tensor) else x for x in (a, b))
    return RootedStatistics(a).distance_to(b)


def mean_and_spread(values):
    """The mean of values, and their standard deviation (divisor N - 1), None for a single value."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
