"""Nearest neighbours of features, and which samples lie in the balls around others."""

from typing import NamedTuple

import torch

from ddpm_hf.evaluation.distances import check_dimensions
from ddpm_hf.evaluation.measures.estimates import half_jackknife, random_halves

# Rows of the matrix of distances that are in memory at a time.
ROWS = 1000


class Neighbourhoods(NamedTuple):
    """Which samples and reference images lie in each other's balls, whose radius is the distance to the k-th neighbour.

    balls_around_sample: (N,), how many balls of reference images each sample lies in.
    is_in_sample_ball: (M,), whether each reference image lies in the ball of a sample.
    holds_a_sample: (M,), whether the ball of each reference image holds a sample.
    nearest_k: k.
    """

    balls_around_sample: torch.Tensor
    is_in_sample_ball: torch.Tensor
    holds_a_sample: torch.Tensor
    nearest_k: int


class DrawnNeighbourhoods(NamedTuple):
    """The neighbourhoods of everything, and those of random halves of the samples and of the reference together."""

    whole: Neighbourhoods
    halves: list[Neighbourhoods]

    def estimates(self, measure):
        """{name: [`Estimate`]} of a measure that gives {name: figure} of [`Neighbourhoods`]."""
        of_halves = [*map(measure, self.halves)]
        return {
            name: half_jackknife(value, [each[name] for each in of_halves])
            for name, value in measure(self.whole).items()
        }


def neighbourhoods(samples, reference, nearest_k):
    """The [`DrawnNeighbourhoods`] of features (N, D) and (M, D); memory grows as N + M, time as (N + M)^2 D.

    The radius of a ball is the distance from its centre to the k-th nearest other feature of the same set, and a ball
    holds its edge.

    Raises:
        ValueError: for sets that differ in dimensions, or whose halves do not have more than k features.
    """
    _check(samples, reference, nearest_k)
    samples, reference = samples.double(), reference.double()
    of_samples, of_reference = _Balls(samples, nearest_k, seed=0), _Balls(reference, nearest_k, seed=1)
    found = [_Found(len(samples), samples.device) for _ in of_samples.kept]
    for rows in torch.arange(len(reference), device=reference.device).split(ROWS):
        between = torch.cdist(reference[rows], samples)
        for draw, part in enumerate(found):
            in_ball = (between <= of_reference.radii[draw, rows, None]) & of_samples.kept[draw]
            part.around += in_ball.sum(0)
            part.holds.append(in_ball.any(1))
            part.inside.append((between <= of_samples.radii[draw]).any(1))
    drawn = [
        part.among(kept, kept_of_reference, nearest_k)
        for part, kept, kept_of_reference in zip(found, of_samples.kept, of_reference.kept, strict=True)
    ]
    return DrawnNeighbourhoods(drawn[0], drawn[1:])


def _check(samples, reference, nearest_k):
    if min(len(samples), len(reference)) // 2 <= nearest_k:
        raise ValueError(
            f"Balls up to neighbour {nearest_k}, and their error, need at least {2 * nearest_k + 2} samples on both sides; "
            f"there are {len(samples)} and {len(reference)}."
        )
    check_dimensions(samples.shape[1], reference.shape[1])


class _Balls:
    """The balls around features (N, D) among all features (row 0), and among each random half of them (other rows).

    kept: (1 + halves, N), whether a feature is kept. radii: (1 + halves, N), -1 where it is not, for an empty ball.
    """

    def __init__(self, features, nearest_k, seed):
        count = len(features)
        self.kept = torch.cat([torch.ones(1, count, dtype=torch.bool), random_halves(count, seed)]).to(features.device)
        # The nearest of all features is the centre itself.
        distances, neighbours = nearest(features, features, min(count, _neighbours_for(nearest_k)))
        distances, neighbours = distances[:, 1:], neighbours[:, 1:]
        radii = [distances.masked_fill(~kept[neighbours], torch.inf).kthvalue(nearest_k).values for kept in self.kept]
        self.radii = torch.stack(radii).masked_fill(~self.kept, -1)


def _neighbours_for(nearest_k):
    """So many neighbours hold k of a random half, all but certainly: at k = 5 they do not with a chance of 4e-14."""
    return 1 + 8 * nearest_k + 24


class _Found:
    """The parts of [`Neighbourhoods`] of one draw, collected over rows of the reference."""

    def __init__(self, count, device):
        self.around = torch.zeros(count, dtype=torch.int64, device=device)
        self.inside, self.holds = [], []

    def among(self, kept, kept_of_reference, nearest_k):
        inside, holds = torch.cat(self.inside), torch.cat(self.holds)
        return Neighbourhoods(self.around[kept], inside[kept_of_reference], holds[kept_of_reference], nearest_k)


def nearest(queries, among, count=1):
    """The `count` nearest features among (M, D) to each query (N, D): distances and indices, (N, count), ascending."""
    among = among.double()
    found = [torch.cdist(rows.double(), among).topk(count, largest=False) for rows in queries.split(ROWS)]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])
