"""Figures of what was measured."""

import numpy as np


def draw_mean_square_epsilon(result, png_path):
    """Gamma_t and 1 - Gamma_t, the share of the noise that the network cannot tell, by timestep, with two standard errors.

    Args:
        result ([`MeanSquareEpsilon`]): what `estimate_mean_square_epsilon` returns.
        png_path: the file to write.
    """
    from matplotlib.figure import Figure  # takes a second to import, and only the end of a calibration needs it

    values, errors = np.array(result.values), np.array(result.standard_errors)
    timesteps = np.arange(len(values))
    figure = Figure(figsize=(9, 4), layout="constrained")
    curves = {r"$\Gamma_t = E\,|\hat\epsilon(x_t, t)|^2 / d$": values, r"$1 - \Gamma_t$": 1 - values}
    for axes, (label, curve) in zip(figure.subplots(1, 2), curves.items(), strict=True):
        axes.fill_between(timesteps, curve - 2 * errors, curve + 2 * errors, alpha=0.3, linewidth=0)
        axes.plot(timesteps, curve, linewidth=1)
        axes.set(xlabel="timestep t", ylabel=label)
        axes.grid(alpha=0.3, which="both")
    # What is lost in its error would fill the whole scale.
    axes.set_yscale("log", nonpositive="clip")
    axes.set_ylim(bottom=np.median(errors[-len(errors) // 10 :]) / 5)
    figure.suptitle(
        f"{result.num_images} images at {result.timesteps_per_image} timesteps each; bands: two standard errors"
    )
    figure.savefig(png_path, dpi=150)
