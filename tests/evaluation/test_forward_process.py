"""The step-by-step forward process has exact moments and agrees with the closed form; a disagreement is detected."""

import pytest
import torch
from scipy.stats import kstest
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionScheduler
from ddpm_hf.data.point_clouds import swiss_roll
from ddpm_hf.evaluation.distances import energy_test
from ddpm_hf.evaluation.forward_process import forward_marginals, step_by_step
from ddpm_hf.evaluation.variational_bound import prior_term

TIMESTEPS = [0, 29, 59, 99, 299, 999]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def roll(count, seed=0):
    points = swiss_roll(count, seeded(seed)).points
    return (points - points.mean(0)) / points.std(0)


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_moments_of_the_steps(schedule):
    """From one point the mean is sqrt(abar) x_0 and the variance 1 - abar, both within four standard errors."""
    scheduler = GaussianDiffusionScheduler(beta_schedule=schedule)
    count, x_0 = 4000, torch.tensor([1.5, -0.5]).double().expand(4000, 2)
    for t, x_t in zip(TIMESTEPS, step_by_step(scheduler, x_0, TIMESTEPS, seeded()), strict=True):
        alpha_bar = scheduler.alpha_bar(t)
        sigma = (1 - alpha_bar).sqrt()
        noise = (x_t - alpha_bar.sqrt() * x_0) / sigma
        assert_close(noise.mean(0), torch.zeros(2).double(), rtol=0, atol=4 / count**0.5)
        assert noise.square().mean().item() == pytest.approx(1, rel=4 * (2 / (2 * count)) ** 0.5)


def test_steps_and_closed_form_agree():
    """Over seeds p is as it is for equal distributions: above 0.01 but for one case in a hundred, and uniform."""
    scheduler = GaussianDiffusionScheduler()
    p = []
    for seed in range(8):
        p += [
            m.p for m in forward_marginals(scheduler, roll(240, seed), TIMESTEPS, seeded(seed), num_permutations=199)
        ]
    assert sum(value <= 0.01 for value in p) <= 3  # of 48: more has a probability of 1 in 600
    assert kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_steps_of_other_noise_are_seen(factor):
    """At the timesteps that the pictures show but the last two, where nearly all is noise either way."""
    scheduler = GaussianDiffusionScheduler()
    scheduler.betas = scheduler.betas * factor  # those of the steps; the closed form keeps its own
    wrong = forward_marginals(scheduler, roll(800), TIMESTEPS[:4], seeded(), num_permutations=499)
    assert [marginal.p <= 0.01 for marginal in wrong] == [True] * 4


def test_one_step_more_is_seen():
    """The noise of one step more, x_1 in place of x_0, is found at the first timestep."""
    scheduler = GaussianDiffusionScheduler()
    scheduler.betas[0] += scheduler.betas[1]
    (wrong,) = forward_marginals(scheduler, roll(800), [0], seeded(), num_permutations=499)
    assert wrong.p <= 0.01


def test_the_end_is_noise_within_the_bound():
    """KL(q(x_T | x_0) || N(0, I)) is below 1e-4 nats, so that x_T passes for noise (Pinsker: total variation below 0.01)."""
    scheduler, x_0 = GaussianDiffusionScheduler(), roll(600)
    assert prior_term(scheduler, x_0).mean() < 1e-4
    (x_T,) = step_by_step(scheduler, x_0, [999], seeded())
    noise = torch.randn(600, 2, generator=seeded(1), dtype=x_T.dtype)
    assert energy_test(x_T, noise, 499, seeded())[1] > 0.01


def test_images_are_compared_as_vectors():
    images = torch.rand(40, 1, 4, 4, generator=seeded()) * 2 - 1
    (marginal,) = forward_marginals(GaussianDiffusionScheduler(), images, [10], seeded(), num_permutations=99)
    assert marginal.step_by_step.shape == marginal.at_once.shape == images.shape and 0.01 <= marginal.p <= 1


@pytest.mark.parametrize(
    "count, timesteps, message",
    [
        (1, [0], "1 sample"),
        (8, [5, 2], r"timesteps=\[5, 2\] must ascend"),
        (8, [1000], r"in 0 .. 999"),
        (8, [], "ascend"),
    ],
)
def test_mistakes(count, timesteps, message):
    with pytest.raises(ValueError, match=message):
        forward_marginals(GaussianDiffusionScheduler(), torch.zeros(count, 2), timesteps)
