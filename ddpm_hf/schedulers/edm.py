"""EDM (Karras et al. 2022): x = x0 + sigma n, preconditioned networks, noise levels, and Heun's method with churn.

D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) is the denoiser E[x0 | x] of a network F (eq. 7).
"""

import math
from typing import NamedTuple

import torch


class Preconditioning(NamedTuple):
    """The coefficients of D, and the weight of its squared error, for noise levels sigma (table 1)."""

    c_skip: torch.Tensor
    c_out: torch.Tensor
    c_in: torch.Tensor
    c_noise: torch.Tensor
    loss_weight: torch.Tensor


def preconditioning(sigma, sigma_data=0.5):
    """Unit variance of inputs and targets of F for data of standard deviation `sigma_data`, and weight 1 for F."""
    power = sigma**2 + sigma_data**2
    return Preconditioning(
        c_skip=sigma_data**2 / power,
        c_out=sigma * sigma_data / power.sqrt(),
        c_in=1 / power.sqrt(),
        c_noise=sigma.log() / 4,
        loss_weight=power / (sigma * sigma_data) ** 2,
    )


def karras_sigmas(steps, sigma_min=0.002, sigma_max=80.0, rho=7.0):
    """(N + 1,): even in sigma^(1 / rho) from sigma_max to sigma_min, then 0 (eq. 5)."""
    shares = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
    ends = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(ends[0] + shares * (ends[1] - ends[0])) ** rho, shares.new_zeros(1)])


def churned_sigmas(sigmas, churn, least, most):
    """sigma_i (1 + gamma_i) for the N levels that steps begin from (algorithm 2, lines 4 to 5).

    gamma_i = min(churn / N, sqrt(2) - 1) within [least, most], and 0 elsewhere.
    """
    levels = sigmas[:-1]
    gamma = min(churn / len(levels), math.sqrt(2) - 1)
    return torch.where((levels >= least) & (levels <= most), levels * (1 + gamma), levels)
