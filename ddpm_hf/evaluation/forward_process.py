"""The forward process step by step, as it is defined, compared with its closed form."""

from typing import NamedTuple

import torch

from ddpm_hf.evaluation.distances import energy_test


class ForwardMarginal(NamedTuple):
    """x_t of the same x_0 in two ways, `step_by_step` and `at_once`, both (N, *), and a test whether they agree.

    distance: energy distance between the noises in the two.
    p: p-value of this distance if both have one distribution.
    """

    timestep: int
    step_by_step: torch.Tensor
    at_once: torch.Tensor
    distance: float
    p: float


def step_by_step(scheduler, x_0, timesteps, generator=None):
    """x_t at each of `timesteps` of one path, x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps (Ho 2020, eq. 2).

    Args:
        scheduler: a scheduler with `betas`, stock or ours.
        x_0 (`torch.Tensor`): (N, *).
        timesteps (`list[int]`): ascending, 0-based; x_t is the sample after t + 1 steps.
        generator (`torch.Generator`, *optional*): source of the noise.

    Returns:
        `list[torch.Tensor]`: (N, *) for each timestep.
    """
    states, x = [], x_0
    for t, beta in enumerate(scheduler.betas.double().tolist()[: max(timesteps) + 1]):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x = (1 - beta) ** 0.5 * x + beta**0.5 * noise
        if t in timesteps:
            states.append(x)
    return states


def forward_marginals(scheduler, x_0, timesteps, generator=None, num_permutations=999):
    """A [`ForwardMarginal`] for each timestep: the definition, the closed form (Ho 2020, eq. 4), and a test.

    Given x_0, (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t) is standard normal by the closed form. The test compares this
    noise between the samples of the two ways. The noise does not depend on x_0, so that all are independent draws, and
    it differs visibly at the first timesteps too, where the data dominate x_t.

    Args:
        scheduler ([`SchedulerMixin`]): the diffusion process.
        x_0 (`torch.Tensor`): (N, *), N at least 2.
        timesteps (`list[int]`): ascending, 0-based.
        generator (`torch.Generator`, *optional*): source of the noise and of the relabellings of the test.
        num_permutations (`int`): relabellings of `energy_test`.
    """
    last = scheduler.config.num_train_timesteps - 1
    if not timesteps or min(timesteps) < 0 or max(timesteps) > last or sorted(set(timesteps)) != list(timesteps):
        raise ValueError(f"timesteps={timesteps} must ascend, each one in 0 .. {last}.")
    if len(x_0) < 2:
        raise ValueError(f"There is {len(x_0)} sample; the test takes at least 2.")
    marginals = []
    for t, chain in zip(timesteps, step_by_step(scheduler, x_0, timesteps, generator), strict=True):
        noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype, device=x_0.device)
        direct = scheduler.add_noise(x_0, noise, torch.tensor([t] * len(x_0)))
        alpha_bar = scheduler.alphas_cumprod[t].item()
        in_chain, in_direct = (
            (x_t - alpha_bar**0.5 * x_0).flatten(1) / (1 - alpha_bar) ** 0.5 for x_t in (chain, direct)
        )
        test = energy_test(in_chain, in_direct, num_permutations, generator)
        marginals.append(ForwardMarginal(t, chain, direct, *test))
    return marginals
