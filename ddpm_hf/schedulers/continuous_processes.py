"""Noise schedules of real time t: the SDEs dx = r(t) x dt + g(t) dw whose solutions are x_t = a_t x0 + sigma_t eps.

Each process has the methods `levels(t)` -> (a_t, sigma_t), `drift_rate(t)` -> r(t), which is (log a)', and
`diffusion(t)` -> g(t), whose square is (sigma^2)' - 2 r sigma^2; t is a float64 tensor of any shape, in (0, 1].
`prior_std` is the standard deviation of the normal distribution that x has at the end of time. SDE is Song et al.
2021.
"""

from typing import NamedTuple

import torch

# A chain that ends without signal has log(a / sigma) = -inf there. From here on x_t is noise to all digits of float32.
LEAST_LOG_SNR = -20.0


class VariancePreserving(NamedTuple):
    """VP (SDE, eq. 11 and 33): beta(t) from `beta_min` to `beta_max`, a = exp(-B / 2), sigma^2 = 1 - exp(-B).

    B is the integral of beta. With N steps it is DDPM's linear schedule of betas beta_min / N to beta_max / N.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    prior_std: float = 1.0

    def beta(self, t):
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def beta_integral(self, t):
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2

    def levels(self, t):
        integral = self.beta_integral(t)
        return torch.exp(-integral / 2), torch.sqrt(-torch.expm1(-integral))

    def drift_rate(self, t):
        return -self.beta(t) / 2

    def diffusion(self, t):
        return self.beta(t).sqrt()


class SubVariancePreserving(VariancePreserving):
    """Sub-VP (SDE, eq. 12): the drift of VP with less noise, sigma = 1 - exp(-B)."""

    def levels(self, t):
        integral = self.beta_integral(t)
        return torch.exp(-integral / 2), -torch.expm1(-integral)

    def diffusion(self, t):
        return torch.sqrt(-self.beta(t) * torch.expm1(-2 * self.beta_integral(t)))


class VarianceExploding(NamedTuple):
    """VE (SDE, eq. 9): a = 1 and sigma geometric from `sigma_min` to `sigma_max`.

    As in the published code, sigma_t^2 is not reduced by sigma_0^2, the variance with which the SDE begins at t = 0.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    @property
    def prior_std(self):
        return self.sigma_max

    def levels(self, t):
        return torch.ones_like(t), self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def drift_rate(self, t):
        return torch.zeros_like(t)

    def diffusion(self, t):
        growth = torch.tensor(self.sigma_max / self.sigma_min, dtype=torch.float64).log().item()
        return self.levels(t)[1] * (2 * growth) ** 0.5


class InterpolatedChain:
    """A discrete DDPM of T timesteps as a VP process: lambda = log(a / sigma) is interpolated between the timesteps.

    t = i / (T - 1) has the noise level of timestep i, so t = 0 is the first timestep and not clean data. The
    interpolation is monotone and cubic (Fritsch & Butland 1984, with harmonic means of the slopes), so that the drift
    is continuous: with a linear one, an adaptive solver would have to find the kinks at all timesteps.

    Args:
        log_snr (`torch.Tensor`): lambda of the timesteps, (T,), float64, descending, T at least 2.
    """

    prior_std = 1.0

    def __init__(self, log_snr):
        log_snr = log_snr.clamp(min=LEAST_LOG_SNR)
        rises = log_snr.diff()
        inner = 2 * rises[1:] * rises[:-1] / (rises[1:] + rises[:-1])
        slopes = torch.cat([rises[:1], inner, rises[-1:]])
        self.cells = len(rises)
        # Between two timesteps, with x from 0 to 1, lambda is c0 + c1 x + c2 x^2 + c3 x^3.
        self.polynomials = torch.stack(
            [
                log_snr[:-1],
                slopes[:-1],
                3 * rises - 2 * slopes[:-1] - slopes[1:],
                slopes[:-1] + slopes[1:] - 2 * rises,
            ],
            dim=1,
        )
        self._on_devices = {}

    def levels(self, t):
        log_snr, _ = self._log_snr_and_slope(t)
        return torch.sigmoid(2 * log_snr).sqrt(), torch.sigmoid(-2 * log_snr).sqrt()

    def drift_rate(self, t):
        """(log a)' = sigma^2 lambda'."""
        log_snr, slope = self._log_snr_and_slope(t)
        return torch.sigmoid(-2 * log_snr) * slope

    def diffusion(self, t):
        return (-2 * self.drift_rate(t)).sqrt()

    def _log_snr_and_slope(self, t):
        if t.device not in self._on_devices:
            self._on_devices[t.device] = self.polynomials.to(t)
        position = t * self.cells
        # Times in [0, 1] lie in the cells 0 .. T - 2, of which the last includes its end.
        cell = position.floor().long().clamp(0, self.cells - 1)
        x, (c0, c1, c2, c3) = position - cell, self._on_devices[t.device][cell].unbind(-1)
        return c0 + x * (c1 + x * (c2 + x * c3)), self.cells * (c1 + x * (2 * c2 + x * 3 * c3))
