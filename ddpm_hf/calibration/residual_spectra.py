"""The spectrum of a network's errors of the noise, summed over images: what `variance_type="dct"` needs.

S_t(f) = E (U' e)_f^2 / (E |e|^2 / d) with e = eps - eps_hat(x_t, t), as means over bands of frequencies
(`ddpm_hf.schedulers.covariance_spectrum`). One draw says little about a frequency that is alone in its band, so the
spectra of all timesteps are averaged around each of the few at which they are kept, with weights that fall linearly to
0 at the next ones.
"""

import torch

from ddpm_hf.schedulers.cosine_transform import cosine_transform
from ddpm_hf.schedulers.covariance_spectrum import CovarianceSpectrum, frequency_bands, knots


class ResidualSpectra:
    """The mean squares of images (B, C, H, W) in each band.

    Args:
        shape (`tuple[int]`): (C, H, W).
        device (`torch.device`): of the images, which are float32.
    """

    def __init__(self, shape, device):
        self.shape = tuple(shape)
        self.rows, self.columns = (_band_means(side).to(device) for side in shape[1:])
        self.size = shape[0] * len(self.rows) * len(self.columns)

    def of(self, residuals):
        """(B, C * bands of rows * bands of columns)."""
        squares = cosine_transform(residuals).project(residuals).square_()
        return (self.rows @ squares @ self.columns.T).flatten(1)

    def spectrum(self, sums, residuals):
        """The [`CovarianceSpectrum`].

        Args:
            sums (`torch.Tensor`): of the mean squares over the draws of each timestep, (bands, T), float64.
            residuals (`torch.Tensor`): of |e|^2 / d over the same draws, (T,), float64.
        """
        timesteps = knots(len(residuals))
        shares = (sums / residuals) @ _triangles(timesteps, len(residuals)).T
        values = shares.T.reshape(len(timesteps), self.shape[0], len(self.rows), len(self.columns))
        return CovarianceSpectrum(self.shape, timesteps, values.float())


def _band_means(length):
    """The matrix that takes the mean over each band, (bands, length), float32."""
    bands = frequency_bands(length)
    belongs = (bands == torch.arange(bands[-1] + 1)[:, None]).float()
    return belongs / belongs.sum(1, keepdim=True)


def _triangles(timesteps, steps):
    """The weights of all timesteps around each of `timesteps`, (L, T), float64; each row sums to 1."""
    places = torch.arange(steps, dtype=torch.float64)
    ends = torch.cat([timesteps[:1] - 1, timesteps, timesteps[-1:] + 1]).double()
    below, at, above = ends[:-2, None], ends[1:-1, None], ends[2:, None]
    weights = torch.minimum((places - below) / (at - below), (above - places) / (above - at)).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)
