"""How the covariance of x0 is shared out among spatial frequencies: Analytic-DPM, diagonal in the cosine domain.

With U' the cosine transform of a sample over its channels, rows and columns, and e = eps - eps_hat(x_t, t),

    S_t(f) = E (U' e)_f^2 / (E |e|^2 / d)          the spectrum, whose mean over frequencies is 1
    Cov[x0 | x_t] = U diag(c_t S_t(f)) U'          c_t: the covariance as one number, `variances.mean_covariance`

The variance of a step then is lambda^2 + w^2 c_t S_t(f) along each frequency, w being the weight of x0_hat in its
mean: the best one that is diagonal there (Bao et al. 2022b, in another basis; Xia et al. 2026 have a network learn a
covariance by frequency). S_t changes slowly with t and with the frequency, so it is kept at a few timesteps, between
which it is linear, and as means over bands of frequencies that widen like the frequencies themselves. A config of
images of 32x32 pixels in three colours holds 8,712 numbers.
"""

import torch

from ddpm_hf.schedulers.number_texts import as_text, from_text

# Timesteps of the spectrum; they lie closer together near the data, where it changes most.
MOST_KNOTS = 24
# Each band of frequencies is this much further than the last, and the lowest four stand alone.
BAND_GROWTH, SINGLE_BANDS = 1.4, 4
MEASURE_AGAIN = "Measure it with `ddpm-hf calibrate`."


def knots(num_train_timesteps):
    """The timesteps of a spectrum, ascending: T (k / K)^2, from 0 to T - 1, without repeats."""
    count = min(MOST_KNOTS, num_train_timesteps)
    places = torch.linspace(0, 1, count, dtype=torch.float64).square() * (num_train_timesteps - 1)
    return places.round().long().unique()


def frequency_bands(length):
    """The band of each of `length` frequencies along one side, (length,), int64, lowest first."""
    starts = [*range(SINGLE_BANDS)]
    while starts[-1] < length:
        starts.append(round(starts[-1] * BAND_GROWTH))
    return torch.searchsorted(torch.tensor(starts), torch.arange(length), right=True) - 1


class CovarianceSpectrum:
    """S_t(f) of a model.

    Args:
        shape (`tuple[int]`): (C, H, W), of the samples that it was measured with.
        timesteps (`torch.Tensor`): (L,), ascending, int64, from 0 to T - 1.
        values (`torch.Tensor`): (L, C, bands of rows, bands of columns), at these timesteps.
    """

    def __init__(self, shape, timesteps, values):
        self.shape, self.timesteps, self.values = tuple(shape), timesteps, values
        every = torch.arange(timesteps[-1] + 1)
        below = torch.searchsorted(timesteps, every, right=True).sub_(1).clamp_(max=max(0, len(timesteps) - 2))
        above = (below + 1).clamp(max=len(timesteps) - 1)
        length = (timesteps[above] - timesteps[below]).clamp(min=1)
        # The knot below each timestep, the one above, and the share of that.
        self._places = torch.stack([below, above]), (every - timesteps[below]) / length
        self._on_host = [*zip(*self._places[0].tolist(), self._places[1].tolist(), strict=True)]
        self._moved = {}

    def at(self, timestep, like):
        """S_t of samples of the shape of `like`, (C, H, W) for one timestep, (B, C, H, W) for one per sample.

        Samples of another size have the spectrum of the same frequencies in cycles per pixel. A tensor on an
        accelerator is never read by the host.
        """
        key = tuple(like.shape[1:]), like.dtype, like.device
        if key not in self._moved:  # once, because the host waits for every copy
            self._moved[key] = self._move(*key)
        values, knots_of, shares, rows, columns = self._moved[key]
        if isinstance(timestep, int):
            below, above, share = self._on_host[timestep]
        else:
            (below, above), share = knots_of[:, timestep.to(like.device)], shares[timestep.to(like.device)]
            share = share.reshape(*timestep.shape, 1, 1, 1)
        return values[below].lerp(values[above], share)[..., rows, :][..., columns]

    def _move(self, shape, dtype, device):
        if shape[:1] != self.shape[:1] or len(shape) != 3:
            raise ValueError(
                f"covariance_spectrum is of samples of {self.shape[0]} channels with rows and columns, and these are "
                f"of shape {shape}: take another variance_type, or measure the model with `ddpm-hf calibrate`."
            )
        (knots_of, shares), bands = self._places, [self._bands(side, shape) for side in (1, 2)]
        with torch.inference_mode(False):  # a loss may be differentiated later with what sampling has made
            numbers = [x.to(device, dtype, copy=True) for x in (self.values, shares)]
            knots_of, *bands = (x.to(device, copy=True) for x in (knots_of, *bands))
            return numbers[0], knots_of, numbers[1], *bands

    def _bands(self, side, shape):
        ours, theirs = self.shape[side], shape[side]
        return frequency_bands(ours)[torch.arange(theirs) * ours // theirs]

    def to_config(self):
        """The spectrum as JSON has it; `spectrum_from_config` gives it back, in float32."""
        told = {"shape": list(self.shape), "timesteps": self.timesteps.tolist()}
        return told | {"values": as_text(self.values)}


def chosen_spectrum(config, rule):
    """The [`CovarianceSpectrum`] of a scheduler's config, checked, if its [`VarianceRule`] reads it; else None."""
    if config.covariance_spectrum is None:
        return None
    spectrum = spectrum_from_config(config.covariance_spectrum, config.num_train_timesteps)
    return None if rule.of_spectrum is None else spectrum


def spectrum_from_config(told, num_train_timesteps):
    """The [`CovarianceSpectrum`] of a config.

    Raises:
        ValueError: for timesteps of another schedule, and for numbers that are too few, too many, not finite or below
            0.
    """
    shape, timesteps = tuple(told["shape"]), torch.tensor(told["timesteps"])
    if len(shape) != 3:
        raise ValueError(f"covariance_spectrum has shape {shape} and needs (channels, rows, columns). {MEASURE_AGAIN}")
    if not torch.equal(timesteps, knots(num_train_timesteps)):
        raise ValueError(
            f"covariance_spectrum is of timesteps {timesteps[0]} .. {timesteps[-1]}, and those of "
            f"num_train_timesteps={num_train_timesteps} are {len(knots(num_train_timesteps))} from 0 to "
            f"{num_train_timesteps - 1}: it belongs to another schedule. {MEASURE_AGAIN}"
        )
    bands = [int(frequency_bands(side)[-1]) + 1 for side in shape[1:]]
    values = from_text(
        told["values"], (len(timesteps), shape[0], *bands), f"covariance_spectrum of shape {shape}", MEASURE_AGAIN
    )
    if (values < 0).any():
        raise ValueError(f"covariance_spectrum has a value of {values.min().item():.4g}, below 0. {MEASURE_AGAIN}")
    return CovarianceSpectrum(shape, timesteps, values)
