"""The exact noise predictor of a set of points, against its derivative, against sampling, and in limits."""

import torch
from torch.testing import assert_close

from ddpm_hf.data.point_clouds import exact_noise_moments, swiss_roll


def some_points(count=30):
    return swiss_roll(count, torch.Generator().manual_seed(0))


def noisy(points, alpha_bar, draws, seed=1):
    """x_t and eps of `draws` draws from the points."""
    generator = torch.Generator().manual_seed(seed)
    x0 = points[torch.randint(len(points), (draws,), generator=generator)]
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise, noise


def test_the_roll_is_in_the_range_of_the_models():
    points = swiss_roll(5000, torch.Generator().manual_seed(0))
    assert points.shape == (5000, 2) and points.abs().max() <= 1
    assert points.norm(dim=1).min() > 0.2  # it starts off the middle, after half a turn and more


def test_one_point_leaves_no_doubt():
    point, x_t = torch.tensor([[0.3, -0.2]]).double(), torch.randn(5, 2).double()
    mean, variance = exact_noise_moments(point, x_t, 0.6)
    assert_close(mean, (x_t - 0.6**0.5 * point) / 0.4**0.5)
    assert_close(variance, torch.zeros_like(variance), rtol=0, atol=1e-12)


def test_the_variance_is_the_derivative_of_the_mean():
    """Tweedie's formulas: d eps / d x_t = (1 - Var[eps | x_t]) / sqrt(1 - abar), the head of `ocm`."""
    points = some_points()
    for alpha_bar in (0.999, 0.9, 0.3):
        x_t, _ = noisy(points, alpha_bar, 6)
        jacobian = torch.autograd.functional.jacobian(lambda x, a=alpha_bar: exact_noise_moments(points, x, a)[0], x_t)
        diagonal = torch.einsum("bibi->bi", jacobian)
        _, variance = exact_noise_moments(points, x_t, alpha_bar)
        assert_close(diagonal, (1 - variance) / (1 - alpha_bar) ** 0.5, rtol=1e-6, atol=1e-6)


def test_it_is_the_conditional_expectation():
    """E[eps] = E[E[eps | x_t]], and the error of the best guess is the variance that it states."""
    points = some_points()
    x_t, noise = noisy(points, 0.8, 100_000)
    mean, variance = exact_noise_moments(points, x_t, 0.8)
    assert_close(mean.mean(0), noise.mean(0), rtol=0, atol=0.01)
    assert_close((noise - mean).square().mean(0), variance.mean(0), rtol=0.01, atol=0)
    assert_close(((noise - mean) * x_t).mean(0), torch.zeros(2).double(), rtol=0, atol=0.01)


def test_single_precision_is_enough_for_pictures():
    points = some_points()
    x_t, _ = noisy(points, 0.99, 50)
    for exact, single in zip(
        exact_noise_moments(points, x_t, 0.99), exact_noise_moments(points.float(), x_t, 0.99), strict=True
    ):
        assert_close(single.double(), exact, rtol=0, atol=1e-3)
