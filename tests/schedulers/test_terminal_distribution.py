"""The distance of the forward process's end from N(0, I), by the bound and by integration.

The KL divergence is convex, so KL(q(x_T) || N(0, I)) <= E KL(q(x_T | x_0) || N(0, I))
= (abar_T E|x_0|^2 - d abar_T - d log(1 - abar_T)) / 2, which for standardised data is -d log(1 - abar_T) / 2; and the total
variation distance is at most sqrt(KL / 2) (Pinsker).
"""

import math

import pytest
import torch
from scipy import integrate

from ddpm_hf import GaussianDiffusionScheduler


def divergence_bound(alpha_bar, dimensions):
    """The bound on the divergence for standardised data."""
    return -dimensions * math.log1p(-alpha_bar) / 2


@pytest.mark.parametrize("steps", [30, 100, 300, 1000])
def test_the_distance_by_integration_is_within_the_bound(steps):
    """x_T of data that are -1 or 1, and so standardised, is a mixture of two normal distributions."""
    alpha_bar = GaussianDiffusionScheduler(num_train_timesteps=steps).alpha_bar(steps - 1).item()
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)

    def normal(mean, variance):
        return torch.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)

    q = (normal(-(alpha_bar**0.5), 1 - alpha_bar) + normal(alpha_bar**0.5, 1 - alpha_bar)) / 2
    divergence = integrate.simpson((q * (q / normal(0, 1)).log()).numpy(), x=x.numpy())
    variation = integrate.simpson((q - normal(0, 1)).abs().numpy() / 2, x=x.numpy())
    bound = divergence_bound(alpha_bar, dimensions=1)
    assert -1e-12 < divergence <= bound
    assert variation <= math.sqrt(max(divergence, 0) / 2) + 1e-6
    assert variation <= math.sqrt(bound / 2)
