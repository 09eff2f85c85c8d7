"""With Gaussian data and the exact noise predictor, all moments of the samples are known.

For x0 ~ N(m, v) each step is an affine map of x_t plus noise, so a run has an exact mean and variance. The expected ones
come from Bayes' rule for the joint Gaussian of (x_s, x_t), not from the formulas of the scheduler.
"""

import numpy as np
import pytest
import torch

from ddpm_hf import GaussianDiffusionScheduler

MEAN, VARIANCE = 0.3, 0.25
SPACINGS = ("leading", "linspace", "trailing", "quadratic", "logsnr", "karras")


def posterior_of_x0(x_t, alpha_bar):
    """E[x0 | x_t] by conditioning the joint Gaussian."""
    gain = np.sqrt(alpha_bar) * VARIANCE / (alpha_bar * VARIANCE + 1 - alpha_bar)
    return MEAN + gain * (x_t - np.sqrt(alpha_bar) * MEAN)


def model_output(prediction_type, x_t, alpha_bar):
    x0 = posterior_of_x0(x_t, alpha_bar)
    epsilon = (x_t - np.sqrt(alpha_bar) * x0) / np.sqrt(1 - alpha_bar)
    velocity = np.sqrt(alpha_bar) * epsilon - np.sqrt(1 - alpha_bar) * x0
    return {"epsilon": epsilon, "sample": x0, "v_prediction": velocity}[prediction_type]


def expected_moments(alphas_bar, trajectory, variance_of_step):
    """Mean and variance of the result, step by step: x_s | x_t, x0 by Bayes' rule, with E[x0 | x_t] put for x0."""
    mean, variance = 0.0, 1.0
    for t, s in zip(trajectory, [*trajectory[1:], -1], strict=True):
        abar_t, abar_s = alphas_bar[t], 1.0 if s < 0 else alphas_bar[s]
        # (x_s, x_t) given x0: variances 1 - abar, covariance sqrt(abar_t / abar_s) (1 - abar_s)
        gain = np.sqrt(abar_t / abar_s) * (1 - abar_s) / (1 - abar_t)
        slope_x0 = np.sqrt(abar_s) - gain * np.sqrt(abar_t)
        posterior_gain = np.sqrt(abar_t) * VARIANCE / (abar_t * VARIANCE + 1 - abar_t)
        slope = gain + slope_x0 * posterior_gain
        offset = slope_x0 * (1 - posterior_gain * np.sqrt(abar_t)) * MEAN
        mean = slope * mean + offset
        variance = slope**2 * variance + (variance_of_step(abar_t, abar_s) if s >= 0 else 0.0)
    return mean, variance


def small(abar_t, abar_s):
    return (1 - abar_s) - (abar_t / abar_s) * (1 - abar_s) ** 2 / (1 - abar_t)


def large(abar_t, abar_s):
    return 1 - abar_t / abar_s


def sampled_moments(scheduler, **kwargs):
    """The exact moments of a run: each step applied to the mean, and to deviations of x_t and of the noise."""
    alphas_bar = scheduler.alpha_bar(range(len(scheduler))).numpy()
    mean, variance = torch.zeros(1, 1, dtype=torch.float64), 1.0

    def step(t, x_t, noise):
        output = torch.from_numpy(model_output(scheduler.config.prediction_type, x_t.numpy(), alphas_bar[t]))
        noise = torch.full_like(x_t, noise)
        return scheduler.step(output, t, x_t, variance_noise=noise, **kwargs).prev_sample

    for t in scheduler.timesteps:
        image, moved, noised = step(t, mean, 0.0), step(t, mean + 1, 0.0), step(t, mean, 1.0)
        variance = ((moved - image) ** 2 * variance + (noised - image) ** 2).item()
        mean = image
    return mean.item(), variance


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("variance_type, variance_of_step", [("fixed_small", small), ("fixed_large", large)])
@pytest.mark.parametrize("steps", [1, 7, 97])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_ddpm_moments(spacing, steps, variance_type, variance_of_step, prediction_type):
    scheduler = GaussianDiffusionScheduler(
        timestep_spacing=spacing, variance_type=variance_type, prediction_type=prediction_type, clip_sample=False
    )
    scheduler.set_timesteps(steps)
    alphas_bar = scheduler.alpha_bar(range(len(scheduler))).numpy()
    expected = expected_moments(alphas_bar, scheduler.timesteps.tolist(), variance_of_step)
    np.testing.assert_allclose(sampled_moments(scheduler), expected, rtol=1e-8)


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2", "scaled_linear"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_ddim_follows_the_probability_flow(spacing, beta_schedule):
    """At eta = 0 the flow of N(m, v) is known: (x_t - sqrt(abar_t) m) / std_t is constant along it."""
    errors = []
    for steps in (25, 75, 225):
        scheduler = GaussianDiffusionScheduler(
            beta_schedule=beta_schedule, timestep_spacing=spacing, clip_sample=False, eta=0.0
        )
        scheduler.set_timesteps(steps)
        alphas_bar = scheduler.alpha_bar(range(len(scheduler))).numpy()
        first = alphas_bar[scheduler.timesteps[0]]
        std = np.sqrt(VARIANCE / (first * VARIANCE + 1 - first))
        mean = MEAN - std * np.sqrt(first) * MEAN
        sampled_mean, sampled_variance = sampled_moments(scheduler)
        errors.append(abs(sampled_mean - mean) + abs(np.sqrt(sampled_variance) - std))
    assert errors[0] < 0.15 and errors[2] < 0.02
    assert errors[0] > errors[1] > errors[2]


