"""The flow and the posterior of Gaussian data from their moments, against the exact denoiser and Bayes' rule."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from ddpm_hf import ExactDenoiser, GaussianDiffusionScheduler
from ddpm_hf.schedulers.data_moments import (
    DataMoments,
    LowestFrequencies,
    PrincipalAxes,
    cosine_basis,
    moments_from_config,
)

LEVELS = {t: (math.sqrt(a), math.sqrt(1 - a)) for t, a in {"noisy": 0.02, "clear": 0.6}.items()}


def moments(shape=(1, 3, 2), axes=3, rest=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(math.prod(shape), axes, generator=generator, dtype=torch.float64)).Q.T
    mean = torch.randn(shape, generator=generator, dtype=torch.float64)
    variances = torch.rand(axes, generator=generator, dtype=torch.float64) + 0.5
    return DataMoments(mean, variances, rest, PrincipalAxes(basis))


def covariance(of):
    axes = of.axes.axes
    return of.rest * torch.eye(axes.shape[1]) + axes.T @ torch.diag(of.variances - of.rest) @ axes


def test_the_posterior_mean_is_that_of_the_exact_denoiser():
    of, scheduler = moments(), GaussianDiffusionScheduler(clip_sample=False, prediction_type="sample")
    exact = ExactDenoiser.from_gaussian_mixture(of.mean[None], covariance(of)[None], scheduler)
    x_t = torch.randn(4, 1, 3, 2, dtype=torch.float64)
    alpha_bar = scheduler.alpha_bar(700).item()
    signal, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    assert_close(of.predicted_x0(x_t, signal, sigma), exact(x_t, 700).sample, rtol=1e-9, atol=1e-9)


def test_the_flow_follows_the_posterior_mean():
    """d x / d sigma = (x - x0_hat) / sigma at a = 1, integrated by small steps of second order."""
    of, x = moments(), torch.randn(4, 1, 3, 2, dtype=torch.float64)
    expected = of.flow(x, 1.0, 2.0, 1.0, 0.5)
    sigmas = torch.linspace(2.0, 0.5, 2001, dtype=torch.float64).tolist()
    for here, there in itertools.pairwise(sigmas):
        slope = (x - of.predicted_x0(x, 1.0, here)) / here
        middle, half = x + slope * (there - here) / 2, (here + there) / 2
        x = x + (middle - of.predicted_x0(middle, 1.0, half)) / half * (there - here)
    assert_close(x, expected, rtol=1e-6, atol=1e-6)


def test_the_flow_turns_marginals_into_marginals_and_back():
    of = moments()
    x = torch.randn(50_000, 1, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (a, sigma), (a_s, sigma_s) = LEVELS["noisy"], LEVELS["clear"]
    values, vectors = torch.linalg.eigh(a**2 * covariance(of) + sigma**2 * torch.eye(6))
    x_t = a * of.mean + ((x.flatten(1) * values.sqrt()) @ vectors.T).reshape(x.shape)
    x_s = of.flow(x_t, a, sigma, a_s, sigma_s)
    assert_close(x_s.mean(0), a_s * of.mean, rtol=0, atol=0.03)
    assert_close(x_s.flatten(1).T.cov(), a_s**2 * covariance(of) + sigma_s**2 * torch.eye(6), rtol=0, atol=0.03)
    assert_close(of.flow(x_s, a_s, sigma_s, a, sigma), x_t, rtol=1e-9, atol=1e-9)


def test_frequencies_are_axes_of_cosine_functions():
    counts, sides = (2, 3), (4, 5)
    rows, columns = (cosine_basis(side)[:count] for side, count in zip(sides, counts, strict=True))
    axes = torch.einsum("fh,gw->fghw", rows, columns).reshape(6, 20)
    assert_close(axes @ axes.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-12)
    variances = torch.rand(1, *counts, dtype=torch.float64) + 0.5
    mean = torch.zeros(1, *sides, dtype=torch.float64)
    by_frequency = DataMoments(mean, variances, 0.1, LowestFrequencies(counts, sides))
    by_axes = DataMoments(mean, variances.flatten(), 0.1, PrincipalAxes(axes))
    x = torch.randn(3, 1, *sides, dtype=torch.float64)
    for moved in (lambda m: m.flow(x, *LEVELS["noisy"], *LEVELS["clear"]), lambda m: m.predicted_x0(x, 0.5, 0.8)):
        assert_close(moved(by_frequency), moved(by_axes), rtol=1e-10, atol=1e-10)


def test_moments_travel_in_a_config():
    x = torch.randn(2, 1, 4, 6)
    in_the_span = cosine_basis(4)[:2].T @ torch.randn(1, 2, 3, dtype=torch.float64) @ cosine_basis(6)[:3]
    frequencies = DataMoments(in_the_span, torch.rand(1, 2, 3), 0.1, LowestFrequencies((2, 3), (4, 6)))
    for of in (frequencies, moments((1, 4, 6))):
        again = moments_from_config(of.to_config())
        levels = (*LEVELS["noisy"], *LEVELS["clear"])
        assert_close(again.flow(x, *levels), of.flow(x, *levels), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shape": [1, 5, 2]}, r"'mean' of .* shape \(1, 5, 2\), has 6 numbers and needs 10"),
        ({"rest": -1.0}, "a variance below 0"),
        ({"rest": math.nan}, "a variance below 0"),
        ({"variances": moments(rest=0.2, axes=2).to_config()["variances"]}, "'axes' .* 18 numbers and needs 12"),
        ({"mean": DataMoments(torch.full((1, 3, 2), math.inf), None, 0, PrincipalAxes(torch.eye(6))).mean}, None),
    ],
)
def test_damaged_moments(change, message):
    told = moments().to_config()
    if message is None:
        of = moments()
        told, message = DataMoments(change["mean"], of.variances, 0.2, of.axes).to_config(), "'mean' .* is not finite"
    else:
        told |= change
    with pytest.raises(ValueError, match=message):
        moments_from_config(told)
