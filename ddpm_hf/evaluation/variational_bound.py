"""The variational bound on the negative log-likelihood, term by term (Ho et al. 2020, eq. 5). Everything is in nats.

    -log p(x0) <= KL(q(x_T | x0) || N(0, I))                                        `prior_term`
                  + sum over t of E_q KL(q(x_s | x_t, x0) || p(x_s | x_t))          `bound_term`, s > -1
                  + E_q [-log p(x0 | x_t)]                                          `bound_term`, s = -1

Here t runs over the timesteps of the scheduler's trajectory, s is the next one after t, -1 is clean data, and T is the
first timestep. Every function is differentiable.
"""

import math

import torch

from ddpm_hf.schedulers.choices import COVARIANCE_TYPES
from ddpm_hf.schedulers.cosine_transform import cosine_transform

CLEAN = -1


def normal_kl(mean1, log_variance1, mean2, log_variance2):
    """KL(N(mean1, exp(log_variance1)) || N(mean2, exp(log_variance2))) in nats, elementwise, for shapes that broadcast.

    0.5 (exp(d) - 1 - d + (mean1 - mean2)^2 / exp(log_variance2)), d = log_variance1 - log_variance2.
    """
    d = log_variance1 - log_variance2
    # The two variances are nearly equal in most terms, where exp(d) - 1 would lose digits.
    return 0.5 * (torch.expm1(d) - d + (mean1 - mean2) ** 2 * torch.exp(-log_variance2))


def discretized_gaussian_log_likelihood(x, mean, log_std, levels=256):
    """The log-probability of the bin of x under N(mean, exp(log_std)^2) (Ho 2020, eq. 13), in nats, elementwise.

    The bins are [x - h, x + h] with h = 1 / (levels - 1); the first begins at -infinity, the last ends at infinity. The
    integral is exact; the tanh approximation in Improved DDPM's code is off by 0.9 nats in the tails, and its floor of
    1e-12 stops the gradient.

    Args:
        x (`torch.Tensor`): data in [-1, 1], on the grid of `levels` values.
        mean, log_std (`torch.Tensor`): tensors that broadcast with x.
        levels (`int`): number of values that the data can take, 256 for 8 bits.
    """
    half_bin = 1 / (levels - 1)
    inverse_std = torch.exp(-log_std)
    offset = x - mean
    # By symmetry the bin is placed below the mean, where the logarithm of the distribution function is accurate.
    centre = -offset.abs()
    upper = _LogNdtr.apply((centre + half_bin) * inverse_std)
    lower = _LogNdtr.apply((centre - half_bin) * inverse_std)
    inner = upper + torch.log(-torch.expm1(lower - upper))
    first = _LogNdtr.apply((offset + half_bin) * inverse_std)
    last = _LogNdtr.apply((half_bin - offset) * inverse_std)
    return torch.where(x < half_bin - 1, first, torch.where(x > 1 - half_bin, last, inner))


class _LogNdtr(torch.autograd.Function):
    """The log of the normal distribution function, with the derivative sqrt(2 / pi) / erfcx(-z / sqrt(2)).

    The derivative of `torch.special.log_ndtr` is wrong far in the tail in float32: by half at z = -4000, and by more
    beyond.
    """

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return torch.special.log_ndtr(z)

    @staticmethod
    def backward(ctx, gradient):
        (z,) = ctx.saved_tensors
        return gradient * math.sqrt(2 / math.pi) / torch.special.erfcx(-z * math.sqrt(0.5))


def prior_term(scheduler, original_samples):
    """KL(q(x_T | x0) || N(0, I)) in nats per image, (B,), T being the first timestep of the scheduler's trajectory.

    Args:
        scheduler ([`GaussianDiffusionScheduler`]): gives alpha_bar_T.
        original_samples (`torch.Tensor`): x0 in [-1, 1], (B, C, *).
    """
    x0 = _at_least_float32(original_samples)
    alpha_bar = scheduler.alpha_bar(scheduler.timesteps[0]).item()
    log_variance = torch.log1p(x0.new_tensor(-alpha_bar))
    return _sum_per_image(normal_kl(alpha_bar**0.5 * x0, log_variance, x0.new_zeros(()), x0.new_zeros(())))


