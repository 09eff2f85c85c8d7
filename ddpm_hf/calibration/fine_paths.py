"""Fine paths of a model's probability flow, from noise to data: what solvers of few steps are fitted to.

Paths may begin by the flow of the data's moments, and end before the flow does (`path_choice`).
"""

from typing import NamedTuple

import numpy as np
import torch

from ddpm_hf.calibration.spreads import clamped
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.schedulers.timestep_spacings import spaced_timesteps

# Timesteps even in log-SNR, and even in t, of the second-order solver that follows the paths: so fine that a path of
# twice as many differs by far less than any solver of 25 steps does.
EVEN_IN_LOG_SNR, EVEN_IN_TIME = 96, 40
CLEAN = -1


class Paths(NamedTuple):
    """Paths on the host, float32.

    x: {t: (N, C, *)} at each timestep, descending. x0: x0_hat there, for the timesteps where it is asked for.
    end: (N, C, *), where the paths end.
    """

    x: dict[int, torch.Tensor]
    x0: dict[int, torch.Tensor]
    end: torch.Tensor

    def within(self, bound):
        """The paths with their ends clamped to [-bound, bound]; a bound of None leaves them."""
        return self._replace(end=clamped(self.end, bound))


class ModelOfPaths:
    """A network with the conditions and the guidance of its paths, called in batches, from the host and back.

    Args:
        unet: the network.
        chain ([`GaussianDiffusionScheduler`]): of its process, of second order at eta = 0.
        guidance_scale (`float`): of classifier-free guidance.
        told ([`Told`]): what the network is told of the paths.
        batch_size (`int`): paths in a call.
        update (`Callable`): is told after each batch which share of all paths has been called.
    """

    def __init__(self, unet, chain, guidance_scale, told, batch_size, update):
        self.pipeline, self.chain, self.guidance_scale = GaussianDiffusionPipeline(unet, chain), chain, guidance_scale
        self.told, self.batch_size, self.update = told, batch_size, update

    def follow(self, noise, timesteps, keep_x=True, keep_x0_below=0, free_flow=None):
        """The [`Paths`] from the noise (N, C, *) along the timesteps, descending.

        Args:
            keep_x (`bool`): keep x at every timestep.
            keep_x0_below (`int`): keep x0_hat at all lower timesteps.
            free_flow ([`DataMoments`], *optional*): of the data; their flow goes down to the first timestep.
        """
        parts, last = [], len(self.chain) - 1
        for first in range(0, len(noise), self.batch_size):
            x, path = noise[first : first + self.batch_size], Paths({}, {}, None)
            x = x.to(self.pipeline.unet.device)
            if free_flow is not None:
                x = free_flow.flow(x, *level_of(self.chain, last), *level_of(self.chain, timesteps[0]))
            self.chain.set_timesteps(timesteps=timesteps)
            for t in timesteps:
                step = self.chain.step(self._output(x, t, first, len(noise)), t, x)
                if keep_x:
                    path.x[t] = x.cpu()
                if t < keep_x0_below:
                    path.x0[t] = step.pred_original_sample.cpu()
                x = step.prev_sample
            parts.append(path._replace(end=x.cpu()))
        return Paths(_joined([p.x for p in parts]), _joined([p.x0 for p in parts]), torch.cat([p.end for p in parts]))

    def predicted_x0(self, x, t):
        """x0_hat at the states x (N, C, *), on the host."""
        parts = []
        for first in range(0, len(x), self.batch_size):
            x_t = x[first : first + self.batch_size].to(self.pipeline.unet.device)
            output = self._output(x_t, t, first, len(x))
            parts.append(self.chain.p_mean_variance(output, t, x_t).pred_original_sample.cpu())
        return torch.cat(parts)

    def _output(self, x, t, first, number):
        told = self.told.of_batch(self.pipeline.unet.config, x, first, number, self.guidance_scale)
        output = self.pipeline.predict(x, t, torch.tensor(t, device=x.device), told)
        self.update(len(x) / number)
        return output[:, : x.shape[1]]


def level_of(chain, timestep):
    """(a, sigma) of a timestep, floats."""
    alpha_bar = chain.alpha_bar(timestep).item()
    return alpha_bar**0.5, (1 - alpha_bar) ** 0.5


def _joined(parts):
    return {t: torch.cat([part[t] for part in parts]) for t in parts[0]}


def fine_timesteps(chain, even_in_log_snr=EVEN_IN_LOG_SNR, even_in_time=EVEN_IN_TIME):
    """The timesteps of fine paths, descending: even in log-SNR, and even in t, where few of the others are."""
    alphas_bar = chain.alpha_bar(range(len(chain))).numpy()
    counts = {"logsnr": min(even_in_log_snr, len(chain)), "trailing": min(even_in_time, len(chain))}
    timesteps = {t for spacing, count in counts.items() for t in spaced_timesteps(spacing, count, alphas_bar).tolist()}
    return sorted(timesteps, reverse=True)


def nearest_timesteps(fine, wanted):
    """The timesteps of `fine`, descending, that are nearest to those wanted, no two the same.

    Args:
        fine, wanted (`list[int]`): descending; `wanted` is not longer.
    """
    fine = np.array(fine)
    places = np.abs(fine[None] - np.array(wanted)[:, None]).argmin(1)
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + 1)
    places = np.minimum(places, len(fine) - len(places) + np.arange(len(places)))
    return fine[places].tolist()
