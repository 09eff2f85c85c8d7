"""Checks that a model is a discrete Gaussian chain, on which it can be measured."""

from contextlib import contextmanager

from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler
from ddpm_hf.schedulers.scheduling_score_sde import ScoreSDEScheduler


def discrete_chain(scheduler, purpose, **changes):
    """A [`GaussianDiffusionScheduler`] with the config of `scheduler`, stock or ours, and its own trajectory.

    Args:
        purpose (`str`): what other schedulers cannot do, for the message: "be scored in bits per dimension". A
            [`ScoreSDEScheduler`] of a VP process is a chain too, if its network reads timesteps.
        changes: changes of the config.

    Raises:
        ValueError: if `scheduler` is not a discrete chain, or has a config that ours refuses.
    """
    if isinstance(scheduler, GaussianDiffusionScheduler):
        return type(scheduler).from_config(scheduler.config, **changes)
    name = type(scheduler).__name__
    has_betas = name in GaussianDiffusionScheduler._compatibles and hasattr(scheduler, "alphas_cumprod")
    if not has_betas and not isinstance(scheduler, ScoreSDEScheduler):
        raise ValueError(
            f"{name} cannot {purpose}: it is not a discrete Gaussian chain with betas. Pass the "
            "GaussianDiffusionScheduler (or DDPMScheduler) that the network was trained with."
        )
    try:
        return GaussianDiffusionScheduler.from_config(scheduler.config, **changes)
    except ValueError as error:
        instead = " Pass the GaussianDiffusionScheduler that the network was trained with." if has_betas else ""
        raise ValueError(f"This {name} cannot {purpose}: {error}{instead}") from error


def check_chain_length(unet, scheduler):
    known, steps = unet.config.get("num_train_timesteps"), scheduler.config.num_train_timesteps
    if known is not None and known != steps:
        raise ValueError(
            f"The network was made for num_train_timesteps={known}, the scheduler has {steps}: pass the scheduler that "
            "the network was trained with."
        )


@contextmanager
def evaluating(unet):
    """Switches dropout off inside the block."""
    was_training = unet.training
    unet.eval()
    try:
        yield
    finally:
        unet.train(was_training)
