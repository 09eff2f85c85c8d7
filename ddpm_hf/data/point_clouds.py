"""Distributions of points in the plane on which generative models are studied, as functions that draw samples."""

import math
from typing import NamedTuple

import torch


class PointCloud(NamedTuple):
    """points: (N, 2), float64, in random order; labels: the part of the distribution of each, (N,), int64, or None."""

    points: torch.Tensor
    labels: torch.Tensor | None = None


def swiss_roll(num_points, generator=None, noise=0.1):
    """A spiral of one and a half turns, angle 3 pi/2 (1 + 2 u) = radius: the roll of Marsland (2009) from its side.

    Its greatest radius is about 14.

    Args:
        noise (`float`): standard deviation of the points about the spiral.
    """
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(num_points, generator=generator, dtype=torch.float64))
    spiral = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1)
    return PointCloud(spiral + noise * _normal(num_points, generator))


def two_moons(num_points, generator=None, noise=0.05):
    """Two half circles of radius 1, one turned around and moved into the other; the labels are 0 and 1."""
    labels = _labels(2, num_points, generator)
    angle = math.pi * torch.rand(num_points, generator=generator, dtype=torch.float64)
    upper = torch.stack([angle.cos(), angle.sin()], dim=1)
    lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], dim=1)
    moons = torch.where(labels[:, None] == 0, upper, lower)
    return PointCloud(moons + noise * _normal(num_points, generator), labels)


def eight_gaussians(num_points, generator=None, noise=0.2):
    """Eight normal distributions of standard deviation `noise` on a circle of radius 2, labelled counterclockwise."""
    labels = _labels(8, num_points, generator)
    angle = labels * (math.pi / 4)
    centres = 2 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return PointCloud(centres + noise * _normal(num_points, generator), labels)


def checkerboard(num_points, generator=None):
    """Uniform on the dark squares of a board of 4 x 4 squares of side 1 about the origin."""
    column = torch.randint(4, (num_points,), generator=generator)
    row = 2 * torch.randint(2, (num_points,), generator=generator) + column % 2
    within = torch.rand(num_points, 2, generator=generator, dtype=torch.float64)
    return PointCloud(torch.stack([column, row], dim=1) + within - 2)


def pinwheel(num_points, generator=None, radial_noise=0.3, tangential_noise=0.1, twist=0.25):
    """Five blades (Johnson et al. 2016): radially stretched normals at radius 1, turned by twist * exp(radius)."""
    labels = _labels(5, num_points, generator)
    blades = _normal(num_points, generator) * torch.tensor([radial_noise, tangential_noise], dtype=torch.float64)
    outwards, across = (blades + torch.tensor([1.0, 0.0], dtype=torch.float64)).unbind(1)
    angle = labels * (2 * math.pi / 5) + twist * outwards.exp()
    cos, sin = angle.cos(), angle.sin()
    return PointCloud(torch.stack([cos * outwards - sin * across, sin * outwards + cos * across], dim=1), labels)


# The values of --dataset that name a distribution.
POINT_CLOUDS = {cloud.__name__: cloud for cloud in (swiss_roll, two_moons, eight_gaussians, checkerboard, pinwheel)}


def _normal(num_points, generator):
    return torch.randn(num_points, 2, generator=generator, dtype=torch.float64)


def _labels(num_classes, num_points, generator):
    return torch.randint(num_classes, (num_points,), generator=generator)
