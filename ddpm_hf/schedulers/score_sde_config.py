"""The config of [`ScoreSDEScheduler`]: its checks, and how it is read from the config of another scheduler."""

import math

import numpy as np
import torch

from ddpm_hf.number_checks import is_whole
from ddpm_hf.schedulers.config_checks import check_choice, check_is_ddpm
from ddpm_hf.schedulers.continuous_processes import (
    InterpolatedChain,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
from ddpm_hf.schedulers.gaussian_kernel import PREDICTION_TYPES
from ddpm_hf.schedulers.noise_schedules import BETA_SCHEDULES, make_betas
from ddpm_hf.schedulers.predictor_corrector import CORRECTORS, PREDICTORS

SDES = ("vp", "sub_vp", "ve")
TIME_INPUTS = ("timestep", "reversed_timestep", "sigma")
# Where sampling stops by default (Song et al. 2021, appendix C); losses and likelihoods begin at the smaller one.
SAMPLING_EPS = {"vp": 1e-3, "sub_vp": 1e-3, "ve": 1e-5}
LIKELIHOOD_EPS = 1e-5

# The keys of a DDPM's config that say what a network was trained for.
CHAIN_KEYS = (
    *("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas", "rescale_betas_zero_snr"),
    "prediction_type",
)


def check_score_sde_config(config):
    """Raises ValueError for a value that is not among its choices, out of range, or at odds with another value."""
    for name, allowed in (
        ("sde", SDES),
        ("predictor", PREDICTORS),
        ("corrector", CORRECTORS),
        ("prediction_type", (*PREDICTION_TYPES, "score", "edm")),
        ("time_input", (None, *TIME_INPUTS)),
        ("beta_schedule", (None, *BETA_SCHEDULES)),
    ):
        check_choice(name, config[name], allowed)
    for name in ("num_train_timesteps", "correct_steps"):
        if not is_whole(config[name], 1):
            raise ValueError(f"{name}={config[name]} must be at least 1, and a whole number.")
    _check_ranges(config)
    _check_predictor(config)


def _check_ranges(config):
    for low, high in (("beta_min", "beta_max"), ("sigma_min", "sigma_max")):
        if not 0 < config[low] < config[high] < math.inf:
            raise ValueError(
                f"{low}={config[low]} and {high}={config[high]} must be above 0 and finite, the first "
                "below the second."
            )
    if not 0 <= config.snr < math.inf:
        raise ValueError(f"snr={config.snr} must be at least 0 and finite: 0.16 is usual.")
    if config.sampling_eps is not None and not 0 < config.sampling_eps < 1:
        raise ValueError(f"sampling_eps={config.sampling_eps} must be in (0, 1): the time at which sampling stops.")


def _check_predictor(config):
    if config.predictor == "ancestral" and config.sde == "sub_vp":
        raise ValueError(
            "predictor='ancestral' is the reverse of a discrete chain, which sde='sub_vp' does not have: take "
            "'reverse_diffusion' or 'euler_maruyama'."
        )
    if config.predictor == "ancestral" and config.probability_flow:
        raise ValueError(
            "predictor='ancestral' draws noise in every step, which probability_flow=True does not have: take "
            "'reverse_diffusion' or 'euler_maruyama'."
        )
    if config.prediction_type == "edm" and (config.sde != "ve" or not 0 < config.sigma_data < math.inf):
        raise ValueError(
            f"prediction_type='edm' needs sde='ve', not {config.sde!r}, and a sigma_data above 0 and finite, not "
            f"{config.sigma_data}."
        )
    if config.predictor == config.corrector == "none":
        raise ValueError("predictor='none' and corrector='none' leave the noise as it is: choose one of them.")
    if config.beta_schedule is not None and config.sde != "vp":
        raise ValueError(
            f"beta_schedule={config.beta_schedule!r} is of a DDPM, whose process is sde='vp', not {config.sde!r}."
        )
    if config.beta_schedule is not None and config.num_train_timesteps < 2:
        raise ValueError(
            f"num_train_timesteps={config.num_train_timesteps} must be at least 2 for a DDPM in continuous time."
        )


def make_process(config):
    """The process of real time that a checked config describes."""
    if config.beta_schedule is not None:
        alphas_bar = torch.from_numpy(np.cumprod(1 - make_betas(config)))
        return InterpolatedChain((alphas_bar.log() - (1 - alphas_bar).log()) / 2)
    if config.sde == "ve":
        return VarianceExploding(config.sigma_min, config.sigma_max)
    process = VariancePreserving if config.sde == "vp" else SubVariancePreserving
    return process(config.beta_min, config.beta_max)


def as_score_sde(config):
    """The keys of [`ScoreSDEScheduler`] that the config of a scheduler implies.

    diffusers' `ScoreSdeVeScheduler` is VE with a network that gives the score of data in [0, 1]; [`EDMScheduler`] is
    VE with EDM's preconditioning; a DDPM, stock or ours, is its chain in continuous time.

    Raises:
        ValueError: for the config of another process.
    """
    if "sde" in config or not any(not key.startswith("_") for key in config):
        return config
    if config.get("correct_steps") is not None:
        as_published = {
            "sde": "ve",
            "prediction_type": "score",
            "predictor": "reverse_diffusion",
            "corrector": "langevin",
            "centered": False,
        }
        return {**config, **as_published}
    if "P_mean" in config:
        kept = ("num_train_timesteps", "sigma_min", "sigma_max", "sigma_data")
        return {"sde": "ve", "prediction_type": "edm"} | {key: config[key] for key in kept if key in config}
    check_is_ddpm(config)
    return {key: value for key, value in config.items() if key in CHAIN_KEYS}


def as_chain(config):
    """The keys of [`GaussianDiffusionScheduler`] that a scheduler's config implies: the inverse of `as_score_sde`.

    A VP process whose network reads timesteps is a chain at the times t_i = i / (N - 1) of whole timesteps, with
    abar_i = a(t_i)^2 of the process, and t_0 = 1e-5, where training begins, because there is no noise at 0. Nothing
    is clipped, as in the process. Other configs are returned as they are.

    Raises:
        ValueError: for the config of a process that no chain with betas has.
    """
    if not is_chain(config):
        check_is_ddpm(config)
        return config
    kept = {key: config[key] for key in CHAIN_KEYS if key in config} | {"clip_sample": False}
    if config.get("beta_schedule") is not None:
        return kept
    process, steps = VariancePreserving(config["beta_min"], config["beta_max"]), config["num_train_timesteps"]
    times = torch.linspace(0, 1, steps, dtype=torch.float64).clamp_min(LIKELIHOOD_EPS)
    alphas_bar = process.levels(times)[0] ** 2
    betas = 1 - alphas_bar / torch.cat([torch.ones(1, dtype=torch.float64), alphas_bar[:-1]])
    return kept | {"beta_schedule": "linear", "trained_betas": betas.tolist()}


def is_chain(config):
    """Whether the config of a [`ScoreSDEScheduler`] is of a VP process, and of a network that a DDPM may have."""
    is_of_timesteps = config.get("time_input") in (None, "timestep") and config.get("centered", True)
    return config.get("sde") == "vp" and is_of_timesteps and config.get("prediction_type") in PREDICTION_TYPES
