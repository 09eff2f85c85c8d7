"""The forward process, drawn from data to noise."""

from ddpm_hf.visualization.images import show_image
from ddpm_hf.visualization.points import PLANE
from ddpm_hf.visualization.style import new_figure, plane, scatter


def draw_forward_process(marginals, num_images=1):
    """x_t noised step by step (top) and by the closed form (bottom), with the p-value of the test that both agree.

    Args:
        marginals (`list[ForwardMarginal]`): the result of `ddpm_hf.evaluation.forward_process.forward_marginals`, for
            points (N, 2) or images (N, C, H, W) in [-1, 1].
        num_images (`int`): rows of images for each of the two methods.

    Returns:
        `matplotlib.figure.Figure`
    """
    columns, of_points = len(marginals), marginals[0].at_once.ndim == 2
    rows = 1 if of_points else num_images
    figure, axes = new_figure(1.3 * columns + 0.4, 1.35 * 2 * rows + 0.5, 2 * rows, columns)
    for column, marginal in enumerate(marginals):
        p = f"p = {marginal.p:.2f}" if marginal.p >= 0.01 else f"p = {marginal.p:.1g}"
        axes[0, column].set_title(f"t = {marginal.timestep}\n{p}", fontsize="medium")
        for first_row, samples in ((0, marginal.step_by_step), (rows, marginal.at_once)):
            for row in range(rows):
                one = axes[first_row + row, column]
                if of_points:
                    scatter(one, samples)
                    plane(one, 3.5)
                    one.tick_params(labelleft=column == 0, labelbottom=first_row == rows)
                else:
                    show_image(one, samples[row])
    axes[0, 0].set_ylabel("step by step")
    axes[rows, 0].set_ylabel("closed form")
    figure.align_ylabels()
    if of_points:
        figure.supxlabel(PLANE, fontsize="medium")
    return figure
