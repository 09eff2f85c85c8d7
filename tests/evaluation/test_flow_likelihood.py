"""The likelihood by the probability flow against the published code, closed forms and the exact models."""

import math

import pytest
import torch
from torch.testing import assert_close
from toy_densities import toy_log_prob, toy_score

from ddpm_hf import ExactDenoiser, GaussianDiffusionScheduler, ScoreSDEScheduler
from ddpm_hf.evaluation import ode_log_likelihood
from ddpm_hf.evaluation.flow_likelihood import flow_likelihood
from ddpm_hf.ode_solver import OdeOptions, solve_ode
from ddpm_hf.schedulers.edm import preconditioning
from ddpm_hf.schedulers.scheduling_edm import EDMScheduler

SDES = {"vp": "vp", "subvp": "sub_vp", "ve": "ve"}


def rademacher(like, seed=0):
    return torch.randint(2, like.shape, generator=torch.Generator().manual_seed(seed)).double() * 2 - 1


def toy_of(reference, name, toy, **options):
    """The scheduler, and the exact score of the toy at (x, t)."""
    arrays = reference("predictor_corrector")
    scheduler = ScoreSDEScheduler(sde=SDES[name], **options)
    score = toy_score(arrays, toy)
    return scheduler, lambda x, t: score(x, *scheduler.process.levels(t))