def bound_term(scheduler, model_output, timestep, original_samples, sample, prev_timestep=None, levels=256):
    """The term of the bound for the transition x_t -> x_s in nats per image, (B,).

    KL(q(x_s | x_t, x0) || p(x_s | x_t)), and -log p(x0 | x_t) of the decoder where x_s is clean data, for any
    `variance_type`. For quantised data the decoder is the discretised Gaussian. Continuous data have a density, and the
    decoder is the Gaussian itself; that bound can be negative, and it depends on the unit of the data. The decoder's
    variance is that of `p_mean_variance`, except that `fixed_small`, 0 there, is beta~ of a second transition: of the
    trajectory (Improved DDPM's code), or of the full chain for a pair with `prev_timestep` (Analytic-DPM's). Covariances
    of x0, which may be 0, are at least that. A covariance that is diagonal in the cosine domain counts whole, in the KL
    and for continuous data. For quantised data the decoder is then an even mixture of two, which costs an image at most
    a bit more than the better of them: the discretised Gaussian with the variance of each pixel, which knows that data
    end at -1 and 1, and the Gaussian with the whole covariance, whose probability of the cell of x0 is bounded (Jensen).

    Args:
        scheduler ([`GaussianDiffusionScheduler`]): the reverse kernel p and the trajectory.
        model_output (`torch.Tensor`): output for (x_t, t), (B, C, *), or (B, 2C, *) with a variance head.
        timestep, prev_timestep: t and s, ints, 0-d tensors or one per sample; s is None for the next timestep of the
            trajectory, -1 for clean data.
        original_samples (`torch.Tensor`): x0 in [-1, 1] on the grid of `levels` values, (B, C, *).
        sample (`torch.Tensor`): x_t, (B, C, *).
        levels (`int`, *optional*): number of values that the data can take, 256 for 8 bits; None for continuous data.

    Raises:
        ValueError: at eta = 0, where the kernel has no variance and the bound is infinite.
    """
    if scheduler.config.eta == 0:
        raise ValueError(
            "At eta=0 (DDIM) the reverse process has no variance and the bound is infinite; use a scheduler with eta > 0, "
            "GaussianDiffusionScheduler.from_config(scheduler.config, eta=1.0) for DDPM."
        )
    p = scheduler.p_mean_variance(model_output, timestep, sample, prev_timestep)
    x0 = original_samples.to(p.mean.dtype)
    to_data = _goes_to_data(scheduler, timestep, prev_timestep, p.mean)
    if to_data is True:
        return _decoder_term(scheduler, p, x0, prev_timestep, levels)
    q = scheduler.q_posterior(x0, sample, timestep, prev_timestep)
    if to_data is False:
        return _transition_term(q, p)
    # With one timestep per sample both terms are computed. Where q has no variance, its unused KL must be finite.
    q.variance = torch.where(to_data, torch.ones_like(q.variance), q.variance)
    decoder = _decoder_term(scheduler, p, x0, prev_timestep, levels)
    for name in ("variance", "frequency_variance"):
        variance = getattr(p, name)
        if variance is not None:
            setattr(p, name, torch.where(to_data, torch.ones_like(variance), variance))
    return torch.where(to_data.flatten(), decoder, _transition_term(q, p))


def _transition_term(q, p):
    if p.frequency_variance is not None:  # q is isotropic, so that its variances are the same in the cosine domain
        offset = cosine_transform(q.mean).project(q.mean - p.mean)
        zero = torch.zeros_like(offset)
        return _sum_per_image(normal_kl(offset, q.variance.log(), zero, p.frequency_variance.log()))
    return _sum_per_image(normal_kl(q.mean, q.variance.log(), p.mean, p.variance.log()))


def _decoder_term(scheduler, p, x0, prev_timestep, levels):
    least = scheduler.config.eta**2 * scheduler.decoder_variance(prev_timestep)
    if p.frequency_variance is None:
        return _decoder_of_pixels(p.mean, _decoder_variance(scheduler, p.variance, least), x0, levels)
    squares = cosine_transform(p.mean).project(x0 - p.mean).square()
    if levels is None:
        return _sum_per_image(normal_nats(squares, p.frequency_variance.clamp(min=least)))
    of_pixels = _decoder_of_pixels(p.mean, p.variance.clamp(min=least), x0, levels)
    # -log of the mean of the two probabilities
    return math.log(2) - torch.logaddexp(-of_pixels, -_most_nats_of_cell(squares, p.frequency_variance, levels))


def _decoder_variance(scheduler, variance, least):
    kind = scheduler.config.variance_type
    if kind.startswith("fixed_small"):
        return variance.new_full((), least)  # made on the device, because the host would wait for a copy
    return variance.clamp(min=least) if kind in COVARIANCE_TYPES else variance


def _decoder_of_pixels(mean, variance, x0, levels):
    if levels is None:
        return _sum_per_image(normal_nats((x0 - mean) ** 2, variance))
    return -_sum_per_image(discretized_gaussian_log_likelihood(x0, mean, 0.5 * variance.log(), levels))


def _most_nats_of_cell(squares, variance, levels):
    """What -log of the probability of the cell of x0 is at most, for independent coefficients, (B,).

    It has no closed form. By Jensen's inequality it is at most -log of the cell's volume plus the mean of -log p over
    the cell, whose uniform distribution has the variance h^2 / 3 in every orthonormal basis, h being half the width of
    a level. As much is added to the variance of p, without which this has no limit where p has little.

    Args:
        squares, variance: of the coefficients of x0 about their mean, (B, C, H, W).
    """
    half = 1 / (levels - 1)
    of_cell = half**2 / 3
    return _sum_per_image(normal_nats(squares + of_cell, variance + of_cell) - math.log(2 * half))


def normal_nats(square, variance):
    """-log N(x; mean, variance) = (square / variance + log(2 pi variance)) / 2, where square is (x - mean)^2."""
    return 0.5 * (square / variance + (2 * math.pi * variance).log())


def _goes_to_data(scheduler, timestep, prev_timestep, like):
    """Whether x_s is clean data: a bool if the host knows it for the whole batch, else (B, 1, ..) on the device.

    The host does not read tensors on an accelerator, because it would wait for them.
    """
    if prev_timestep is None:
        prev_timestep = scheduler.previous_timestep(timestep)
    to_data = torch.as_tensor(prev_timestep) == CLEAN
    if to_data.ndim == 0 and to_data.device.type == "cpu":
        return bool(to_data)
    return to_data.to(like.device).expand(len(like)).reshape(-1, *(1,) * (like.ndim - 1))


def _at_least_float32(tensor):
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _sum_per_image(terms):
    return terms.flatten(1).sum(1)
