"""Checks of a scheduler's config: each value by itself, and whether the config describes a DDPM at all."""

import math

from ddpm_hf.number_checks import is_whole
from ddpm_hf.schedulers.choices import OWN_SPACINGS, STOCK_SPACINGS
from ddpm_hf.schedulers.fitted_solvers import checked_solvers
from ddpm_hf.schedulers.gaussian_kernel import PREDICTION_TYPES
from ddpm_hf.schedulers.noise_schedules import BETA_SCHEDULES, LARGEST_TERMINAL_ALPHA_BAR
from ddpm_hf.schedulers.timestep_spacings import checked_plans
from ddpm_hf.schedulers.variances import VARIANCES, check_measured, checked_mean_square_epsilon

# Keys that mark a process other than x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, each with the name of that process.
OTHER_PROCESSES = {
    "sde": "in continuous time (sde)",  # before the keys that it shares with EDM and with VE
    "sigma_data": "of EDM or of a consistency model (sigma_data)",
    "use_dynamic_shifting": "of flow matching (use_dynamic_shifting)",
    "use_flow_sigmas": "of flow matching (use_flow_sigmas)",
    "shift": "of flow matching (shift)",
    "snr_shift_scale": "of CogVideoX, which shifts the signal-to-noise ratio (snr_shift_scale)",
    "clip_denoised": "of a consistency model (clip_denoised)",
    "s_churn": "of the variance-exploding process of Karras et al. 2022 (s_churn)",
    "snr": "of the variance-exploding SDE of Song et al. 2021 (snr)",
    "scaler": "of Wuerstchen (scaler)",
}


def check_is_ddpm(config):
    """Raises ValueError for the config of a diffusers scheduler whose forward process is not that of DDPM.

    Every DDPM config names its noise schedule. A config without one is of another process, and our defaults would
    sample noise.

    Args:
        config (`dict`): the config of a class in memory or from its JSON file.
    """
    name = config.get("_class_name")
    registered = name is not None or "_use_default_values" in config
    other = next((process for key, process in OTHER_PROCESSES.items() if config.get(key)), None)
    if other is None and (not registered or "beta_schedule" in config):
        return
    keys = ", ".join(sorted(key for key in config if not key.startswith("_")))
    raise ValueError(
        f"The scheduler config{f' of {name}' if name else ''} is not of a DDPM but "
        f"{other or f'of a process without beta_schedule (its keys are {keys})'}. A network trained for that process "
        "cannot be sampled by GaussianDiffusionScheduler: keep its own scheduler."
    )


def check_choice(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}.")


def check_eta(eta):
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta} must be in [0, 1]: 0 is DDIM, 1 is DDPM.")


def check_config(config):
    """Raises ValueError for a value that is not among its choices, and for a number out of range or not finite."""
    for name, allowed in (
        ("beta_schedule", BETA_SCHEDULES),
        ("variance_type", tuple(VARIANCES)),
        ("solver_order", (1, 2)),
        ("prediction_type", PREDICTION_TYPES),
        ("timestep_spacing", STOCK_SPACINGS + OWN_SPACINGS),
    ):
        check_choice(name, config[name], allowed)
    _check_config_numbers(config)
    check_measured(config)


def _check_config_numbers(config):
    check_eta(config.eta)
    for name, least in (("num_train_timesteps", 1), ("steps_offset", 0)):
        if not is_whole(config[name], least):
            raise ValueError(f"{name}={config[name]} must be at least {least}, and a whole number.")
    for name in ("clip_sample_range", "sample_max_value", "clip_variance_pixels"):
        value = config[name]
        if value is not None and not 0 < value < math.inf:
            advice = ", or None for no clip" if name == "clip_variance_pixels" else ""
            raise ValueError(f"{name}={value} must be greater than 0 and finite{advice}.")
    if not 0 < config.dynamic_thresholding_ratio <= 1:
        raise ValueError(
            f"dynamic_thresholding_ratio={config.dynamic_thresholding_ratio} must be in (0, 1]: the share of values "
            "that thresholding keeps."
        )


def measured_values(config, alphas_bar):
    """The values of a config that were measured about a model, checked for its noise schedule, as JSON has them.

    Args:
        alphas_bar (`np.ndarray`): (T,).
    """
    gamma, plans, solvers = config.mean_square_epsilon, config.timestep_plans, config.fitted_solvers
    values = {}
    if gamma is not None:
        values["mean_square_epsilon"] = checked_mean_square_epsilon(gamma, len(alphas_bar)).tolist()
    if plans is not None:
        values["timestep_plans"] = checked_plans(plans, alphas_bar, LARGEST_TERMINAL_ALPHA_BAR)
    if solvers is not None:
        values["fitted_solvers"] = checked_solvers(solvers, config, alphas_bar)
    return values
