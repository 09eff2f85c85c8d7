"""The kernel for variance-preserving and variance-exploding (a, sigma), by Bayes' rule on Gaussian data."""

import pytest
import torch
from torch.testing import assert_close

from ddpm_hf.schedulers.gaussian_kernel import (
    Levels,
    covariance_scale,
    epsilon_weight,
    posterior_variance,
    posterior_weights,
    prediction_weights,
    score_to_x0,
    snr_ratio,
    transition_variance,
)

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def of(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def vp(alpha_bar_t, alpha_bar_s):
    return Levels(
        *(
            of(*x).sqrt()
            for x in (alpha_bar_t, [1 - a for a in alpha_bar_t], alpha_bar_s, [1 - a for a in alpha_bar_s])
        )
    )


PROCESSES = {
    "vp": vp([0.9, 0.3, 1e-4, 0.5], [0.99, 0.8, 0.2, 1.0]),
    "ve": Levels(of(1, 1, 1, 1), of(0.5, 3, 80, 0.1), of(1, 1, 1, 1), of(0.1, 1, 40, 0)),
    "sub-vp": Levels(of(0.9, 0.5, 0.1), of(0.19, 0.75, 0.99), of(0.99, 0.7, 0.2), of(0.0199, 0.51, 0.96)),
}
of_every_process = pytest.mark.parametrize("levels", PROCESSES.values(), ids=PROCESSES)


def joint_posterior(levels, variance_x0):
    """E[x_s | x_t = 1] and Var[x_s | x_t] of x0 ~ N(0, v), from the joint Gaussian of x_s and x_t, which is a Markov chain.

    x_t = (a_t / a_s) x_s + noise, so that Cov[x_s, x_t] = (a_t / a_s) Var[x_s].
    """
    var_s = levels.signal_s**2 * variance_x0 + levels.sigma_s**2
    var_t = levels.signal_t**2 * variance_x0 + levels.sigma_t**2
    gain = levels.signal_t / levels.signal_s * var_s / var_t
    return gain, var_s - gain**2 * var_t


@of_every_process
def test_the_transition_turns_one_marginal_into_the_next(levels):
    assert_close(
        (levels.signal_t / levels.signal_s) ** 2 * levels.sigma_s**2 + transition_variance(levels),
        levels.sigma_t**2,
        **CLOSE,
    )
    assert ((snr_ratio(levels) >= 0) & (snr_ratio(levels) < 1)).all()


@of_every_process
def test_the_posterior_of_a_single_point_is_that_of_bayes(levels):
    """Given x0 = 0 and x_t, x_s has the mean of the weight of x_t, and the variance lambda^2 at eta = 1."""
    gain, variance = joint_posterior(levels, 0.0)
    of_x0, of_sample = posterior_weights(levels)
    assert_close(of_sample, gain, **CLOSE)
    assert_close(posterior_variance(levels), variance, **CLOSE)
    # Shifted by x0, the same: E[x_s] = a_s x0 where x_t = a_t x0.
    assert_close(of_x0 + of_sample * levels.signal_t, levels.signal_s, **CLOSE)


@of_every_process
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_every_eta_keeps_the_marginals(levels, eta):
    """x_s = mean + lambda z with the true x0 and eps has variance sigma_s^2 about a_s x0 (Song et al. 2020, appendix B)."""
    of_x0, of_sample = posterior_weights(levels, eta)
    assert_close((of_sample * levels.sigma_t) ** 2 + posterior_variance(levels, eta), levels.sigma_s**2, **CLOSE)
    assert_close(of_x0 + of_sample * levels.signal_t, levels.signal_s, **CLOSE)
    assert_close(epsilon_weight(levels, eta) ** 2 + posterior_variance(levels, eta), levels.sigma_s**2, **CLOSE)


@of_every_process
def test_with_the_covariance_of_x0_the_step_is_exact_for_gaussian_data(levels):
    """At eta = 1 mean and variance with E[x0 | x_t] and Cov[x0 | x_t] are those of x_s given x_t (Bao et al. 2022a)."""
    v = 0.7
    var_t = levels.signal_t**2 * v + levels.sigma_t**2
    mean_x0, covariance = levels.signal_t * v / var_t, v * levels.sigma_t**2 / var_t
    of_x0, of_sample = posterior_weights(levels)
    gain, variance = joint_posterior(levels, v)
    assert_close(of_x0 * mean_x0 + of_sample, gain, **CLOSE)
    assert_close(posterior_variance(levels) + of_x0**2 * covariance, variance, rtol=1e-9, atol=1e-12)


@of_every_process
def test_predictions_are_the_same_x0_and_epsilon(levels):
    signal, sigma = levels.signal_t, levels.sigma_t
    x0, epsilon = torch.randn(2, len(signal), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_t = signal * x0 + sigma * epsilon
    outputs = {"epsilon": epsilon, "sample": x0, "v_prediction": signal * epsilon - sigma * x0}
    for prediction_type, output in outputs.items():
        x0_sample, x0_output, eps_sample, eps_output = prediction_weights(prediction_type, signal, sigma)
        assert_close(x0_sample * x_t + x0_output * output, x0, rtol=1e-7, atol=1e-9)
        assert_close(eps_sample * x_t + eps_output * output, epsilon, rtol=1e-7, atol=1e-9)


@of_every_process
def test_the_score_of_gaussian_data_moves_x0_to_its_mean(levels):
    """x_t / a + sigma^2 / a grad log p(x_t) = E[x0 | x_t] (Tweedie), and Cov[x0] = (sigma / a)^2 Cov[eps]."""
    v, signal, sigma = 0.7, levels.signal_t, levels.sigma_t
    var_t = signal**2 * v + sigma**2
    assert_close(1 / signal - score_to_x0(signal, sigma) / var_t, signal * v / var_t, rtol=1e-7, atol=1e-9)
    covariance_epsilon = 1 - sigma**2 / var_t
    assert_close(covariance_scale(signal, sigma) * covariance_epsilon, v * sigma**2 / var_t, rtol=1e-7, atol=1e-9)


def test_without_signal_nothing_is_infinite():
    signal, sigma = of(0.0), of(1.0)
    assert score_to_x0(signal, sigma) == 0 and covariance_scale(signal, sigma).isfinite()
    levels = Levels(signal, sigma, of(0.5).sqrt(), of(0.5).sqrt())
    of_x0, of_sample = posterior_weights(levels)
    assert_close(of_x0, levels.signal_s) and assert_close(of_sample, of(0.0))