@pytest.mark.parametrize(("toy", "kind"), [("gauss", "Rademacher"), ("gmm", "Gaussian")])
@pytest.mark.parametrize("name", SDES)
def test_the_published_likelihoods_with_the_same_probe(reference, name, toy, kind):
    arrays, key = reference("flow_likelihood"), f"{name}/{toy}"
    scheduler, score = toy_of(reference, name, toy)  # 1e-5 is where likelihoods begin by default
    samples, probe = arrays[f"{key}/x"], arrays[f"{key}/hutchinson/{kind}"]
    log_prob, latents = ode_log_likelihood(score, scheduler, samples, probe, rtol=1e-9, atol=1e-9)
    expected = arrays[f"{key}/eps1e-05/{kind}/tol1e-09/bpd"]
    bits = -log_prob / (8 * math.log(2)) + arrays[f"{key}/offset"]
    assert_close(bits, expected, rtol=1e-7, atol=1e-7)
    assert_close(latents, arrays[f"{key}/eps1e-05/exact/z"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SDES)
def test_gaussian_data_have_their_exact_likelihood_and_latents(reference, name):
    arrays, key = reference("flow_likelihood"), f"{name}/gauss"
    for eps in ("1e-05", "1e-03"):
        scheduler, score = toy_of(reference, name, "gauss", sampling_eps=float(eps))
        samples = arrays[f"{key}/x"]
        found = flow_likelihood(score, scheduler, samples, rademacher(samples), OdeOptions(1e-8, 1e-8))
        assert_close(found.log_prob, arrays[f"{key}/eps{eps}/exact/logp_with_prior"], rtol=0, atol=1e-5)
        assert_close(found.latents, arrays[f"{key}/eps{eps}/exact/z"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SDES)
def test_the_divergence_is_the_difference_of_the_true_log_densities(reference, name):
    # On a Gaussian the probe is exact, and no prior takes part: log p_eps(x) = log p_1(z) + the divergence.
    arrays = reference("predictor_corrector")
    scheduler, score = toy_of(reference, name, "gauss")
    samples = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = flow_likelihood(score, scheduler, samples, rademacher(samples), OdeOptions(1e-8, 1e-8))
    divergence = found.log_prob - scheduler.prior_log_prob(found.latents)
    time = torch.tensor([1e-5, 1.0], dtype=torch.float64)
    (a_eps, a_1), (s_eps, s_1) = scheduler.process.levels(time)
    at_eps, at_1 = (
        toy_log_prob(arrays, "gauss", x, a, s) for x, a, s in ((samples, a_eps, s_eps), (found.latents, a_1, s_1))
    )
    assert_close(at_1 + divergence, at_eps, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sigma_data", [0.5, 0.9])
def test_a_network_of_edm_has_the_likelihood_of_its_data(sigma_data):
    """F of normal data of variance 0.3, whose E[x0 | x] is 0.3 x / (0.3 + sigma^2).

    The network is given the time in float32, which the score has 1 / sigma^2 times, so the least sigma is not small.
    """
    variance = 0.3
    scheduler = ScoreSDEScheduler.from_config(EDMScheduler(sigma_data=sigma_data, sigma_min=0.1).config)

    def network(scaled, c_noise):
        sigma = (4 * c_noise.double()).exp()[:, None]
        c = preconditioning(sigma, sigma_data)
        x = scaled / c.c_in
        return (variance / (variance + sigma**2) * x - c.c_skip * x) / c.c_out

    def score(x, t):
        return scheduler.score(network(scheduler.scale_model_input(x, t), scheduler.network_time(t)), t, x)

    samples = torch.tensor([[0.1, -0.7], [2.0, 0.3], [0.0, 0.0]], dtype=torch.float64)
    t = torch.tensor([0.02, 0.5, 1.0], dtype=torch.float64)
    sigma = scheduler.process.levels(t)[1][:, None]
    assert_close(score(samples, t), -samples / (variance + sigma**2), rtol=1e-6, atol=0)
    log_prob, latents = ode_log_likelihood(score, scheduler, samples, rademacher(samples), rtol=1e-7, atol=1e-7)

    def true_log_prob(x, sigma):
        total = variance + sigma**2
        return -(x**2).sum(1) / (2 * total) - math.log(2 * math.pi * total)

    # The prior N(0, 80^2) stands for N(0, 80^2 + 0.3).
    log_prob += true_log_prob(latents, 80.0) - scheduler.prior_log_prob(latents)
    first = scheduler.process.levels(torch.tensor(1e-5, dtype=torch.float64))[1].item()
    assert_close(log_prob, true_log_prob(samples, first), rtol=0, atol=1e-5)


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
def test_the_exact_model_of_points_has_its_own_density(beta_schedule):
    """A DDPM in continuous time; the probes of a basis give the trace of each Jacobian, so nothing is random."""
    chain = GaussianDiffusionScheduler(100, beta_end=0.2, beta_schedule=beta_schedule)
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    denoiser = ExactDenoiser.from_gaussian_mixture(means, torch.full_like(means, 0.05), chain)
    scheduler = ScoreSDEScheduler.from_config(chain.config)
    samples = denoiser.sample(6, generator)

    def score(x, t):
        return scheduler.score(denoiser(x, scheduler.network_time(t).double()).sample, t, x)

    # The mean of v^T J v over the four probes of signs is the trace.
    found = [
        flow_likelihood(
            score, scheduler, samples, torch.tensor(signs).double().expand_as(samples), OdeOptions(1e-7, 1e-7)
        )
        for signs in ((1, 1), (1, -1))
    ]
    log_prob = sum(each.log_prob for each in found) / 2
    last = denoiser.log_likelihood(found[0].latents, 99) - scheduler.prior_log_prob(found[0].latents)
    assert_close(log_prob + last, denoiser.log_likelihood(samples, 0), rtol=0, atol=1e-4)


def test_the_exact_model_of_images_has_its_own_density():
    """The rows of a Hadamard matrix as probes give the trace exactly, here of 16 dimensions, in one batch."""
    chain, generator = GaussianDiffusionScheduler(100, beta_end=0.2), torch.Generator().manual_seed(0)
    means = torch.randn(3, 1, 4, 4, generator=generator, dtype=torch.float64) / 2
    axes = torch.linalg.qr(torch.randn(3, 16, 2, generator=generator, dtype=torch.float64))[0].mT.reshape(
        3, 2, 1, 4, 4
    )
    variances = torch.full((3, 2), 0.1, dtype=torch.float64)
    denoiser = ExactDenoiser.from_low_rank_mixture(means, axes, variances, 0.01, chain)
    scheduler = ScoreSDEScheduler.from_config(chain.config)
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(4):
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    for image in denoiser.sample(2, generator):
        samples = image.expand(16, 1, 4, 4)

        def score(x, t):
            return scheduler.score(denoiser(x, scheduler.network_time(t).double()).sample, t, x)

        found = flow_likelihood(score, scheduler, samples, hadamard.reshape(16, 1, 4, 4), OdeOptions(1e-6, 1e-6))
        last = denoiser.log_likelihood(found.latents, 99) - scheduler.prior_log_prob(found.latents)
        log_prob = (found.log_prob + last).mean()
        assert_close(log_prob, denoiser.log_likelihood(image[None], 0)[0], rtol=0, atol=1e-3)


# Refusals ------------------------------------------------------------------------------------------------------------


def test_a_solver_that_does_not_converge_says_how_far_it_came():
    def explode(t, state):
        return (state[0] ** 2,)  # infinite at t = 1

    with pytest.raises(ValueError, match="does not converge: it came to t=1 of 2 in"):
        solve_ode(explode, (torch.ones(1, dtype=torch.float64),), 0.0, 2.0)
    with pytest.raises(ValueError, match="The derivative is not finite: it came to t=0 of 1 in 1 calls"):
        solve_ode(lambda t, state: (state[0] * math.nan,), (torch.ones(1),), 0.0, 1.0)


def test_bad_tolerances_and_probes_are_refused():
    scheduler, x = ScoreSDEScheduler(), torch.zeros(2, 3)
    for rtol in (0.0, -1e-5, math.nan):
        with pytest.raises(ValueError, match="must be greater than 0"):
            ode_log_likelihood(lambda x, t: -x, scheduler, x, x, rtol=rtol)
    with pytest.raises(ValueError, match=r"probe of shape \(1, 3\)"):
        ode_log_likelihood(lambda x, t: -x, scheduler, x, x[:1])


def test_the_derivative_is_never_asked_beyond_the_ends():
    times = []
    solved = solve_ode(
        lambda t, y: (-y[0],), (torch.ones(1, dtype=torch.float64),), 1.0, 0.001, OdeOptions(on_call=times.append)
    )
    assert min(times) >= 0.001
    assert max(times) <= 1.0
    assert len(times) == solved.calls
    assert_close(solved.state[0].item(), math.exp(0.999), rtol=1e-4, atol=0)


def test_no_sample_is_less_exact_for_the_easy_ones_of_its_batch():
    """y' = -20 y for one, and no change for 99 others, in whose mean square its error would be a tenth."""
    rates = torch.zeros(100, 4, dtype=torch.float64)
    rates[0] = -20.0
    errors = []
    for batch in (rates[:1], rates):
        start, options = (torch.ones_like(batch),), OdeOptions(1e-4, 1e-4)
        solved = solve_ode(lambda t, y, rates=batch: (rates * y[0],), start, 0.0, 1.0, options)
        errors.append((solved.state[0][0] - math.exp(-20)).abs().max().item())
    assert errors[1] <= 1.01 * errors[0]