def full_chain_moments(steps, **kwargs):
    scale = 1000 / steps
    scheduler = GaussianDiffusionScheduler(
        steps, beta_start=1e-4 * scale, beta_end=0.02 * scale, clip_sample=False, **kwargs
    )
    return sampled_moments(scheduler)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_finer_chains_converge_to_the_data(eta):
    """First order: twice the steps, half the error. Beginning at N(0, 1) costs the mean at most that of x_T."""
    moments = [full_chain_moments(steps, eta=eta) for steps in (250, 500, 1000)]
    errors = [abs(variance - VARIANCE) for _, variance in moments]
    assert 1.7 < errors[0] / errors[1] < 2.3 and 1.7 < errors[1] / errors[2] < 2.3
    assert all(abs(mean - MEAN) < np.sqrt(5e-5) * MEAN for mean, _ in moments)


def test_the_two_fixed_variances_enclose_the_data():
    (_, below), (_, above) = (full_chain_moments(100, variance_type=kind) for kind in ("fixed_small", "fixed_large"))
    assert below < VARIANCE < above


@pytest.mark.parametrize("spacing", SPACINGS)
def test_fixed_small_is_exact_for_one_point_and_fixed_large_for_standard_normal_data(spacing):
    """Ho et al. (2020), section 3.2, at any number of steps."""
    x_t = torch.linspace(-3, 3, 11, dtype=torch.float64)[:, None]
    for steps in (3, 11):
        point = GaussianDiffusionScheduler(timestep_spacing=spacing, prediction_type="sample")
        point.set_timesteps(steps)
        for t in point.timesteps:
            s = point.previous_timestep(t.item())
            kernel = point.p_mean_variance(torch.full_like(x_t, 0.7), t, x_t)
            posterior = point.q_posterior(torch.full_like(x_t, 0.7), x_t, t)
            torch.testing.assert_close(kernel.mean, posterior.mean)
            torch.testing.assert_close(kernel.variance, posterior.variance)

            # Standard normal data: x_t is N(0, 1) at every t and E[eps | x_t] = sqrt(1 - abar_t) x_t.
            normal = GaussianDiffusionScheduler(
                timestep_spacing=spacing, variance_type="fixed_large", clip_sample=False
            )
            normal.set_timesteps(steps)
            epsilon = (1 - normal.alpha_bar(t)).sqrt() * x_t
            kernel = normal.p_mean_variance(epsilon, t, x_t)
            slope = (kernel.mean[-1] - kernel.mean[0]) / (x_t[-1] - x_t[0])
            if s >= 0:
                torch.testing.assert_close(slope**2 + kernel.variance[0], torch.ones_like(slope))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "logsnr"])
def test_drawn_samples_have_the_known_moments(spacing):
    """The same with real noise: 40,000 samples, four standard errors."""
    count, steps = 40_000, 15
    scheduler = GaussianDiffusionScheduler(timestep_spacing=spacing, clip_sample=False)
    scheduler.set_timesteps(steps)
    alphas_bar = scheduler.alpha_bar(range(len(scheduler))).numpy()
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    for t in scheduler.timesteps:
        output = torch.from_numpy(model_output("epsilon", sample.numpy(), alphas_bar[t]))
        sample = scheduler.step(output, t, sample, generator=generator).prev_sample
    mean, variance = expected_moments(alphas_bar, scheduler.timesteps.tolist(), small)
    assert abs(sample.mean().item() - mean) < 4 * np.sqrt(variance / count)
    assert abs(sample.var().item() / variance - 1) < 4 * np.sqrt(2 / count)


def test_recursive_and_closed_form_of_the_forward_process_agree():
    """x_t made one beta at a time (Ho 2020, eq. 2) has the moments of the closed form (eq. 4)."""
    scheduler = GaussianDiffusionScheduler()
    signal, variance = 1.0, 0.0
    ones, t = torch.ones(1000, 1, dtype=torch.float64), torch.arange(1000)
    from_x0 = scheduler.add_noise(ones, torch.zeros_like(ones), t)[:, 0]
    from_noise = scheduler.add_noise(torch.zeros_like(ones), ones, t)[:, 0]
    for i, beta in enumerate(np.linspace(1e-4, 0.02, 1000)):
        signal, variance = signal * np.sqrt(1 - beta), variance * (1 - beta) + beta
        np.testing.assert_allclose([from_x0[i], from_noise[i] ** 2], [signal, variance], rtol=1e-10)
