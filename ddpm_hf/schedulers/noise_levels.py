"""The noise levels (a_t, sigma_t) of all timesteps of a discrete process, in float64, copied to devices on demand."""

import operator

import torch

from ddpm_hf.schedulers.gaussian_kernel import Levels
from ddpm_hf.schedulers.reverse_kernel import math_dtype, per_sample


class NoiseLevels:
    """x_t = signal x0 + sigma eps for t = -1 .. T - 1, where t = -1 is clean data.

    Args:
        alphas_bar (`torch.Tensor`): (T,), float64.
    """

    def __init__(self, alphas_bar):
        # Index t + 1. All tables are made from these, in float64: in float32, 1 - abar_0 is off by up to 5e-4.
        self.alphas_bar = torch.cat([alphas_bar.new_ones(1), alphas_bar])
        self.signal, self.sigma = self.alphas_bar.sqrt(), (1 - self.alphas_bar).sqrt()
        self.ends_without_signal = self.signal[-1].item() == 0
        self._on_devices = {}

    def __len__(self):
        return len(self.alphas_bar) - 1

    def at(self, timesteps, like):
        """(signal, sigma) of timesteps, one for all or one per sample, shaped to broadcast over the samples `like`."""
        timesteps = torch.as_tensor(timesteps)
        check_one_per_sample(timesteps, like)
        if timesteps.device.type == "cpu":
            self.check_range(timesteps)
            timesteps = timesteps.to(like.device, non_blocking=True)
        columns = self._table(like.device)[timesteps].to(math_dtype(like)).unbind(-1)
        return tuple(per_sample(column, like.ndim) for column in columns)

    def of_step(self, t, s):
        """The [`Levels`] of steps x_t -> x_s, for tensors of timesteps of one shape, s from -1."""
        return Levels(self.signal[t + 1], self.sigma[t + 1], self.signal[s + 1], self.sigma[s + 1])

    def pair(self, timestep):
        """(signal, sigma) of one timestep, floats on the host."""
        return self.signal[timestep + 1].item(), self.sigma[timestep + 1].item()

    def log_snr(self, timesteps):
        """lambda = log(signal / sigma), which is infinite for clean data."""
        return self.signal[timesteps + 1].log() - self.sigma[timesteps + 1].log()

    def check_range(self, timesteps):
        """Raises ValueError unless all timesteps, a number or a tensor on the host, are in 0 .. T - 1."""
        low, high = (timesteps, timesteps) if isinstance(timesteps, int) else _lowest_and_highest(timesteps)
        if low < 0 or high >= len(self):
            raise ValueError(f"Timesteps must be in 0 .. {len(self) - 1}; got {low if low < 0 else high}.")

    def check_x0_follows(self, prediction_type, timesteps):
        """Raises ValueError for timesteps on the host where x_t and a predicted epsilon do not determine x0."""
        if prediction_type != "epsilon" or not self.ends_without_signal:
            return
        last = len(self) - 1
        if _lowest_and_highest(timesteps)[1] == last:
            raise ValueError(
                f"Timestep {last} has no signal (rescale_betas_zero_snr), so x0 does not follow from a predicted "
                "epsilon there. Use a model with prediction_type='v_prediction' or 'sample', or begin at a lower "
                "timestep."
            )

    def _table(self, device):
        table = self._on_devices.get(device)
        if table is None:
            table = torch.stack([self.signal[1:], self.sigma[1:]], dim=1).to(device, table_dtype(device))
            self._on_devices[device] = table
        return table


def table_dtype(device):
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64


def as_host_int(timestep):
    """A timestep on the host as an int; a tensor with one per sample, or on a device, is returned as it is."""
    if isinstance(timestep, torch.Tensor) and (timestep.ndim > 0 or timestep.device.type != "cpu"):
        return timestep
    try:
        return operator.index(timestep)
    except TypeError:
        raise ValueError(f"timestep={timestep!r} must be a whole number, or a tensor of whole numbers.") from None


def check_one_per_sample(timesteps, samples):
    """Raises ValueError unless a tensor of timesteps holds whole numbers, one for all samples or one for each."""
    if timesteps.ndim > 1 or (timesteps.ndim == 1 and len(timesteps) not in (1, len(samples))):
        raise ValueError(
            f"Timesteps of shape {tuple(timesteps.shape)} must be one for all {len(samples)} samples, or one for each."
        )
    if timesteps.is_floating_point() or timesteps.is_complex():
        raise ValueError(f"Timesteps of dtype {timesteps.dtype} must be whole numbers, such as torch.int64.")


def _lowest_and_highest(timesteps):
    low, high = torch.as_tensor(timesteps).aminmax()
    return low.item(), high.item()
