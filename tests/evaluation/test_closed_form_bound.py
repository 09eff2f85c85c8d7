"""The bound on Gaussian data with the exact predictor equals its closed form.

Each term is a polynomial of second degree in (x0, noise), so three Gauss-Hermite nodes per variable give its exact
expectation without sampling. The decoder's bins are so fine that its likelihood is the density times the width.
"""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionScheduler
from ddpm_hf.evaluation.variational_bound import bound_term, prior_term

MEAN, VARIANCE = 0.1, 0.04
LEVELS = 2**22 + 1
LOG_BIN = math.log(2 / (LEVELS - 1))
NODES = torch.tensor([-(3**0.5), 0.0, 3**0.5], dtype=torch.float64)
WEIGHTS = torch.tensor([1, 4, 1], dtype=torch.float64) / 6


def exact_x0(x_t, alpha_bar, variance):
    """E[x0 | x_t]"""
    gain = alpha_bar**0.5 * variance / (alpha_bar * variance + 1 - alpha_bar)
    return MEAN + gain * (x_t - alpha_bar**0.5 * MEAN)


def optimal_variance(alpha_bar_t, alpha_bar_s, variance):
    """Var[x_s | x_t] of the joint Gaussian of x_s and x_t: no variance serves the bound better."""
    var_s, var_t = (a * variance + 1 - a for a in (alpha_bar_s, alpha_bar_t))
    return var_s - (alpha_bar_t / alpha_bar_s) * var_s**2 / var_t


def expected_terms(steps, kind, variance=VARIANCE, factor=1.0):
    """Expectations of the K terms, timesteps descending, and of the prior term; nats per dimension.

    Args:
        kind: a fixed `variance_type`, or "optimal", times `factor`.
    """
    variance_type = "learned" if kind == "optimal" else kind
    scheduler = GaussianDiffusionScheduler(
        prediction_type="sample", variance_type=variance_type, clip_sample=False, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(steps)
    alphas_bar = scheduler.alpha_bar(range(-1, len(scheduler))).tolist()
    weights = torch.outer(WEIGHTS, WEIGHTS).flatten()
    z, noise = torch.meshgrid(NODES, NODES, indexing="ij")
    x0 = (MEAN + variance**0.5 * z).reshape(9, 1, 1, 1)
    terms = []
    for t in scheduler.timesteps.tolist():
        s = scheduler.previous_timestep(t)
        x_t = scheduler.add_noise(x0, noise.reshape(9, 1, 1, 1), t)
        output = exact_x0(x_t, alphas_bar[t + 1], variance)
        if kind == "optimal":
            best = factor * optimal_variance(alphas_bar[t + 1], alphas_bar[s + 1], variance)
            output = torch.cat([output, torch.full_like(output, math.log(best))], dim=1)
        terms.append(weights @ bound_term(scheduler, output, t, x0, x_t, levels=LEVELS))
    return torch.stack(terms), weights @ prior_term(scheduler, x0)


def expected_bound(*args, **kwargs):
    terms, prior = expected_terms(*args, **kwargs)
    return (terms.sum() + prior).item()


ENTROPY = 0.5 * math.log(2 * math.pi * math.e * VARIANCE) - LOG_BIN


def start_gap():
    """KL(q(x_T) || N(0, 1)): what no reverse process that starts from N(0, 1) can make up for."""
    alpha_bar = GaussianDiffusionScheduler().alpha_bar(999).item()
    mean, variance = alpha_bar**0.5 * MEAN, alpha_bar * VARIANCE + 1 - alpha_bar
    return 0.5 * (variance - 1 - math.log(variance) + mean**2)


@pytest.mark.parametrize("steps", [2, 3, 10, 25, 100, 1000])
def test_optimal_variance_gives_the_exact_negative_log_likelihood(steps):
    assert_close(expected_bound(steps, "optimal"), ENTROPY + start_gap(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large"])
def test_fixed_variances_bound_it_and_approach_it_with_more_steps(kind):
    gaps = []
    for steps in (2, 3, 10, 28, 112, 1000):
        (terms, prior), (best, _) = expected_terms(steps, kind), expected_terms(steps, "optimal")
        assert terms.sum() + prior > ENTROPY + start_gap()
        assert (terms > best - 1e-9).all()
        gaps.append((terms - best)[:-1].sum().item())  # the decoder's does not shrink: it is a step to t = 0 always
    assert all(fewer > more for fewer, more in pairwise(gaps))
    assert gaps[-1] < 0.01 * gaps[0]


@pytest.mark.parametrize("factor", [0.8, 0.99, 1.01, 1.25])
@pytest.mark.parametrize("steps", [2, 10, 100])
def test_every_term_is_least_at_the_optimal_variance(steps, factor):
    best, prior = expected_terms(steps, "optimal")
    other, same_prior = expected_terms(steps, "optimal", factor=factor)
    assert (other > best).all()
    assert_close(prior, same_prior)
    # KL of normal distributions of the same mean, whose variances are 1 : factor, whatever the term.
    assert_close(other - best, torch.full_like(best, 0.5 * (1 / factor - 1 + math.log(factor))), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind, variance", [("fixed_large", 1.0), ("fixed_small", 1e-9)])
def test_each_fixed_variance_is_optimal_for_its_data(kind, variance):
    """beta for standard normal data, beta~ for a single point (Ho 2020, section 3.2); the decoder has its own."""
    fixed, optimal = (expected_terms(10, k, variance=variance)[0][:-1] for k in (kind, "optimal"))
    assert_close(fixed, optimal, rtol=1e-5, atol=1e-6)
    other = "fixed_small" if kind == "fixed_large" else "fixed_large"
    assert (expected_terms(10, other, variance=variance)[0][:-1] > optimal + 1e-3).any()
