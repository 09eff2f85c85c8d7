"""Points in the plane: samples over data, their path from noise, and the score field."""

import torch

from ddpm_hf.visualization.style import new_figure, plane, scatter, to_image

PLANE = "$x_1$ across, $x_2$ up (standardised units)"
COLORS = {"data": "0.55", "samples": "C3"}


def draw_samples(data, samples):
    """Data alone, samples alone, and samples over data.

    Args:
        data, samples (`torch.Tensor`): (N, 2) and (M, 2).

    Returns:
        `matplotlib.figure.Figure`
    """
    figure, ((left, middle, right),) = new_figure(8, 3.1, 1, 3, sharex=True, sharey=True)
    low, high = data.amin(0), data.amax(0)
    margin = 0.1 * (high - low)
    for axes, title, shown in (
        (left, f"{len(data):,} points of the data", {"data": data}),
        (middle, f"{len(samples):,} samples", {"samples": samples}),
        (right, "samples over data", {"data": data, "samples": samples}),
    ):
        for name, points in shown.items():
            scatter(axes, points, color=COLORS[name])
        axes.set(title=title, xlabel="$x_1$ (data's unit)", aspect="equal")
    (x_low, y_low), (x_high, y_high) = (low - margin).tolist(), (high + margin).tolist()
    left.set(xlim=(x_low, x_high), ylim=(y_low, y_high), ylabel="$x_2$ (data's unit)")
    return figure


def draw_path(frames, data=None):
    """The path from noise to data as a strip of x_t, one panel per frame.

    Args:
        frames (`dict[str, torch.Tensor]`): points (N, 2) by title, in the order of sampling.
        data (`torch.Tensor`, *optional*): (M, 2), drawn below.

    Returns:
        `matplotlib.figure.Figure`
    """
    columns = min(len(frames), 6)
    rows = -(-len(frames) // columns)
    figure, axes = new_figure(1.35 * columns, 1.6 * rows + 0.4, rows, columns, sharex=True, sharey=True)
    for one, (title, points) in zip(axes.flat, frames.items(), strict=False):
        _draw_frame(one, title, points, data)
    for one in axes.flat[len(frames) :]:
        one.set_axis_off()
    figure.supxlabel(PLANE, fontsize="medium")
    return figure


def path_images(frames, data=None):
    """The panels of `draw_path` as PIL images, one per frame, for an animation."""
    images = []
    for title, points in frames.items():
        figure, axes = new_figure(3.2, 3.4)
        _draw_frame(axes[0, 0], title, points, data)
        images.append(to_image(figure))
    return images


def draw_score_field(scheduler, predict, data, timesteps, limit=3.0, arrows=18):
    """The score d log q(x_t) / d x_t = -eps_hat / sqrt(1 - abar_t) as arrows, over the data noised to t.

    Each panel has its own scale of arrows. Arrows longer than the panel's median, far from all data, are cut to the
    median; otherwise the arrows between the data would be too short to see.

    Args:
        scheduler ([`GaussianDiffusionScheduler`]): gives the process and the prediction type.
        predict: the network, (x_t, t) -> (B, 2) or (B, 4) with a variance head.
        data (`torch.Tensor`): (N, 2).
        timesteps (`list[int]`): a panel for each.
        limit (`float`): panels show [-limit, limit]^2.
        arrows (`int`): the number of arrows in each direction.

    Returns:
        `matplotlib.figure.Figure`
    """
    line = torch.linspace(-limit, limit, arrows) * (1 - 1 / arrows)
    grid = torch.cartesian_prod(line, line).to(data.dtype)
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(0), dtype=data.dtype)
    columns = min(len(timesteps), 3)
    rows = -(-len(timesteps) // columns)
    figure, axes = new_figure(2.7 * columns, 2.9 * rows, rows, columns, sharex=True, sharey=True)
    for one, t in zip(axes.flat, timesteps, strict=False):
        scatter(one, scheduler.add_noise(data, noise, t), color="C1", alpha=0.5)
        field, longest = _cut(score(scheduler, predict, grid, t))
        unit = {"angles": "xy", "scale_units": "xy", "scale": longest / (line[1] - line[0]).item()}
        one.quiver(*grid.T, *field.T, color="C0", width=0.005, minlength=0, **unit)
        plane(one, limit)
        noise_level = (1 - scheduler.alpha_bar(t)).sqrt()
        one.set_title(rf"t = {t}, $\sqrt{{1 - \bar\alpha_t}}$ = {noise_level:.2g}", fontsize="medium")
    for one in axes.flat[len(timesteps) :]:
        one.set_axis_off()
    for one in axes[:, 0]:
        one.set_ylabel("$x_2$ (standardised)")
    for one in axes[-1]:
        one.set_xlabel("$x_1$ (standardised)")
    return figure


def score(scheduler, predict, x_t, timestep):
    """d log q(x_t) / d x_t = -eps_hat / sqrt(1 - abar_t), of x_t's shape (Song et al. 2021, section 3.3)."""
    t = torch.tensor(timestep)
    return -scheduler.get_epsilon(predict(x_t, t), t, x_t) / (1 - scheduler.alpha_bar(t)).sqrt().to(x_t.dtype)


def _cut(arrows):
    """Arrows (N, 2) cut to the median of their lengths, and that median."""
    lengths = arrows.norm(dim=1, keepdim=True)
    longest = lengths.median()
    return arrows * (longest / lengths).clamp(max=1), longest.item()


def _draw_frame(axes, title, points, data):
    if data is not None:
        scatter(axes, data, color=COLORS["data"])
    scatter(axes, points, color=COLORS["samples"])
    plane(axes, 3.2)
    axes.set_title(title, fontsize="medium")
