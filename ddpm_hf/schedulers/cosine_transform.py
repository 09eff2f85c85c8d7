"""The orthonormal cosine transform (DCT-II, Ahmed et al. 1974); of images its coefficients are nearly uncorrelated."""

import math
from functools import lru_cache

import torch


def cosine_basis(length):
    """The orthonormal cosine functions as rows, lowest frequency first, (length, length), float64."""
    frequency, place = torch.arange(length, dtype=torch.float64)[:, None], torch.arange(length) + 0.5
    basis = (math.pi / length * frequency * place).cos() * math.sqrt(2 / length)
    basis[0] /= math.sqrt(2)
    return basis


class CosineTransform:
    """The cosine transform U' of samples (B, C, H, W) along channels, rows and columns.

    Along three colour channels its functions are close to brightness and two colour differences, which are nearly
    uncorrelated in photographs as the frequencies are.
    """

    def __init__(self, channels, rows, columns):
        self.channels, self.rows, self.columns = channels, rows, columns

    def project(self, x):
        """The coefficients U' x, (B, C, H, W), lowest frequency first along each dimension."""
        return self.rows @ torch.einsum("kc,bcij->bkij", self.channels, x) @ self.columns.T

    def lift(self, coefficients):
        """U c, (B, C, H, W)."""
        return self.rows.T @ torch.einsum("kc,bkij->bcij", self.channels, coefficients) @ self.columns

    def scaled(self, x, factors):
        """U diag(factors) U' x, where the factors (C, H, W) or (B, C, H, W) are of the coefficients."""
        return self.lift(self.project(x).mul_(factors))

    def diagonal(self, variances):
        """The diagonal of U diag(variances) U', the variance of each value, from (C, H, W) or (B, C, H, W)."""
        squares = CosineTransform(self.channels.square(), self.rows.square(), self.columns.square())
        return squares.lift(variances.reshape(-1, *variances.shape[-3:])).reshape(variances.shape)


def cosine_transform(like):
    """The [`CosineTransform`] of samples of the shape of `like`, (B, C, H, W), in its dtype and on its device."""
    return _transform(tuple(like.shape[1:]), like.dtype, like.device)


@lru_cache(maxsize=8)
def _transform(shape, dtype, device):
    with torch.inference_mode(False):  # a loss may be differentiated later with what sampling has made
        return CosineTransform(*(cosine_basis(length).to(device, dtype) for length in shape))
