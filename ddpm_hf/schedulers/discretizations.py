"""Discrete forms of a process of real time: x <- x + f + G z for N steps (Song et al. 2021, eq. 8, 10 and appendix E).

A discretization of N steps gives for times t, a float64 tensor, `coefficients(t)`: the factor of x in f, and G. Level
i = floor(t (N - 1)), 0-based, is the row of its tables. `alpha(t)` multiplies the step of a corrector, and
`ancestral(t)` has the three numbers of ancestral sampling: x_mean = (x + first * score) / second, and the standard
deviation of the noise.
"""

import torch

from ddpm_hf.schedulers.continuous_processes import (
    InterpolatedChain,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)

# The time of a level, i / (N - 1), may be rounded to a little less.
LEVEL_TOLERANCE = 1e-6


class Discretization:
    """The tables of N steps, copied to devices on demand."""

    def __init__(self, steps):
        self.steps = steps
        self._on_devices = {}

    def level(self, t):
        return (t * (self.steps - 1) + LEVEL_TOLERANCE).floor().long()

    def table(self, name, t):
        if (name, t.device) not in self._on_devices:
            self._on_devices[name, t.device] = getattr(self, name).to(t)
        return self._on_devices[name, t.device][self.level(t)]


class ChainOfBetas(Discretization):
    """DDPM's chain: f = (sqrt(1 - beta_i) - 1) x, G = sqrt(beta_i).

    Args:
        betas (`torch.Tensor`): (N,), float64, each in (0, 1).
    """

    def __init__(self, betas):
        super().__init__(len(betas))
        self.betas = betas

    def coefficients(self, t):
        beta = self.table("betas", t)
        return (1 - beta).sqrt() - 1, beta.sqrt()

    def alpha(self, t):
        return 1 - self.table("betas", t)

    def ancestral(self, t):
        beta = self.table("betas", t)
        return beta, (1 - beta).sqrt(), beta.sqrt()


class EulerSteps(ChainOfBetas):
    """Steps of Euler-Maruyama of length 1 / N: f = r x / N, G = g / sqrt(N); the betas give alpha alone."""

    def __init__(self, process, betas):
        super().__init__(betas)
        self.process = process

    def coefficients(self, t):
        return self.process.drift_rate(t) / self.steps, self.process.diffusion(t) / self.steps**0.5


class NoiseLadder(Discretization):
    """NCSN's geometric noise levels: f = 0, G = sqrt(sigma_i^2 - sigma_{i-1}^2), with sigma_{-1} = 0."""

    def __init__(self, process, steps):
        super().__init__(steps)
        ends = torch.tensor([process.sigma_min, process.sigma_max], dtype=torch.float64).log()
        # One level alone is the largest, from which sampling begins.
        rungs = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.ones(1, dtype=torch.float64)
        self.variances = (2 * torch.lerp(ends[0], ends[1], rungs)).exp()
        self.lower_variances = torch.cat([self.variances.new_zeros(1), self.variances[:-1]])

    def coefficients(self, t):
        variance, lower = self.table("variances", t), self.table("lower_variances", t)
        return torch.zeros_like(t), (variance - lower).sqrt()

    def alpha(self, t):
        return torch.ones_like(t)

    def ancestral(self, t):
        variance, lower = self.table("variances", t), self.table("lower_variances", t)
        removed = variance - lower
        return removed, torch.ones_like(t), (lower * removed / variance).sqrt()


def linear_betas(process, steps):
    """The N betas of a VP or sub-VP process, beta_min / N to beta_max / N.

    Raises:
        ValueError: where N is so small that a beta is 1 or more, and x_t cannot be divided by sqrt(1 - beta).
    """
    betas = torch.linspace(process.beta_min / steps, process.beta_max / steps, steps, dtype=torch.float64)
    if not betas.max() < 1:
        raise ValueError(
            f"{steps} steps are too few for beta_max={process.beta_max:g}: the discrete form has the betas beta_max / "
            f"N, which must be below 1. Take more than {process.beta_max:g} steps, or predictor='euler_maruyama' with "
            "corrector='none', which needs no discrete form."
        )
    return betas


def chain_betas(process, steps):
    """The betas of an [`InterpolatedChain`] in N steps at t = i / (N - 1); all of its own for N = T."""
    times = torch.linspace(0, 1, steps, dtype=torch.float64) if steps > 1 else torch.ones(1, dtype=torch.float64)
    alphas_bar = process.levels(times)[0] ** 2
    return 1 - alphas_bar / torch.cat([alphas_bar.new_ones(1), alphas_bar[:-1]])


DISCRETE_FORMS = {
    VariancePreserving: lambda process, steps: ChainOfBetas(linear_betas(process, steps)),
    SubVariancePreserving: lambda process, steps: EulerSteps(process, linear_betas(process, steps)),
    VarianceExploding: NoiseLadder,
    InterpolatedChain: lambda process, steps: ChainOfBetas(chain_betas(process, steps)),
}


def discretization(process, steps):
    """The discrete form of a process in N steps."""
    return DISCRETE_FORMS[type(process)](process, steps)
