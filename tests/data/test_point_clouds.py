"""The named distributions have their known shapes and are determined by the seed."""

import math

import pytest
import torch
from torch.testing import assert_close

from ddpm_hf.data.point_clouds import POINT_CLOUDS, checkerboard, eight_gaussians, pinwheel, swiss_roll, two_moons


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", POINT_CLOUDS)
def test_a_seed_says_all_of_it(name):
    first, again, other = (POINT_CLOUDS[name](500, generator(seed)) for seed in (0, 0, 1))
    assert first.points.shape == (500, 2) and first.points.dtype == torch.float64 and first.points.isfinite().all()
    assert torch.equal(first.points, again.points) and not torch.equal(first.points, other.points)
    if first.labels is not None:
        assert first.labels.shape == (500,) and torch.equal(first.labels, again.labels)
    # In random order: the first and the second half are alike.
    halves = first.points.chunk(2)
    assert (halves[0].mean(0) - halves[1].mean(0)).abs().max() < 0.5 * first.points.std(0).max()


def test_the_radius_of_the_roll_is_its_angle():
    points = swiss_roll(5000, generator(), noise=0.0).points
    radius = points.norm(dim=1)
    assert 1.5 * math.pi <= radius.min() < 4.8 and 14 < radius.max() <= 4.5 * math.pi
    assert_close(torch.stack([radius * radius.cos(), radius * radius.sin()], 1), points, rtol=0, atol=1e-9)
    noisy = swiss_roll(5000, generator(), noise=0.1).points
    assert (noisy - points).std().item() == pytest.approx(0.1, rel=0.05)


def test_the_moons_are_half_circles():
    points, labels = two_moons(2000, generator(), noise=0.0)
    for label, centre in ((0, [0.0, 0.0]), (1, [1.0, 0.5])):
        moon = points[labels == label] - torch.tensor(centre)
        assert_close(moon.norm(dim=1), torch.ones(len(moon)).double())
        assert ((moon[:, 1] >= 0) if label == 0 else (moon[:, 1] <= 0)).all()
        assert 800 < len(moon) < 1200


def test_the_eight_gaussians_are_where_their_labels_say():
    points, labels = eight_gaussians(8000, generator())
    for label in range(8):
        one = points[labels == label]
        angle = label * math.pi / 4
        assert_close(one.mean(0), 2 * torch.tensor([math.cos(angle), math.sin(angle)]).double(), rtol=0, atol=0.03)
        assert_close(one.std(0), torch.full((2,), 0.2).double(), rtol=0.1, atol=0)


def test_the_board_has_eight_dark_squares():
    points = checkerboard(4000, generator()).points
    squares = points.floor().long()
    assert squares.min() == -2 and squares.max() == 1
    assert ((squares.sum(1) % 2) == 0).all()
    assert len(squares.unique(dim=0)) == 8


def test_the_blades_of_the_pinwheel_are_turns_of_one():
    points, labels = pinwheel(20_000, generator())
    first = points[labels == 0]
    for label in range(1, 5):
        angle = torch.tensor(2 * math.pi * label / 5)
        turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]]).double()
        assert_close(points[labels == label].mean(0), turn @ first.mean(0), rtol=0, atol=0.03)
