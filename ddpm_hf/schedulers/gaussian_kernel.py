"""The reverse kernel of every Gaussian process x_t = a_t x0 + sigma_t eps, as functions of noise levels alone.

For a step x_t -> x_s (s < t), with r = (a_t sigma_s) / (a_s sigma_t), whose square is the ratio of the two
signal-to-noise ratios, the kernel with noise eta draws x_s from a Gaussian with

    lambda^2 = eta^2 sigma_s^2 (1 - r^2)
    mean     = a_s x0_hat + sqrt(sigma_s^2 - lambda^2) eps_hat
    variance = lambda^2 + (a_s - a_t sqrt(sigma_s^2 - lambda^2) / sigma_t)^2 Cov[x0 | x_t]

The variance-preserving process of DDPM has a_t^2 = alpha_bar_t and sigma_t^2 = 1 - alpha_bar_t (Song et al. 2020, eq.
12 and 16); a variance-exploding process has a_t = 1. Tensors have any shape; `reverse_kernel` applies these numbers to
samples.
"""

from typing import NamedTuple

import torch

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


class Levels(NamedTuple):
    """The noise levels of a step x_t -> x_s: x_t = `signal_t` x0 + `sigma_t` eps, and x_s likewise."""

    signal_t: torch.Tensor
    sigma_t: torch.Tensor
    signal_s: torch.Tensor
    sigma_s: torch.Tensor


def snr_ratio(levels):
    """r^2 = SNR_t / SNR_s, in [0, 1]; 0 where x_s is clean data, and where x_t holds no signal."""
    return (levels.signal_t * levels.sigma_s / (levels.signal_s * levels.sigma_t)) ** 2


def transition_variance(levels):
    """Var[x_t | x_s] = sigma_t^2 - (a_t / a_s)^2 sigma_s^2; for adjacent timesteps beta_t (Ho et al. 2020, eq. 2)."""
    return levels.sigma_t**2 * (1 - snr_ratio(levels))


def posterior_variance(levels, eta=1.0):
    """lambda^2 = Var[x_s | x_t, x0], DDPM's beta~_t (Ho et al. 2020, eq. 7; Song et al. 2020, eq. 16)."""
    return eta**2 * levels.sigma_s**2 * (1 - snr_ratio(levels))


def epsilon_weight(levels, eta=1.0):
    """sqrt(sigma_s^2 - lambda^2), the weight of eps_hat in the mean (Song et al. 2020, eq. 12)."""
    return levels.sigma_s * (1 - eta**2 + eta**2 * snr_ratio(levels)) ** 0.5


def posterior_weights(levels, eta=1.0):
    """The weights of x0 and of x_t in E[x_s | x_t, x0] (Ho et al. 2020, eq. 7; Song et al. 2020, eq. 7)."""
    of_epsilon = epsilon_weight(levels, eta)
    return levels.signal_s - levels.signal_t * of_epsilon / levels.sigma_t, of_epsilon / levels.sigma_t


def prediction_weights(prediction_type, signal, sigma):
    """The weights of x_t and of the network's output in x0_hat, then in eps_hat.

    `epsilon` is Ho et al. 2020, eq. 9; `v_prediction`, v = a eps - sigma x0, is Salimans & Ho 2022, appendix D, where
    a^2 + sigma^2 = 1.
    """
    zero, one = torch.zeros_like(signal), torch.ones_like(signal)
    if prediction_type == "epsilon":
        return 1 / signal, -sigma / signal, zero, one
    if prediction_type == "sample":
        return zero, one, 1 / sigma, -signal / sigma
    power = signal**2 + sigma**2
    return signal / power, -sigma / power, sigma / power, signal / power


def score_to_x0(signal, sigma):
    """d x0_hat / d score = sigma^2 / a; 0 without signal, where x_t carries no information about a class."""
    return (sigma**2 / signal).masked_fill(signal == 0, 0)


def covariance_scale(signal, sigma):
    """sigma^2 / a^2 = Cov[x0 | x_t] / Cov[eps | x_t]; without signal a large number, so that it times 0 is 0."""
    return ((sigma / signal) ** 2).clamp(max=1e12)
