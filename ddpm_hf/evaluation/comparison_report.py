"""The report of a comparison of samplers, as JSON, Markdown and a picture."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ddpm_hf.evaluation.distances import mean_and_spread
from ddpm_hf.reports.report_files import Report
from ddpm_hf.visualization.style import new_figure, save_figure


@dataclass(frozen=True)
class Measurement:
    """One sampler at one number of steps.

    sampler, steps: its name, and K, the number of network calls for each sample.
    distances: distances between samples and data, one for each seed; lower is better.
    timesteps: timesteps of the network calls, descending.
    seconds: seconds for each sample with the network, the median over batches; None if they were not measured.
    bits_per_dim: the bound, if the sampler has one.
    """

    sampler: str
    steps: int
    distances: Sequence[float]
    timesteps: Sequence[int]
    seconds: float | None = None
    bits_per_dim: float | None = None

    @property
    def mean(self):
        return mean_and_spread(self.distances)[0]

    @property
    def spread(self):
        """Standard deviation between the seeds; None for one seed."""
        return mean_and_spread(self.distances)[1]


def write_report(folder, name, title, distance, settings, measurements):
    """Writes `name`.json, `name`.md and `name`.png into the folder.

    Args:
        title, distance (`str`): title of the tables and figures, and name of the distance with its unit.
        settings (`dict`): settings of the comparison, which JSON can hold.
        measurements (`list[Measurement]`): one for every sampler at every number of steps.
    """
    rows = [asdict(m) | {"mean": m.mean, "spread": m.spread} for m in measurements]
    values = {"title": title, "distance": distance, "settings": settings, "measurements": rows}
    Report(f"{name}.json").write(folder, values)
    (folder / f"{name}.md").write_text(_markdown(title, distance, settings, measurements), encoding="utf-8")
    _draw(folder / f"{name}.png", title, distance, measurements)


def _timed(measurements):
    return all(m.seconds is not None for m in measurements)


# Markdown ------------------------------------------------------------------------------------------------------------


def _markdown(title, distance, settings, measurements):
    parts = [
        f"# {title}",
        "\n".join(f"- {name}: {value}" for name, value in settings.items()),
        f"## {distance} by network calls\n\nMean over the seeds ± standard deviation between them; the least of each "
        "column is bold.",
        distance_table(measurements),
    ]
    if any(m.bits_per_dim is not None for m in measurements):
        scored = [m for m in measurements if m.bits_per_dim is not None]
        parts += ["## Bits per dimension", _table(scored, lambda m: f"{m.bits_per_dim:.3f}")]
    if _timed(measurements):
        parts += ["## Milliseconds per sample", _table(measurements, lambda m: f"{1000 * m.seconds:.3g}")]
    parts += ["## First and last timestep", _table(measurements, lambda m: f"{m.timesteps[0]} .. {m.timesteps[-1]}")]
    return "\n\n".join(parts) + "\n"


def distance_table(measurements):
    """Samplers by numbers of steps, as Markdown; the least mean of each column is bold."""
    least = {}
    for m in measurements:
        least[m.steps] = min(m.mean, least.get(m.steps, m.mean))

    def cell(m):
        text = f"{m.mean:.3g}" if m.spread is None else f"{m.mean:.3g} ± {m.spread:.2g}"
        return f"**{text}**" if m.mean == least[m.steps] else text

    return _table(measurements, cell)


def _table(measurements, cell):
    columns = sorted({m.steps for m in measurements})
    cells = {(m.sampler, m.steps): cell(m) for m in measurements}
    lines = ["| sampler | " + " | ".join(map(str, columns)) + " |", "|---" * (len(columns) + 1) + "|"]
    for sampler in dict.fromkeys(m.sampler for m in measurements):
        lines.append(f"| {sampler} | " + " | ".join(cells.get((sampler, k), "") for k in columns) + " |")
    return "\n".join(lines)


# Picture -------------------------------------------------------------------------------------------------------------


def _draw(png_path, title, distance, measurements):
    quantities = [("network calls", lambda m: m.steps, distance, lambda m: m.mean)]
    if _timed(measurements):
        quantities += [("milliseconds per sample", lambda m: 1000 * m.seconds, distance, lambda m: m.mean)]
    if any(m.bits_per_dim is not None for m in measurements):
        quantities += [("network calls", lambda m: m.steps, "bits per dimension", lambda m: m.bits_per_dim)]
    names = list(dict.fromkeys(m.sampler for m in measurements))
    height = max(5, 0.22 * len(names))  # the legend fits
    figure, all_axes = new_figure(5.5 * len(quantities) + 2, height, 1, len(quantities))
    for axes, (x_label, x, y_label, y) in zip(all_axes[0], quantities, strict=True):
        for i, name in enumerate(names):
            points = sorted((x(m), y(m)) for m in measurements if m.sampler == name and y(m) is not None)
            if points:
                style = {"color": f"C{i % 10}", "linestyle": ("-", "--", ":", "-.")[i // 10 % 4], "marker": "o"}
                axes.plot(*zip(*points, strict=True), label=name, markersize=4, **style)
        axes.set(xlabel=x_label, ylabel=y_label, xscale="log", yscale="log")
    figure.axes[0].set_xticks(sorted({m.steps for m in measurements}), sorted({m.steps for m in measurements}))
    figure.axes[0].minorticks_off()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.suptitle(title)
    save_figure(figure, png_path)
