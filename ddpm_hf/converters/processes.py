"""From a converted network and its process to what samples it."""

import numpy as np

from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.pipelines.pipeline_upscale import GaussianDiffusionUpscalePipeline
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler
from ddpm_hf.schedulers.scheduling_score_sde import ScoreSDEScheduler


def sampled(conversion):
    """What samples a [`Conversion`]: a pipeline, or for a classifier the network itself."""
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
    """The VE SDE, whose network predicts the score, with the sampler of its code.

    The network is given sigma, or, in the discrete form, the index of its level, counted from the largest sigma.
    """
    options = {name: process[name] for name in ("num_train_timesteps", "sigma_min", "sigma_max", "snr", "centered")}
    time_input = "sigma" if process["continuous"] else "reversed_timestep"
    scheduler = ScoreSDEScheduler(
        sde="ve", prediction_type="score", corrector="langevin", time_input=time_input, **options
    )
    return GaussianDiffusionPipeline(network, scheduler)


PROCESSES = {
    "gaussian": _gaussian,
    "upsampler": _upsampler,
    "classifier": _classifier,
    "vp": _variance_preserving,
    "sub_vp": _sub_variance_preserving,
    "ve": _variance_exploding,
}
