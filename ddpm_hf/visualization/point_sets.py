"""Pictures of points of any dimension."""

from ddpm_hf.visualization.style import new_figure, scatter


def draw_points(points):
    """Points (N, d) as a scatter of their first two coordinates; of one dimension, as a histogram.

    Returns:
        `matplotlib.figure.Figure`
    """
    figure, ((axes,),) = new_figure(4.5, 4.5)
    if points.shape[1] == 1:
        axes.hist(points[:, 0], bins=60, density=True)
        axes.set(xlabel="$x$", ylabel="density")
        return figure
    scatter(axes, points[:, :2])
    axes.set(xlabel="$x_1$", ylabel="$x_2$")
    axes.set_aspect("equal", adjustable="datalim")
    return figure
