"""The numbers of every step of a trajectory: computed once in float64, kept in the dtype and on the device of use."""

import math
from typing import NamedTuple

import numpy as np
import torch

from ddpm_hf.schedulers.gaussian_kernel import (
    covariance_scale,
    epsilon_weight,
    posterior_variance,
    posterior_weights,
    prediction_weights,
    score_to_x0,
    transition_variance,
)
from ddpm_hf.schedulers.multistep import correction_weight, extrapolation_weight
from ddpm_hf.schedulers.noise_levels import check_one_per_sample, table_dtype
from ddpm_hf.schedulers.reverse_kernel import per_sample
from ddpm_hf.schedulers.variances import VARIANCES, StepVariances, largest_variance, mean_covariance


class Transition(NamedTuple):
    """The numbers of one step x_t -> x_s: floats for one timestep, tensors (B, 1, ..) for one per sample."""

    # x0_hat = x0_sample x_t + x0_output output, and eps_hat likewise; x_t = signal x0 + sigma eps
    x0_sample: float
    x0_output: float
    eps_sample: float
    eps_output: float
    signal: float
    sigma: float
    # mean = direct_x0 x0_hat + direct_eps eps_hat, or, with eps re-derived from x0_hat,
    # mean = posterior_x0 x0_hat + posterior_sample x_t
    direct_x0: float
    direct_eps: float
    posterior_x0: float
    posterior_sample: float
    # x0_hat + score_to_x0 * gradient, where the gradient is grad log p(y | x_t)
    score_to_x0: float
    # lambda^2, the variance of the forward posterior
    posterior_variance: float
    # the two numbers of the variance rule
    variance_scale: float
    variance_offset: float
    # the largest variance of `step` where the config clips the last noisy step
    largest_variance: float
    # second order: the weights of `multistep`, and the weight of the corrected x_t in the mean
    extrapolation: float
    correction: float
    corrected_mean: float
    # 1, or 0 for the step to clean data, which adds no noise (Ho et al. 2020, algorithm 2)
    noisy: float


# The factors that `affine` multiplies by; the weight of its added term stays a float.
FACTORS = ("x0_sample", "eps_sample", "direct_x0", "posterior_x0", "score_to_x0", "variance_scale")


