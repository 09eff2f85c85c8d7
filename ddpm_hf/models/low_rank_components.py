r"""x_0 given x_t within each component of a mixture of low-rank normals with isotropic noise: images in closed form.

Component k is N(m_k, S_k) with S_k = s_k I + U_k diag(l_k) U_k', where the R columns of U_k are orthonormal: a mixture
of probabilistic principal component analysers (Tipping & Bishop 1999). With a = sqrt(abar_t), sigma^2 = 1 - abar_t and
tau_k = a^2 s_k + sigma^2, x_t has in it the covariance C_k = a^2 S_k + sigma^2 I = tau_k I + a^2 U_k diag(l_k) U_k'.
By the Woodbury identity and the matrix determinant lemma (Bishop 2006, eq. C.7 and C.14)

    C_k^-1   = (I - U_k diag(a^2 l_k / (tau_k + a^2 l_k)) U_k') / tau_k
    log|C_k| = D log tau_k + sum_r log(1 + a^2 l_kr / tau_k)

so that with y_k = U_k' (x_t - a m_k)

    log N(x_t; a m_k, C_k) = -1/2 (D log 2 pi + log|C_k| + (|x_t - a m_k|^2 - |y_k|^2) / tau_k
                                   + sum_r y_kr^2 / (tau_k + a^2 l_kr))

which Bayes' rule turns into the probabilities w_k of the components. Within one, by Bishop 2006, eq. 2.113 to 2.117,
with S_k C_k^-1 = s_k / tau_k I + U_k diag(g_k) U_k' and g_k = sigma^2 l_k / (tau_k (tau_k + a^2 l_k)),

    mean_k       = m_k + a S_k C_k^-1 (x_t - a m_k)
                 = sigma^2 / tau_k m_k + a s_k / tau_k x_t + U_k (a g_k y_k)
    covariance_k = sigma^2 S_k C_k^-1 = sigma^2 s_k / tau_k I + U_k diag(sigma^2 g_k) U_k'

and the sums over components are those of `gaussian_components`. The projections y of all components are one product
of matrices, (B, D) by (D, K R), and the mean another, (B, K R) by (K R, D); no (B, K, D) is made for it.
"""

import math

import torch

from ddpm_hf.models.gaussian_components import normal_noise, sum_along_axes, weighted_covariance
from ddpm_hf.schedulers.noise_levels import table_dtype


class LowRankComponents:
    """The components have a few directions of their own; the arguments are those of [`PointComponents`].

    `mixture` has `means` (K, D), `axes` U_k' (K, R, D), `variances` l_k (K, R) and `noise_variances` s_k (K,).

    The densities are computed in float64: in float32 their logarithms are off by 0.5 at the smallest tau of images.
    """

    def __init__(self, mixture, x_t, signal, sigma):
        self.mixture, self.x_t, self.axes = mixture, x_t, mixture.axes.flatten(0, 1)
        inputs = (x_t, signal, sigma, mixture.means, mixture.axes, mixture.variances, mixture.noise_variances)
        x, a, sigma, means, axes, variances, noise = (each.to(table_dtype(each.device)) for each in inputs)
        tau = a**2 * noise + sigma**2  # (B, K)
        relative = a[:, :, None] ** 2 * variances / tau[:, :, None]  # a^2 l / tau, (B, K, R)
        projections = (x @ axes.flatten(0, 1).T).unflatten(1, variances.shape)
        along = projections - a[:, :, None] * (axes @ means[:, :, None]).squeeze(2)  # y, (B, K, R)
        distances = x.square().sum(1, keepdim=True) - 2 * a * (x @ means.T) + a**2 * means.square().sum(1)
        explained = (along.square() * relative / (1 + relative)).sum(2)
        logarithms = x.shape[1] * tau.log() + relative.log1p().sum(2)
        self.log_densities = -0.5 * ((distances - explained) / tau + logarithms)
        self.log_shared = x.new_full((1, 1), -0.5 * x.shape[1] * math.log(2 * math.pi))
        # What mean_k has of m_k, of x_t and of the axes, and the variances of the noise and along the axes.
        gains = sigma[:, :, None] ** 2 * variances / (tau[:, :, None] ** 2 * (1 + relative))  # g, (B, K, R)
        self.of_means, self.of_x_t, self.of_axes = sigma**2 / tau, a * noise / tau, a[:, :, None] * gains * along
        self.isotropic, self.along_axes = sigma**2 * noise / tau, (sigma[:, :, None] ** 2 * gains).expand_as(along)

    def mean(self, weights):
        of_means, of_x_t, of_axes = (
            self._weighted(weights, part) for part in (self.of_means, self.of_x_t, self.of_axes)
        )
        return of_means @ self.mixture.means + of_x_t.sum(1, keepdim=True) * self.x_t + of_axes @ self.axes

    def variance(self, weights, mean):
        isotropic = self._weighted(weights, self.isotropic).sum(1, keepdim=True)
        within = isotropic + self._weighted(weights, self.along_axes) @ self.axes.square()
        return within + torch.einsum("bk,bkd->bd", weights, (self._means() - mean[:, None]).square())

    def covariance(self, weights, mean):
        isotropic = self._weighted(weights, self.isotropic).sum(1, keepdim=True)
        along = self._weighted(weights, self.along_axes)[:, :, None] * self.axes  # (B, K R, D)
        within = torch.diag_embed(isotropic.expand_as(self.x_t)) + along.mT @ self.axes
        return within + weighted_covariance(self._means() - mean[:, None], weights)

    def _weighted(self, weights, part):
        """Multiplies a part of each component, (B, K) or (B, K, R), by its weight; K and R become one dimension."""
        weights = weights if part.ndim == 2 else weights[:, :, None]
        return (weights * part).flatten(1).to(self.x_t.dtype)

    def _means(self):
        """Returns mean_k, (B, K, D)."""
        of_means, of_x_t, of_axes = (part.to(self.x_t.dtype) for part in (self.of_means, self.of_x_t, self.of_axes))
        along = torch.einsum("bkr,krd->bkd", of_axes, self.mixture.axes)
        return of_means[:, :, None] * self.mixture.means + of_x_t[:, :, None] * self.x_t[:, None] + along

    @staticmethod
    def draw(mixture, chosen, generator):
        lengths = mixture.variances[chosen].sqrt() * normal_noise(chosen, mixture, generator)
        means = mixture.means[chosen]
        noise = torch.randn(means.shape, generator=generator, dtype=means.dtype, device=means.device)
        noise = noise * mixture.noise_variances[chosen, None].sqrt()
        return means + noise + sum_along_axes(lengths, mixture.axes, chosen)
