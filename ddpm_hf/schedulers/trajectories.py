"""Trajectories: which of the T training timesteps sampling visits, descending."""

from itertools import pairwise

import numpy as np

STOCK_SPACINGS = ("leading", "linspace", "trailing")
OWN_SPACINGS = ("quadratic", "logsnr", "karras")


def spaced_timesteps(spacing, count, alphas_bar, offset):
    """`count` of the timesteps 0 .. T-1, descending, int64; the first three as in Lin et al. (2023), table 2."""
    steps = len(alphas_bar)
    if spacing == "leading":
        ascending = np.arange(count) * (steps // count) + offset
        if ascending[-1] >= steps:
            raise ValueError(
                f"{count} 'leading' steps with steps_offset={offset} end at timestep {ascending[-1]}, but the last one "
                f"is {steps - 1}: use steps_offset=0, fewer steps, or another timestep_spacing."
            )
    elif spacing == "trailing":
        ascending = np.round(steps - np.arange(count) * (steps / count)).astype(np.int64)[::-1] - 1
    elif spacing == "linspace":
        ascending = np.linspace(0, steps - 1, count).round().astype(np.int64)
    else:
        ascending = _distinct(_curved_positions(spacing, count, alphas_bar), steps)
    return ascending[::-1].astype(np.int64)


def _curved_positions(spacing, count, alphas_bar):
    """Ascending positions, not yet whole, from 0 to T - 1, even in a function of the timestep."""
    steps = len(alphas_bar)
    if spacing == "quadratic":
        return np.linspace(0, np.sqrt(steps - 1), count) ** 2
    # A schedule with zero terminal SNR has no finite log-SNR at its end: 2^-24 stands for 0 there.
    alphas_bar = np.maximum(alphas_bar, 2.0**-24)
    log_sigma = 0.5 * np.log((1 - alphas_bar) / alphas_bar)
    if spacing == "logsnr":
        levels = np.linspace(log_sigma[0], log_sigma[-1], count)
    else:  # karras, rho = 7
        ends = np.exp(log_sigma[[0, -1]] / 7)
        levels = 7 * np.log(np.linspace(*ends, count))
    return np.interp(levels, log_sigma, np.arange(steps))


def _distinct(positions, steps):
    """The nearest whole timesteps, moved apart where they would repeat."""
    count = len(positions)
    timesteps = np.round(positions).astype(np.int64)
    index = np.arange(count)
    apart = np.maximum.accumulate(timesteps - index) + index
    return np.minimum(apart, steps - count + index)


def checked_timesteps(timesteps, steps):
    values = timesteps.tolist() if hasattr(timesteps, "tolist") else list(timesteps)
    if not values or any(not float(t).is_integer() for t in values):
        raise ValueError(f"timesteps={values} must be a list of at least one whole number.")
    if any(later >= earlier for earlier, later in pairwise(values)):
        raise ValueError(f"timesteps={values} must descend: each lower than the one before.")
    if values[0] >= steps or values[-1] < 0:
        raise ValueError(f"timesteps={values} must be in 0 .. {steps - 1} (num_train_timesteps={steps}).")
    return np.array(values, dtype=np.int64)
