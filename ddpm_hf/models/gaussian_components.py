r"""x_0 given x_t within each component of a mixture: of points, and of normals with diagonal or full covariances.

Component k is N(m_k, S_k) with S_k = A_k diag(v_k) A_k', A_k orthogonal. Then x_t is N(a m_k, a^2 S_k + sigma^2 I) in
it, with a = sqrt(abar_t) and sigma = sqrt(1 - abar_t), and x_0 given x_t is normal with

    mean_k       = m_k + A_k diag(a v_k / (a^2 v_k + sigma^2)) A_k' (x_t - a m_k)
    covariance_k = A_k diag(sigma^2 v_k / (a^2 v_k + sigma^2)) A_k'

(Bishop 2006, eq. 2.113 to 2.117). A point is the component with v_k = 0, a diagonal covariance has A_k = I. With the
probabilities w_k of the components given x_t,

    mean       = sum_k w_k mean_k
    covariance = sum_k w_k (covariance_k + (mean_k - mean)(mean_k - mean)')

Every form of covariance has a class with `log_densities`, log N(x_t; a m_k, a^2 S_k + sigma^2 I) as (B, K), of which
`log_shared`, (B, 1), is the part that all components share; and with `mean(w)`, `variance(w, mean)`, the diagonal of
the covariance, and `covariance(w, mean)`. `draw` draws x_0 from components, chosen for each sample.
"""

import math

import torch


class PointComponents:
    """The components are points, which have no spread.

    Args:
        mixture: has the `means`, (K, D).
        x_t (`torch.Tensor`): (B, D).
        signal, sigma (`torch.Tensor`): a and sigma, (B, 1) or (1, 1).
    """

    def __init__(self, mixture, x_t, signal, sigma):
        self.means, self.squares = mixture.means, mixture.means.square()
        # -|x_t - a m|^2 / (2 sigma^2) without |x_t|^2, in which single precision would lose the differences
        inner = (x_t * signal / sigma**2) @ self.means.T
        self.log_densities = inner - (signal / sigma) ** 2 / 2 * self.squares.sum(1)
        logarithms = x_t.shape[1] * (2 * math.pi * sigma**2).log()
        self.log_shared = -0.5 * ((x_t / sigma).square().sum(1, keepdim=True) + logarithms)

    def mean(self, weights):
        return weights @ self.means

    def variance(self, weights, mean):
        return (weights @ self.squares - mean.square()).clamp(min=0)

    def covariance(self, weights, mean):
        return weighted_covariance(self.means[None] - mean[:, None], weights)

    @staticmethod
    def draw(mixture, chosen, generator):
        return mixture.means[chosen]


class DiagonalComponents:
    """The components have the variances v_k along the coordinates; the arguments are those of [`PointComponents`].

    `mixture` has `means` and `variances`, (K, D) each.
    """

    def __init__(self, mixture, x_t, signal, sigma):
        signal, sigma = signal[:, :, None], sigma[:, :, None]
        marginal = signal**2 * mixture.variances + sigma**2
        along = self.along_axes(mixture, x_t[:, None] - signal * mixture.means)
        self.log_densities = -0.5 * (along.square() / marginal + marginal.log()).sum(2)
        self.log_shared = x_t.new_full((1, 1), -0.5 * x_t.shape[1] * math.log(2 * math.pi))
        self.means = mixture.means + self.from_axes(mixture, signal * mixture.variances / marginal * along)
        self.variances = (sigma**2 * mixture.variances / marginal).expand_as(along)
        self.mixture = mixture

    @staticmethod
    def along_axes(mixture, vectors):
        """Returns A_k' x for vectors x, (B, K, D)."""
        return vectors

    @staticmethod
    def from_axes(mixture, vectors):
        """Returns A_k x for vectors x, (B, K, D)."""
        return vectors

    @staticmethod
    def diagonals(mixture, variances):
        """Returns the diagonals of A_k diag(v) A_k' for v (B, K, D)."""
        return variances

    @staticmethod
    def matrices(mixture, variances):
        """Returns sum_k A_k diag(v) A_k', (B, D, D), for v (B, K, D)."""
        return torch.diag_embed(variances.sum(1))

    def mean(self, weights):
        return torch.einsum("bk,bkd->bd", weights, self.means)

    def variance(self, weights, mean):
        spread = (self.means - mean[:, None]).square() + self.diagonals(self.mixture, self.variances)
        return torch.einsum("bk,bkd->bd", weights, spread)

    def covariance(self, weights, mean):
        within = self.matrices(self.mixture, weights[:, :, None] * self.variances)
        return within + weighted_covariance(self.means - mean[:, None], weights)

    @staticmethod
    def draw(mixture, chosen, generator):
        return mixture.means[chosen] + mixture.variances[chosen].sqrt() * normal_noise(chosen, mixture, generator)


class FullComponents(DiagonalComponents):
    """The components have the variances v_k along the columns of `axes`, (K, D, D)."""

    @staticmethod
    def along_axes(mixture, vectors):
        return torch.einsum("bkd,kde->bke", vectors, mixture.axes)

    @staticmethod
    def from_axes(mixture, vectors):
        return torch.einsum("bke,kde->bkd", vectors, mixture.axes)

    @staticmethod
    def diagonals(mixture, variances):
        return torch.einsum("bke,kde->bkd", variances, mixture.axes.square())

    @staticmethod
    def matrices(mixture, variances):
        return torch.einsum("bke,kde,kfe->bdf", variances, mixture.axes, mixture.axes)

    @staticmethod
    def draw(mixture, chosen, generator):
        lengths = mixture.variances[chosen].sqrt() * normal_noise(chosen, mixture, generator)
        return mixture.means[chosen] + sum_along_axes(lengths, mixture.axes.mT, chosen)


def weighted_covariance(offsets, weights):
    """Returns sum_k w_k d_k d_k', (B, D, D), for offsets d (B, K, D)."""
    return (weights[:, :, None] * offsets).mT @ offsets


def normal_noise(chosen, mixture, generator):
    """Draws standard normal noise, for each sample as many numbers as its component has variances."""
    shape = (len(chosen), mixture.variances.shape[1])
    return torch.randn(shape, generator=generator, dtype=mixture.means.dtype, device=mixture.means.device)


def sum_along_axes(lengths, axes, chosen):
    """Multiplies the lengths (N, R) of each sample by the axes (K, R, D) of its component, which gives (N, D)."""
    total = lengths.new_zeros(len(lengths), axes.shape[2])
    for k in chosen.unique().tolist():  # one by one, as the axes of every sample would not fit in memory
        total[chosen == k] = lengths[chosen == k] @ axes[k]
    return total
