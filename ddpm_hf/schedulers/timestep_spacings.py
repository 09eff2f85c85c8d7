"""Trajectories: which of the T training timesteps sampling visits, descending."""

from itertools import pairwise

import numpy as np

from ddpm_hf.number_checks import is_whole


def choose_timesteps(count, timesteps, alphas_bar, config):
    """The requested trajectory, descending, int64: `timesteps`, or `count` of them, or all.

    Args:
        count (`int`, *optional*): how many; the config's plan for it places them, or `timestep_spacing`.
        timesteps (`list[int]`, *optional*): the timesteps themselves.
        alphas_bar (`np.ndarray`): (T,).
        config: the scheduler's config.
    """
    steps = len(alphas_bar)
    if count is not None and timesteps is not None:
        raise ValueError("Pass num_inference_steps or timesteps, not both.")
    if timesteps is not None:
        trajectory = checked_timesteps(timesteps, steps)
    elif count is None:
        trajectory = np.arange(steps)[::-1].copy()
    elif str(count) in (config.timestep_plans or {}):
        trajectory = np.array(config.timestep_plans[str(count)], dtype=np.int64)
    elif is_whole(count, 1, steps):
        trajectory = spaced_timesteps(
            config.timestep_spacing, int(count), alphas_bar, config.steps_offset, config.mean_square_epsilon
        )
    else:
        raise ValueError(f"num_inference_steps={count} must be in 1 .. {steps}, the training timesteps.")
    return trajectory


def spaced_timesteps(spacing, count, alphas_bar, offset=0, mean_square_epsilon=None):
    """`count` of the timesteps 0 .. T-1, descending, int64; the first three spacings as in Lin et al. (2023), table 2.

    Args:
        alphas_bar (`np.ndarray`): (T,).
        offset (`int`): added to the timesteps of `leading`.
        mean_square_epsilon (`list[float]`): Gamma_t, (T,), for `optimal`.
    """
    steps = len(alphas_bar)
    if spacing == "leading":
        ascending = np.arange(count) * (steps // count) + offset
        if ascending[-1] >= steps:
            raise ValueError(
                f"{count} 'leading' steps with steps_offset={offset} end at timestep {ascending[-1]}, but the last "
                f"one is {steps - 1}: use steps_offset=0, fewer steps, or another timestep_spacing."
            )
    elif spacing == "trailing":
        ascending = np.round(steps - np.arange(count) * (steps / count)).astype(np.int64)[::-1] - 1
    elif spacing == "linspace":
        ascending = np.linspace(0, steps - 1, count).round().astype(np.int64)
    elif spacing == "optimal":
        ascending = _optimal(count, alphas_bar, mean_square_epsilon)
    else:
        ascending = _distinct(_curved_positions(spacing, count, alphas_bar), steps)
    return ascending[::-1].astype(np.int64)


def _curved_positions(spacing, count, alphas_bar):
    """Ascending real positions from 0 to T - 1, evenly spaced in a function of the timestep."""
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
    """The nearest whole timesteps, moved apart where two would coincide."""
    count = len(positions)
    timesteps = np.round(positions).astype(np.int64)
    index = np.arange(count)
    apart = np.maximum.accumulate(timesteps - index) + index
    return np.minimum(apart, steps - count + index)


def _optimal(count, alphas_bar, mean_square_epsilon):
    """The timesteps from 0 to T - 1 whose bound with analytic variances is least (Bao et al. 2022a, section 4).

    Two adjacent timesteps s < t contribute log(1 - beta_{t|s} Gamma_t / (1 - abar_t)) to the bound, with beta_{t|s} =
    1 - abar_t / abar_s; the other terms have the same sum for all trajectories.
    """
    steps = len(alphas_bar)
    if count == 1:
        return np.array([steps - 1])
    gamma = _without_leaps(np.array(mean_square_epsilon), alphas_bar)
    with np.errstate(divide="ignore", invalid="ignore"):  # pairs that are not s < t
        share = (1 - alphas_bar[None] / alphas_bar[:, None]) * (gamma / (1 - alphas_bar))[None]
        return cheapest_path(np.log1p(-share), count - 1)


def _without_leaps(mean_square_epsilon, alphas_bar):
    """Gamma_t, lowered where Cov[x0 | x_t] would be less than half of its value at a lower t.

    The covariance of the true posterior rises with t, because noise removes information about x0 (Guo et al. 2005,
    theorem 1). At high noise a small error of Gamma_t, or a value above 1, would imply that x_t determines x0, and the
    plan would jump from there to the data. Smaller decreases are estimation noise and change little.
    """
    scale = np.minimum((1 - alphas_bar) / np.maximum(alphas_bar, 1e-12), 1e12)
    covariance = np.clip(scale * (1 - mean_square_epsilon), 0, 1)
    before = np.maximum.accumulate(covariance)
    return np.where(covariance < 0.5 * before, 1 - before / scale, mean_square_epsilon)


def cheapest_path(cost, transitions):
    """The nodes 0 = n_0 < n_1 < .. < n_m = N - 1 with the least sum of cost[n_i, n_{i+1}] (Watson et al. 2021).

    Dynamic programming finds it exactly in O(m N^2). Ties go to the lower nodes.

    Args:
        cost (`np.ndarray`): (N, N), read above the diagonal.
        transitions (`int`): m, 1 .. N - 1.
    """
    nodes = len(cost)
    arriving = np.where(np.tri(nodes, k=-1, dtype=bool), cost.T, np.inf)
    best, choices = np.where(np.arange(nodes) == 0, 0.0, np.inf), []
    for _ in range(transitions):
        total = arriving + best
        choices.append(total.argmin(axis=1))
        best = np.take_along_axis(total, choices[-1][:, None], axis=1)[:, 0]
    path = [nodes - 1]
    for choice in reversed(choices):
        path.append(choice[path[-1]])
    return np.array(path[::-1])


def checked_plans(plans, alphas_bar, largest_terminal_alpha_bar):
    """`timestep_plans`, each checked to have as many timesteps as its key says and to begin in noise."""
    for count, plan in plans.items():
        timesteps = checked_timesteps(plan, len(alphas_bar))
        if str(len(timesteps)) != str(count):
            raise ValueError(f"timestep_plans[{count!r}] has {len(timesteps)} timesteps; its key says {count}.")
        if alphas_bar[timesteps[0]] > largest_terminal_alpha_bar:
            raise ValueError(
                f"timestep_plans[{count!r}] begins at timestep {timesteps[0]}, where x_t still shows the data "
                f"(alpha_bar = {alphas_bar[timesteps[0]]:.3g}); a plan must begin near {len(alphas_bar) - 1}, where "
                "sampling does."
            )
    return {str(count): [int(t) for t in plan] for count, plan in plans.items()}


def checked_timesteps(timesteps, steps):
    values = timesteps.tolist() if hasattr(timesteps, "tolist") else list(timesteps)
    if not values or any(not float(t).is_integer() for t in values):
        raise ValueError(f"timesteps={values} must be a list of at least one whole number.")
    if any(later >= earlier for earlier, later in pairwise(values)):
        raise ValueError(f"timesteps={values} must descend: each lower than the one before.")
    if values[0] >= steps or values[-1] < 0:
        raise ValueError(f"timesteps={values} must be in 0 .. {steps - 1} (num_train_timesteps={steps}).")
    return np.array(values, dtype=np.int64)