class TransitionTable:
    """The transitions of a trajectory, for each requested eta.

    Args:
        levels ([`NoiseLevels`]): the noise levels of the process.
        timesteps (`np.ndarray`): the trajectory, descending.
        config: the scheduler's config.
    """

    def __init__(self, levels, timesteps, config):
        self.levels, self.config = levels, config
        # The previous timestep of any t is the next lower timestep of the trajectory, even where t is not on it.
        ascending = np.concatenate([[-1], timesteps[::-1]])
        below = np.searchsorted(ascending, np.arange(len(levels))) - 1
        self.previous = torch.from_numpy(ascending[below])
        self.ascending = torch.from_numpy(ascending[1:])
        self.decoder_variance = second_posterior_variance(levels, self.ascending)
        self._tables, self._rows, self._previous_tables = {}, {}, {}

    def at(self, timestep, eta, like):
        """The [`Transition`] from `timestep` to the next timestep of the trajectory.

        Args:
            timestep: an int, or a tensor () or (B,); one on an accelerator is never read by the host.
            like (`torch.Tensor`): the samples, (B, C, *), for their device and the dtype of the arithmetic.
        """
        if isinstance(timestep, int):
            row = self._rows.get((timestep, eta, like.dtype))
            return self._add_row(timestep, eta, like.dtype) if row is None else row
        check_one_per_sample(timestep, like)
        if timestep.device.type == "cpu":
            self.levels.check_range(timestep)
        return _for_samples(self._table(eta, like.device)[timestep.to(like.device)], like)

    def between(self, timestep, prev_timestep, eta, like):
        """The [`Transition`] of given pairs, without a trajectory; it is computed on the host."""
        t, s = torch.broadcast_tensors(*(torch.as_tensor(x).cpu() for x in (timestep, prev_timestep)))
        check_one_per_sample(t, like)
        check_one_per_sample(s, like)
        self.levels.check_range(t)
        if (s < -1).any() or (s >= t).any():
            raise ValueError(f"prev_timestep={prev_timestep} must be in -1 .. timestep - 1 (timestep={timestep}).")
        whole_chain = second_posterior_variance(self.levels, torch.arange(len(self.levels)))
        values = _stacked(self._numbers(t, s, eta, small_to_data=whole_chain))
        on_host = values.ndim == 1 and values.device.type == "cpu"
        return _on_host(values, like.dtype) if on_host else _for_samples(values.to(like.device), like)

    def next_timestep(self, timestep):
        """The next timestep of sampling after `timestep` (int, or tensor of any shape); -1 is clean data."""
        if not isinstance(timestep, torch.Tensor):
            self.levels.check_range(timestep)
            return self.previous[timestep].item()
        if timestep.device.type == "cpu":
            self.levels.check_range(timestep)
        table = self._previous_tables.get(timestep.device)
        if table is None:  # once per device, because the host waits for every copy
            with torch.inference_mode(False):
                table = self._previous_tables[timestep.device] = self.previous.to(timestep.device, copy=True)
        return table[timestep]

    @torch.inference_mode(False)  # a loss may be differentiated later with what sampling has made
    def _add_row(self, timestep, eta, dtype):
        self.levels.check_range(timestep)
        row = _on_host(self._table(eta, torch.device("cpu"))[timestep], dtype)
        self._rows[timestep, eta, dtype] = row
        return row

    def _table(self, eta, device):
        """The transitions from all T timesteps to their next ones, (T, numbers), made once per trajectory and eta."""
        table = self._tables.get((eta, device))
        if table is None:
            t, s, decoder = torch.arange(len(self.levels)), self.previous, self.decoder_variance
            values = self._numbers(t, s, eta, small_to_data=decoder, large_to_data=decoder)
            values |= self._numbers_of_trajectory(t, s, eta, values["posterior_sample"])
            with torch.inference_mode(False):
                table = self._tables[eta, device] = _stacked(values).to(device, table_dtype(device), copy=True)
        return table

    def _numbers(self, t, s, eta, small_to_data, large_to_data=None):
        """The columns of `Transition`, float64, shaped as t and s, without the columns that need a trajectory.

        Where x_s is clean data, `small_to_data` replaces beta~ (which is 0 there) as the lower end of the learned
        range, and `large_to_data`, if given, replaces beta.
        """
        levels, to_data = self.levels.of_step(t, s), s < 0
        scale, transition = covariance_scale(levels.signal_t, levels.sigma_t), transition_variance(levels)
        posterior_x0, posterior_sample = posterior_weights(levels, eta)
        step = StepVariances(
            posterior=posterior_variance(levels),
            small=posterior_variance(levels).masked_fill(to_data, small_to_data),
            transition=transition,
            large=transition if large_to_data is None else transition.masked_fill(to_data, large_to_data),
            covariance_weight=posterior_x0**2,
            covariance_scale=scale,
            mean_covariance=self._mean_covariance(t, scale),
        )
        variance_scale, variance_offset = VARIANCES[self.config.variance_type].numbers(step, eta)
        weights = prediction_weights(self.config.prediction_type, levels.signal_t, levels.sigma_t)
        zero = torch.zeros_like(levels.signal_t)
        return {
            **dict(zip(("x0_sample", "x0_output", "eps_sample", "eps_output"), weights, strict=True)),
            "signal": levels.signal_t,
            "sigma": levels.sigma_t,
            "direct_x0": levels.signal_s,
            "direct_eps": epsilon_weight(levels, eta),
            "posterior_x0": posterior_x0,
            "posterior_sample": posterior_sample,
            "score_to_x0": score_to_x0(levels.signal_t, levels.sigma_t),
            "posterior_variance": posterior_variance(levels, eta),
            "variance_scale": variance_scale,
            "variance_offset": variance_offset,
            "largest_variance": torch.full_like(zero, math.inf),
            **dict.fromkeys(("extrapolation", "correction", "corrected_mean"), zero),
            "noisy": (~to_data).to(zero.dtype),
        }

    def _mean_covariance(self, t, scale):
        if self.config.mean_square_epsilon is None:
            return torch.zeros_like(scale)
        covariance = mean_covariance(scale.new_tensor(self.config.mean_square_epsilon)[t], scale)
        return covariance.clamp(0, self.config.clip_sample_range**2) if self.config.clip_covariance else covariance

    def _numbers_of_trajectory(self, t, s, eta, posterior_sample):
        """The columns that need a trajectory: the clip of the last noisy step, and the second-order weights."""
        above = torch.searchsorted(self.ascending, t, right=True)
        begins = above == len(self.ascending)
        u = self.ascending[above.clamp(max=len(self.ascending) - 1)]  # visited before t, if any
        lambda_u, lambda_t, lambda_s = (self.levels.log_snr(x) for x in (u, t, s))
        last_posterior_x0, _ = posterior_weights(self.levels.of_step(u, t), eta)
        limits = torch.full(t.shape, math.inf, dtype=torch.float64)
        if self.config.clip_variance_pixels is not None:
            limit = largest_variance(self.config.clip_variance_pixels)
            limits = limits.masked_fill(s == self.ascending[0], limit)  # the trajectory's last timestep
        return {
            "largest_variance": limits,
            "extrapolation": extrapolation_weight(lambda_u, lambda_t, lambda_s).masked_fill((s < 0) | begins, 0),
            "correction": correction_weight(lambda_u, lambda_t, eta).masked_fill(begins, 0),
            "corrected_mean": (last_posterior_x0 * posterior_sample).masked_fill(begins, 0),
        }


def second_posterior_variance(levels, ascending):
    """beta~ of a chain's second step, used for the first, whose beta~ of 0 has no logarithm."""
    if len(ascending) < 2:
        return (levels.sigma[1] ** 2).item()
    s, t = ascending[:2]
    return posterior_variance(levels.of_step(t, s)).item()


def _stacked(values):
    return torch.stack([values[name] for name in Transition._fields], dim=-1)


def _on_host(values, dtype):
    """The numbers of one transition. Factors are 0-d tensors, because a product with a float makes one each time."""
    numbers = dict(zip(Transition._fields, values.tolist(), strict=True))
    return Transition(**numbers | {name: torch.tensor(numbers[name], dtype=dtype) for name in FACTORS})


def _for_samples(values, like):
    columns = values.to(like.device, like.dtype).unbind(-1)
    return Transition(*(per_sample(column, like.ndim) for column in columns))
