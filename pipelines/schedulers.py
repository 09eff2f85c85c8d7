"""The schedulers of a pipeline: conversion of stock ones, the calls of a step, and the time that the network gets."""

from diffusers import DDIMScheduler, DDPMScheduler, ScoreSdeVeScheduler

from ddpm_hf.schedulers.choices import LEARNED_VARIANCE_TYPES
from ddpm_hf.schedulers.scheduling_edm import EDMScheduler
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler
from ddpm_hf.schedulers.scheduling_score_sde import ScoreSDEScheduler


def own_scheduler(scheduler):
    """The scheduler of ours for a stock one of DDPM, DDIM or VE, or for a copy of ours; other schedulers stay."""
    if isinstance(scheduler, DDIMScheduler):
        return GaussianDiffusionScheduler.from_config(scheduler.config, eta=0.0)
    if isinstance(scheduler, DDPMScheduler) or is_copy(scheduler, GaussianDiffusionScheduler):
        return GaussianDiffusionScheduler.from_config(scheduler.config)
    if is_copy(scheduler, EDMScheduler):
        return EDMScheduler.from_config(scheduler.config)
    if isinstance(scheduler, ScoreSdeVeScheduler) or is_copy(scheduler, ScoreSDEScheduler):
        return ScoreSDEScheduler.from_config(scheduler.config)
    return scheduler


def is_copy(component, own_class):
    """Whether a component's class is another copy of `own_class`, from a repository's code or from the package."""
    return type(component).__name__ == own_class.__name__ and not isinstance(component, own_class)


def check_time_input(unet_config, scheduler):
    """Raises ValueError for a network whose embedding of time does not suit what the scheduler gives it.

    Fourier features are of log sigma, and `UNet2DModel` divides its output by what it is given; all other networks
    have sines of the timestep.
    """
    has_fourier = unet_config.get("time_embedding_type") == "fourier"
    reads_sigma = isinstance(scheduler, ScoreSDEScheduler) and scheduler.reads_sigma
    if has_fourier and not reads_sigma:
        raise ValueError(
            "The network has time_embedding_type='fourier', for noise levels sigma, and the scheduler gives it "
            "timesteps: it needs a ScoreSDEScheduler with sde='ve', or one with time_input='sigma'."
        )
    if reads_sigma and not has_fourier:
        raise ValueError(
            "The scheduler gives the network noise levels sigma, and the network's time embedding is for timesteps: "
            "it needs a network with time_embedding_type='fourier', or a ScoreSDEScheduler with time_input='timestep'."
        )


def updates(scheduler, step):
    """The methods of the scheduler to call at the step number `step`, each with a new output of the network."""
    return scheduler.updates(step) if isinstance(scheduler, ScoreSDEScheduler) else [scheduler.step]


def network_times(scheduler, timesteps):
    """What the network is given for timesteps of the scheduler."""
    return scheduler.network_time(timesteps) if isinstance(scheduler, ScoreSDEScheduler) else timesteps


def without_last_noise(scheduler, output):
    """The sample of the last step, for a [`ScoreSDEScheduler`] with `denoise` the mean of it."""
    if isinstance(scheduler, ScoreSDEScheduler) and scheduler.ends_with_mean:
        return output.prev_sample_mean
    return output.prev_sample


def reads_head(scheduler):
    """Whether its `step` takes the variance head too; most schedulers do not know it."""
    learned = isinstance(scheduler, DDPMScheduler) and scheduler.config.variance_type in LEARNED_VARIANCE_TYPES
    return learned or isinstance(scheduler, GaussianDiffusionScheduler)


def is_centered(scheduler):
    """Whether the data of its process are in [-1, 1] and not in [0, 1]."""
    return not isinstance(scheduler, ScoreSDEScheduler) or scheduler.config.centered


def centered(scheduler, samples):
    """Samples of a process of data in [0, 1] as all others are, in [-1, 1]."""
    return samples if is_centered(scheduler) else 2 * samples - 1
