"""From a converted network and its process to what samples it."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from diffusers import ModelMixin

from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.pipelines.pipeline_upscale import GaussianDiffusionUpscalePipeline
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler
from ddpm_hf.schedulers.scheduling_score_sde import ScoreSDEScheduler


class ConvertedNetwork(NamedTuple):
    """A network that no pipeline here samples, the process that it was trained for, and the reason."""

    unet: ModelMixin
    process: dict
    reason: str

    def save_pretrained(self, folder):
        """Writes the folder `unet`, and `process.json`, with the process that it was trained for."""
        self.unet.save_pretrained(Path(folder) / "unet")
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
    return GaussianDiffusionUpscalePipeline(network, GaussianDiffusionScheduler(**process))


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


def _sub_variance_preserving(network, process):
    """The sub-VP SDE, whose network predicts the noise at the timestep (N - 1) t."""
    options = {name: process[name] for name in ("num_train_timesteps", "beta_min", "beta_max")}
    scheduler = ScoreSDEScheduler(sde="sub_vp", predictor="euler_maruyama", centered=process["centered"], **options)
    return GaussianDiffusionPipeline(network, scheduler)


def _variance_exploding(network, process):
    """The VE SDE, whose network is given sigma and predicts the score, with the sampler of its code.

    Networks of the discrete form count timesteps from the largest sigma, which no scheduler here does.
    """
    if not process["continuous"]:
        reason = "its timesteps count from the largest sigma, and no scheduler here does that"
        return ConvertedNetwork(network, process, reason)
    options = {name: process[name] for name in ("num_train_timesteps", "sigma_min", "sigma_max", "snr", "centered")}
    scheduler = ScoreSDEScheduler(sde="ve", prediction_type="score", corrector="langevin", **options)
    return GaussianDiffusionPipeline(network, scheduler)


PROCESSES = {
    "gaussian": _gaussian,
    "upsampler": _upsampler,
    "classifier": _classifier,
    "vp": _variance_preserving,
    "sub_vp": _sub_variance_preserving,
    "ve": _variance_exploding,
}
