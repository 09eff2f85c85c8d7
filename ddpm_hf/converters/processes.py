"""From a converted network and its process to what samples it."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from diffusers import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler


class ConvertedNetwork(NamedTuple):
    """A network that no pipeline here samples, with its scheduler if there is one, and the reason."""

    unet: ModelMixin
    scheduler: SchedulerMixin | None
    process: dict
    reason: str

    def save_pretrained(self, folder):
        """Writes the folders `unet` and `scheduler`, and `process.json`, with the process that it was trained for."""
        self.unet.save_pretrained(Path(folder) / "unet")
        if self.scheduler is not None:
            self.scheduler.save_pretrained(Path(folder) / "scheduler")
        text = json.dumps(self.process, indent=2) + "\n"
        (Path(folder) / PROCESS_FILE).write_text(text, encoding="utf-8")


PROCESS_FILE = "process.json"


def sampled(conversion):
    """What samples a [`Conversion`]: a pipeline, a [`ConvertedNetwork`], or for a classifier the network itself."""
    process = dict(conversion.process)
    return PROCESSES[process.pop("process")](conversion.network, process)


def _gaussian(network, process):
    return GaussianDiffusionPipeline(network, GaussianDiffusionScheduler(**process))


def _upsampler(network, process):
    reason = "its network takes a small image beside x_t, and no pipeline here has one"
    return ConvertedNetwork(network, GaussianDiffusionScheduler(**process), process, reason)


def _classifier(network, process):
    return network


def _variance_preserving(network, process):
    """A chain of N timesteps with the noise levels that the network was trained on.

    The discrete training is DDPM's, with beta_min / N .. beta_max / N. The continuous one feeds 999 t to the network,
    so timestep i of the chain is the time t = i / (N - 1); at timestep 0, where there would be no noise, it is half of
    the first step.
    """
    count, low, high = process["num_train_timesteps"], process["beta_min"], process["beta_max"]
    options = {"num_train_timesteps": count, "clip_sample": False, "variance_type": "fixed_large"}
    if process["continuous"]:
        t = np.maximum(np.arange(count), 0.5) / (count - 1)
        alphas_bar = np.exp(-(low * t + (high - low) * t**2 / 2))
        betas = 1 - alphas_bar / np.concatenate([[1.0], alphas_bar[:-1]])
        options |= {"trained_betas": betas.tolist()}
    else:
        options |= {"beta_schedule": "linear", "beta_start": low / count, "beta_end": high / count}
    return _gaussian(network, options)


def _score_sde(network, process):
    """Processes of continuous time other than the variance-preserving one.

    This is the place for a pipeline with a scheduler of continuous time, made from `process`.
    """
    reason = "its process, a sub-VP or VE SDE, has no scheduler here"
    return ConvertedNetwork(network, None, process, reason)


PROCESSES = {
    "gaussian": _gaussian,
    "upsampler": _upsampler,
    "classifier": _classifier,
    "vp": _variance_preserving,
    "sub_vp": _score_sde,
    "ve": _score_sde,
}
