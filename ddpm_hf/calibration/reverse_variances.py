"""The variances of the reverse steps of each recipe."""

from typing import NamedTuple

import torch

from ddpm_hf.recipes import RECIPES, with_recipe
from ddpm_hf.schedulers.choices import COVARIANCE_TYPES, FIXED_VARIANCE_TYPES


class ReverseVariance(NamedTuple):
    """The variance of one step from `timestep`: its mean over samples and dimensions, and their quantiles 0.1 and 0.9.

    Of a kernel that is diagonal in the cosine domain, the dimensions are the frequencies.
    """

    timestep: int
    mean: float
    low: float
    high: float


def reverse_variances(scheduler, num_inference_steps, predict=None, head=None, samples=None, generator=None):
    """The variances of the steps that add noise, of every recipe of first order that this model can use.

    Recipes with `analytic` variances need a scheduler with `mean_square_epsilon`, those with `dct` variances one with
    `covariance_spectrum` too, recipes with a head a network that has it. DDIM without a covariance and the step to clean
    data add no noise and are left out.

    Args:
        scheduler ([`GaussianDiffusionScheduler`]): the scheduler of the model.
        num_inference_steps (`int`): K.
        predict (*optional*): the network, (x_t, t) -> (B, 2C, *), for the variances of a head.
        head (`str`, *optional*): the kind of its head.
        samples (`torch.Tensor`, *optional*): x_0 for the head, (B, C, *), noised to each t.
        generator (`torch.Generator`, *optional*): the source of that noise.

    Returns:
        `dict[str, list[ReverseVariance]]`: the variances of each recipe, in the order of sampling.
    """
    known = {*FIXED_VARIANCE_TYPES, head}
    config, shape = scheduler.config, (1,)
    if config.mean_square_epsilon is not None:
        known.add("analytic")
    if config.covariance_spectrum is not None:
        known.add("dct")
        shape = config.covariance_spectrum["shape"]
    variances, any_samples = {}, torch.zeros(1, *shape)
    for name, recipe in RECIPES.items():
        adds_noise = recipe["eta"] > 0 or recipe["variance_type"] in COVARIANCE_TYPES
        if recipe["variance_type"] in known and recipe["solver_order"] == 1 and adds_noise:
            sampler = with_recipe(scheduler, name)
            sampler.set_timesteps(num_inference_steps)
            of_sample = (predict, samples) if recipe["variance_type"] == head else (_any_output, any_samples)
            variances[name] = [_reverse_variance(sampler, t, *of_sample, generator) for t in sampler.timesteps[:-1]]
    return variances


def _any_output(x_t, t):
    """Stands for the network where the variance does not depend on its output."""
    return x_t


def _reverse_variance(sampler, t, predict, x_0, generator):
    noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
    x_t = sampler.add_noise(x_0, noise, t)
    kernel = sampler.p_mean_variance(predict(x_t, t), t, x_t)
    variance = kernel.variance if kernel.frequency_variance is None else kernel.frequency_variance
    low, high = variance.double().quantile(torch.tensor([0.1, 0.9], dtype=torch.float64))
    return ReverseVariance(t.item(), variance.mean().item(), low.item(), high.item())
