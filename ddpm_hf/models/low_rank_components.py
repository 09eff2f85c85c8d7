r"""x_0 given x_t within each component of a mixture of low-rank normals with isotropic noise: images in closed form.

Component k is N(m_k, S_k) with S_k = s_k I + U_k diag(l_k) U_k', where the R columns of U_k are orthonormal: a mixture
of probabilistic principal component analysers (Tipping & Bishop 1999). With a = sqrt(abar_t), sigma^2 = 1 - abar_t and
tau_k = a^2 s_k + sigma^2, x_t has the covariance C_k = a^2 S_k + sigma^2 I = tau_k I + a^2 U_k diag(l_k) U_k' in it. By
the Woodbury identity and the matrix determinant lemma (Bishop 2006, eq. C.7 and C.14)

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


class LowRankComponents:
    """Components with few directions of their own, each; the arguments are those of [`PointComponents`].

    `mixture` has `means` (K, D), `axes` U_k' (K, R, D), `variances` l_k (K, R) and `noise_variances` s_k (K,).

    The densities are computed in float64: divided by the smallest tau, the roundings of float32 are of the size of 1.
    """

    def __init__(self, mixture, x_t, signal, sigma):
        self.mixture, self.x_t, self.axes = mixture, x_t, mixture.axes.flatten(0, 1)
        x, self.signal, self.sigma = x_t.double(), signal.double(), sigma.double()
        means, variances, self.noise = (
            mixture.means.double(),
            mixture.variances.double(),
            mixture.noise_variances.double(),
        )
        axes = mixture.axes.double()
        self.tau = self.signal**2 * self.noise + self.sigma**2  # (B, K)
        relative = self.signal[:, :, None] ** 2 * variances / self.tau[:, :, None]  # (B, K, R), a^2 l / tau
        along = (x @ axes.flatten(0, 1).T).unflatten(1, variances.shape)
        along = along - self.signal[:, :, None] * (axes @ means[:, :, None]).squeeze(2)
        distances = x.square().sum(1, keepdim=True) - 2 * self.signal * (x @ means.T)
        distances = distances + self.signal**2 * means.square().sum(1)
        explained = (along.square() * (relative / (1 + relative))).sum(2)
        logarithms = x.shape[1] * self.tau.log() + relative.log1p().sum(2)
        self.log_densities = -0.5 * ((distances - explained) / self.tau + logarithms)
        self.log_shared = x.new_full((1, 1), -0.5 * x.shape[1] * math.log(2 * math.pi))
        # g, and a g y: (B, K, R)
        self.gains = self.sigma[:, :, None] ** 2 * variances / (self.tau[:, :, None] ** 2 * (1 + relative))
        self.lengths = self.signal[:, :, None] * self.gains * along

    def mean(self, weights):
        weights = weights.double()
        of_means = (self.sigma**2 * weights / self.tau).to(self.x_t)
        of_x_t = (self.signal * weights * self.noise / self.tau).sum(1, keepdim=True).to(self.x_t)
        of_axes = (weights[:, :, None] * self.lengths).flatten(1).to(self.x_t)
        return of_means @ self.mixture.means + of_x_t * self.x_t + of_axes @ self.axes

    def variance(self, weights, mean):
        within = (self._within(weights) @ self.axes.square()) + self._isotropic(weights)
        return within + torch.einsum("bk,bkd->bd", weights, (self._means() - mean[:, None]).square())

    def covariance(self, weights, mean):
        along = self._within(weights)[:, :, None] * self.axes  # (B, K R, D)
        isotropic = torch.diag_embed(self._isotropic(weights).expand_as(self.x_t))
        return isotropic + along.mT @ self.axes + weighted_covariance(self._means() - mean[:, None], weights)

    def _within(self, weights):
        """The weighted variances along the axes, (B, K R)."""
        gains = self.gains.expand_as(self.lengths)
        return (weights.double()[:, :, None] * self.sigma[:, :, None] ** 2 * gains).flatten(1).to(self.x_t)

    def _isotropic(self, weights):
        """The weighted variance in all directions, (B, 1)."""
        return (weights.double() * self.sigma**2 * self.noise / self.tau).sum(1, keepdim=True).to(self.x_t)

    def _means(self):
        """mean_k, (B, K, D)."""
        of_means, of_x_t = (self.sigma**2 / self.tau).to(self.x_t), (self.signal * self.noise / self.tau).to(self.x_t)
        of_axes = torch.einsum("bkr,krd->bkd", self.lengths.to(self.x_t), self.mixture.axes)
        return of_means[:, :, None] * self.mixture.means + of_x_t[:, :, None] * self.x_t[:, None] + of_axes

    @staticmethod
    def draw(mixture, chosen, generator):
        lengths = mixture.variances[chosen].sqrt() * normal_noise(chosen, mixture, generator)
        means = mixture.means[chosen]
        noise = torch.randn(means.shape, generator=generator, dtype=means.dtype, device=means.device)
        noise = noise * mixture.noise_variances[chosen, None].sqrt()
        return means + noise + sum_along_axes(lengths, mixture.axes, chosen)
