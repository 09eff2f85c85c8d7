"""The loss curve of a training run."""

from ddpm_hf.visualization.style import new_figure


def draw_loss(rows):
    """The training loss by optimizer update, on a logarithmic scale.

    Args:
        rows (`list[dict]`): of `loss.csv`, each with "step" and "loss" (`ddpm_hf.reports.loss_curve.read_rows`).

    Returns:
        `matplotlib.figure.Figure`
    """
    figure, ((axes,),) = new_figure(6, 4)
    axes.plot([row["step"] for row in rows], [row["loss"] for row in rows])
    axes.set(xlabel="optimizer updates", ylabel="training loss", yscale="log")
    # Most of the curve lies within one power of ten.
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    return figure
