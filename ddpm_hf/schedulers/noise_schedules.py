"""Noise schedules: the betas of the forward process, in float64."""

import numpy as np
from diffusers.utils import logging

logger = logging.get_logger(__name__)

BETA_SCHEDULES = ("linear", "scaled_linear", "quadratic", "squaredcos_cap_v2", "sigmoid", "laplace")

# Above this alpha_bar_T, x_T still shows the data, and sampling should not start from N(0, I).
LARGEST_TERMINAL_ALPHA_BAR = 0.01


def make_betas(config):
    """The betas of a scheduler's config in float64, shape (T,)."""
    schedule, steps, start, end = config.beta_schedule, config.num_train_timesteps, config.beta_start, config.beta_end
    if config.trained_betas is not None:
        betas = np.asarray(config.trained_betas, dtype=np.float64)
        if betas.shape != (steps,):
            raise ValueError(f"trained_betas has shape {betas.shape}; num_train_timesteps={steps} needs ({steps},).")
    elif schedule == "linear":
        betas = np.linspace(start, end, steps)
    elif schedule in ("scaled_linear", "quadratic"):
        _check_betas(np.array([start, end]))
        betas = np.linspace(start**0.5, end**0.5, steps) ** 2
    elif schedule == "sigmoid":
        betas = start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, steps)))
    else:
        alpha_bar = {"squaredcos_cap_v2": _cosine_alpha_bar, "laplace": _laplace_alpha_bar}[schedule]
        time = np.arange(steps + 1) / steps
        betas = np.minimum(1 - alpha_bar(time[1:]) / alpha_bar(time[:-1]), 0.999)
    _check_betas(betas)
    return zero_terminal_snr(betas) if config.rescale_betas_zero_snr else betas


def _cosine_alpha_bar(time):
    return np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2


def _laplace_alpha_bar(time):
    snr = np.exp(-0.5 * np.copysign(1, 0.5 - time) * np.log(1 - 2 * np.abs(0.5 - time) + 1e-6))
    return np.sqrt(snr / (1 + snr))


def zero_terminal_snr(betas):
    """Shift and scale sqrt(abar) so that it ends at 0 and begins where it did (Lin et al. 2023, algorithm 1)."""
    signal = np.sqrt(np.cumprod(1 - betas))
    if len(signal) < 2:
        raise ValueError("rescale_betas_zero_snr needs at least 2 training timesteps.")
    signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    alphas_bar = signal**2
    return 1 - np.concatenate([alphas_bar[:1], alphas_bar[1:] / alphas_bar[:-1]])


def warn_of_terminal_signal(alpha_bar, config):
    """Warns, with the remedy, if alpha_bar_T is above `LARGEST_TERMINAL_ALPHA_BAR`."""
    steps = config.num_train_timesteps
    if alpha_bar <= LARGEST_TERMINAL_ALPHA_BAR:
        return
    advice = "rescale_betas_zero_snr=True ends in noise"
    if config.beta_schedule in ("linear", "scaled_linear") and config.trained_betas is None:
        scale = 1000 / steps
        advice += (
            f", and so do the papers' ranges scaled by 1000/T: beta_start={1e-4 * scale:g}, "
            f"beta_end={min(0.02 * scale, 0.999):g}"
        )
    logger.warning(
        f"The forward process does not end in noise: alpha_bar_T = {alpha_bar:.3g} at T = {steps} (at most "
        f"{LARGEST_TERMINAL_ALPHA_BAR} is wanted), so x_T still shows the data; {advice}."
    )


def _check_betas(betas):
    outside = betas[~((betas > 0) & (betas < 1))]
    if len(outside):
        raise ValueError(
            f"Every beta must be in (0, 1); got {outside[0]:g}. Change beta_start, beta_end or trained_betas."
        )
