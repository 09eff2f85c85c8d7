"""A scheduler's statistics by timestep: Gamma, the variances of its reverse steps, the timesteps it visits."""

import torch

from ddpm_hf.schedulers.choices import OWN_SPACINGS, STOCK_SPACINGS
from ddpm_hf.schedulers.gaussian_kernel import covariance_scale
from ddpm_hf.schedulers.variances import mean_covariance
from ddpm_hf.visualization.style import new_figure


def draw_gamma(scheduler):
    """`mean_square_epsilon` of a scheduler, and the standard deviation of x0 given x_t from it (Bao et al. 2022a).

    `ddpm-hf calibrate` writes 1 - R_t, one minus the mean square error of the predicted noise (Bao et al. 2022b). A
    config may also hold Gamma_t = E |eps_hat(x_t, t)|^2 / d, which is equal if eps_hat is the conditional mean.

    Args:
        scheduler ([`GaussianDiffusionScheduler`]): with `mean_square_epsilon` in its config.

    Returns:
        `matplotlib.figure.Figure`
    """
    gamma = _gamma(scheduler)
    alphas_bar = scheduler.alpha_bar(range(len(scheduler)))
    scale = covariance_scale(alphas_bar.sqrt(), (1 - alphas_bar).sqrt())
    covariance = mean_covariance(torch.tensor(gamma).double(), scale)
    most = scheduler.config.clip_sample_range**2 if scheduler.config.clip_covariance else None
    figure, axes = new_figure(8, 3.2, 1, 2)
    left, right = axes[0]
    left.plot(gamma)
    left.set(xlabel="timestep t", ylabel="mean_square_epsilon = $1 - R_t$", ylim=(0, 1.05))
    right.plot(covariance.clamp(0, most).sqrt())
    right.set(xlabel="timestep t", ylabel=r"std of $x_0$ given $x_t$ (unit of $x_t$)")
    return figure


def draw_variances(variances):
    """The standard deviation of the noise that each recipe adds in the step from t, by t.

    Args:
        variances (`dict[str, list[ReverseVariance]]`): the result of `ddpm_hf.calibration.reverse_variances`.

    Returns:
        `matplotlib.figure.Figure`
    """
    figure, axes = new_figure(8, 4)
    one = axes[0, 0]
    for i, (name, steps) in enumerate(variances.items()):
        timesteps = [step.timestep for step in steps]
        # Several curves differ only near the data; the style keeps the ones behind visible.
        style = {"linestyle": ("-", "--", ":")[i % 3], "linewidth": 2, "marker": "o", "markersize": 3}
        (line,) = one.plot(timesteps, [step.mean**0.5 for step in steps], label=name, **style)
        low, high = ([getattr(step, end) ** 0.5 for step in steps] for end in ("low", "high"))
        if low != high:
            one.fill_between(timesteps, low, high, alpha=0.2, linewidth=0, color=line.get_color())
    one.set(xlabel="timestep t", ylabel="std of the noise of the step\nfrom t (unit of $x_t$)", yscale="log")
    figure.legend(loc="outside right upper")
    return figure


def draw_timesteps(scheduler, num_inference_steps):
    """The timesteps of each spacing in K steps, as one row of dots each; the plan for K, if any, has a row too.

    Args:
        scheduler ([`GaussianDiffusionScheduler`]): `optimal` is drawn if its config has `mean_square_epsilon`.
        num_inference_steps (`int`): K.

    Returns:
        `matplotlib.figure.Figure`
    """
    rows = {}
    for spacing in (*STOCK_SPACINGS, *OWN_SPACINGS):
        if spacing != "optimal" or scheduler.config.mean_square_epsilon is not None:
            spaced = scheduler.from_config(scheduler.config, timestep_spacing=spacing, timestep_plans=None)
            spaced.set_timesteps(num_inference_steps)
            rows[spacing] = spaced.timesteps.tolist()
    plan = (scheduler.config.timestep_plans or {}).get(str(num_inference_steps))
    if plan is not None:
        rows["planned"] = plan
    figure, axes = new_figure(8, 0.33 * len(rows) + 0.8)
    one = axes[0, 0]
    for row, timesteps in enumerate(rows.values()):
        one.plot(timesteps, [row] * len(timesteps), "o", markersize=4)
    one.set_yticks(range(len(rows)), rows)
    one.set(xlabel=f"timestep t, {num_inference_steps} steps from right to left", ylim=(len(rows) - 0.5, -0.5))
    return figure


def _gamma(scheduler):
    gamma = scheduler.config.mean_square_epsilon
    if gamma is None:
        raise ValueError(
            "The scheduler has no mean_square_epsilon, which is measured: `ddpm-hf calibrate MODEL --dataset DATA "
            "--output_dir NEW` writes a model that has it."
        )
    return gamma
