"""Training objectives in continuous time: denoising score matching for SDEs, and EDM's, with one loss per image.

The timestep samplers draw whole numbers i in 0 .. T - 1; here each stands for the interval of times of that share, so
that their spreading, importance and statistics serve real times too.
"""

import torch

from ddpm_hf.schedulers.scheduling_edm import EDMScheduler
from ddpm_hf.schedulers.scheduling_score_sde import ScoreSDEScheduler

# The schedulers of processes in continuous time.
CONTINUOUS = (ScoreSDEScheduler, EDMScheduler)


def make_continuous_objective(scheduler, likelihood_weighting=False, discrete_levels=False):
    """The loss `objective(unet, images, timesteps, class_labels=None, noise=None)`, differentiable, of shape (B,).

    Args:
        scheduler ([`ScoreSDEScheduler`] or [`EDMScheduler`]): the process.
        likelihood_weighting (`bool`): weight by g^2 instead of sigma^2 (Song et al. 2021b), for a better likelihood.
        discrete_levels (`bool`): train at the T noise levels of NCSN and DDPM instead of at all times.

    Arguments of the objective: as in `objectives.make_objective`; images are in [-1, 1].
    """
    if isinstance(scheduler, EDMScheduler):
        return _edm_objective(scheduler)

    def objective(unet, images, timesteps, class_labels=None, noise=None):
        t = times_of(timesteps, len(scheduler), scheduler.likelihood_eps, discrete_levels)
        x0 = images if scheduler.config.centered else (images + 1) / 2
        noise = torch.randn_like(x0) if noise is None else noise
        x_t = scheduler.add_noise(x0, noise, t)
        output = unet(x_t, scheduler.network_time(t), class_labels, return_dict=False)[0].to(images.dtype)
        return score_matching_losses(scheduler, scheduler.score(output, t, x_t), noise, t, likelihood_weighting)

    return objective


def times_of(timesteps, steps, eps, discrete_levels=False):
    """t in (0, 1], float64, (B,): uniform in [eps, 1] for uniform i, or the level i / (T - 1) of each i.

    Args:
        timesteps (`torch.Tensor`): i, int64, (B,).
        steps (`int`): T.
    """
    i = timesteps.double()
    if discrete_levels:
        return (i / (steps - 1)).clamp(min=eps)
    return eps + (1 - eps) * shares_of(timesteps, steps)


def shares_of(timesteps, steps):
    """Uniform numbers in [i / T, (i + 1) / T), float64, (B,)."""
    i = timesteps.double()
    return (i + torch.rand_like(i)) / steps


def score_matching_losses(scheduler, score, noise, t, likelihood_weighting=False):
    r"""Denoising score matching (Vincent 2011; Song et al. 2021, eq. 7), a mean over dimensions, (B,).

    sigma_t^2 ||score + noise / sigma_t||^2 / d, for a network of epsilon its mean square error; or with the weight
    g_t^2, whose mean over t bounds the negative log-likelihood (Song et al. 2021b, theorem 1).

    Args:
        score, noise (`torch.Tensor`): at x_t, and in it, (B, C, \*).
        t (`torch.Tensor`): (B,).
    """
    std = scheduler.marginal(noise, t)[1]
    losses = (_shaped(std, score) * score + noise).square().flatten(1).mean(1)
    return losses * (scheduler.sde(noise, t)[1] / std) ** 2 if likelihood_weighting else losses


def _edm_objective(scheduler):
    """weight(sigma) ||D(x0 + sigma n; sigma) - x0||^2 / d, log sigma normal (Karras et al. 2022, eq. 8)."""

    def objective(unet, images, timesteps, class_labels=None, noise=None):
        sigma = scheduler.training_sigmas(shares_of(timesteps, len(scheduler)))
        noise = torch.randn_like(images) if noise is None else noise
        x = images + _shaped(sigma.to(images.dtype), images) * noise
        model_input, c_noise = scheduler.network_input(x, sigma)
        output = unet(model_input, c_noise, class_labels, return_dict=False)[0].to(images.dtype)
        errors = (scheduler.denoised(output, x, sigma) - images).square().flatten(1).mean(1)
        return errors * scheduler.loss_weight(sigma).to(errors.dtype)

    return objective


def _shaped(values, like):
    return values.reshape(-1, *(1,) * (like.ndim - 1))
