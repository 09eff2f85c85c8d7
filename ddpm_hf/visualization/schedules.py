"""Pictures of noise schedules."""

from ddpm_hf.visualization.style import new_figure


def draw_schedules(schedulers):
    """beta_t, the weights of signal and noise in x_t, and log-SNR, by timestep.

    Args:
        schedulers (`dict[str, GaussianDiffusionScheduler]`): keyed by their names in the legend.

    Returns:
        `matplotlib.figure.Figure`
    """
    figure, axes = new_figure(8, 5.5, 2, 2, sharex=True)
    for name, scheduler in schedulers.items():
        alpha_bar = scheduler.alpha_bar(range(len(scheduler)))
        curves = (
            1 - alpha_bar / scheduler.alpha_bar(range(-1, len(scheduler) - 1)),
            alpha_bar.log() - (-alpha_bar).log1p(),
            alpha_bar.sqrt(),
            (1 - alpha_bar).sqrt(),
        )
        for one, curve in zip(axes.flat, curves, strict=True):
            one.plot(range(len(scheduler)), curve, label=name)
    labels = (
        r"variance of a step, $\beta_t$",
        r"log-SNR, $\ln\,\bar\alpha_t / (1 - \bar\alpha_t)$ (nats)",
        r"signal, $\sqrt{\bar\alpha_t}$",
        r"noise, $\sqrt{1 - \bar\alpha_t}$",
    )
    for one, label in zip(axes.flat, labels, strict=True):
        one.set_ylabel(label)
    axes[0, 0].set_yscale("log")
    for one in axes[1]:
        one.set(xlabel="timestep t", ylim=(-0.02, 1.02))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(schedulers))
    return figure
