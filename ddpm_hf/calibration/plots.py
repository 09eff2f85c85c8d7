"""Figures of a calibration."""

import numpy as np
import torch

from ddpm_hf.schedulers.covariance_spectrum import spectrum_from_config
from ddpm_hf.visualization.style import label_in_full, new_figure, save_figure


def draw_mean_square_epsilon(result, png_path):
    """Draws Gamma_t, and 1 - Gamma_t with the mean square error R_t, by timestep, with bands of two standard errors.

    Of images it draws how R_t is shared out among spatial frequencies too.

    Args:
        result ([`MeanSquareEpsilon`]): what `estimate_mean_square_epsilon` returns.
        png_path: the file to write.
    """
    gamma, gamma_error = np.array(result.values), np.array(result.standard_errors)
    residual, residual_error = np.array(result.residuals), np.array(result.residual_errors)
    told = result.covariance_spectrum
    figure, ((left, right, *rest),) = new_figure(9 if told is None else 13, 4, 1, 2 if told is None else 3)
    for axes in rest:
        _draw_spectrum(axes, spectrum_from_config(told, len(gamma)))
    _draw_band(left, gamma, gamma_error, r"$\Gamma_t = E\,|\hat\epsilon(x_t, t)|^2 / d$")
    _draw_band(right, 1 - gamma, gamma_error, r"$1 - \Gamma_t$")
    _draw_band(right, residual, residual_error, r"$R_t = E\,|\epsilon - \hat\epsilon(x_t, t)|^2 / d$")
    for axes in (left, right):
        axes.set_xlabel("timestep t")
        axes.legend()
    # Values below their standard error would fill most of a logarithmic scale.
    right.set_yscale("log", nonpositive="clip")
    right.set_ylim(bottom=np.median(gamma_error[-len(gamma) // 10 :]) / 5)
    figure.suptitle(
        f"{result.num_images} images at {result.timesteps_per_image} timesteps each; bands: two standard errors"
    )
    save_figure(figure, png_path)


def _draw_spectrum(axes, spectrum):
    """S_t along the diagonal of the frequencies, averaged over the channels, at a few of its timesteps."""
    side = min(spectrum.shape[1:])
    cycles = np.arange(side) / (2 * side)
    for timestep in spectrum.timesteps[1 :: max(1, len(spectrum.timesteps) // 5)].tolist():
        shares = spectrum.at(timestep, torch.zeros(1, *spectrum.shape)).mean(0)[:side, :side].diagonal()
        axes.plot(cycles, shares, linewidth=1, label=f"t = {timestep}")
    axes.set(xlabel="rows and columns, cycles per pixel", ylabel="$S_t$, share of $R_t$", yscale="log")
    label_in_full(axes.yaxis)
    axes.legend()


def draw_solvers(report, png_path):
    """Draws the distances of solvers to the fine paths by network calls, and of the paths tried to the images.

    Args:
        report (`dict`): `distances` and `paths_tried`, as `solvers.json` has them.
        png_path: the file to write.
    """
    tried = report["paths_tried"]
    figure, (panels,) = new_figure(9 if tried else 5, 5, 1, 2 if tried else 1)
    for name, of_steps in report["distances"].items():
        counts = [int(count) for count, distance in of_steps.items() if distance is not None]
        values = [of_steps[str(count)] for count in counts]
        style = {"color": "black", "linewidth": 2} if name == "fitted" else {"linewidth": 1}
        panels[0].plot(counts, values, "o-", markersize=3, label=name, **style)
    panels[0].set(xscale="log", yscale="log", xlabel="network calls", ylabel="distance to the fine paths")
    shown = sorted(map(int, report["distances"]["fitted"]))
    panels[0].set_xticks(shown, [str(count) for count in shown])
    panels[0].xaxis.minorticks_off()
    label_in_full(panels[0].yaxis)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", fontsize="small")
    if tried:
        _draw_paths_tried(panels[1], tried)
        figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower right", fontsize="small")
    save_figure(figure, png_path)


def _draw_paths_tried(axes, tried):
    """One line for each beginning, by the end, and dashed with the contrast of the images."""
    for number, begin in enumerate(dict.fromkeys(choice["begin"] for choice in tried)):
        for matched, style in ((False, "o-"), (True, "o--")):
            chosen = [c for c in tried if c["begin"] == begin and (c["contrast"] != 1.0) == matched]
            chosen.sort(key=lambda c: c["end"])
            where = "pure noise" if begin is None else f"t = {begin}"
            label = f"called from {where} on" + (", with the images' contrast" if matched else "")
            ends, distances = [c["end"] for c in chosen], [c["distance"] for c in chosen]
            axes.plot(ends, distances, style, color=f"C{number}", markersize=3, linewidth=1, label=label)
    axes.set(xlabel="t at which paths end by x0_hat (-1: the whole flow)", ylabel="distance to the images")


def _draw_band(axes, curve, errors, label):
    timesteps = np.arange(len(curve))
    axes.fill_between(timesteps, curve - 2 * errors, curve + 2 * errors, alpha=0.3, linewidth=0)
    axes.plot(timesteps, curve, linewidth=1, label=label)
