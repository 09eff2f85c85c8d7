"""The report of a comparison of samplers, as JSON, Markdown and pictures, and as a table on the terminal."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from PIL import Image

from ddpm_hf.evaluation.distances import mean_and_spread
from ddpm_hf.reports.report_files import COMPARED_SAMPLES, COMPARISON, Report
from ddpm_hf.reports.text_tables import aligned
from ddpm_hf.visualization.image_table import ImageTable, draw_image_table
from ddpm_hf.visualization.style import label_in_full, new_figure, save_figure

DISTANCE, CALLS = "Frechet distance", "network calls"
# A table of samples has as many images in each cell as fit into so many pixels across, and at most so many.
LEGIBLE_TILE, TABLE_PIXELS, MOST_IN_CELL = 84, 1600, 8


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


class Comparison(NamedTuple):
    """A comparison of samplers of images: what `write_report` takes, and samples.

    shown: {(sampler, steps): its first images, uint8 (C, H, W)}, equally many of each and from the same noise.
    """

    title: str
    distance: str
    settings: dict
    measurements: Sequence[Measurement]
    shown: dict

    def write(self, folder):
        """Writes `compare.json`, `compare.md`, `compare.png` and `compare_samples.png` into the folder."""
        write_report(folder, COMPARISON.stem, self.title, self.distance, self.settings, self.measurements)
        save_figure(draw_image_table(self._samples(), LEGIBLE_TILE), folder / COMPARED_SAMPLES)

    def lines(self):
        """The lines of the table for a terminal: distances and seconds, samplers by numbers of steps."""
        nearest, cells = _nearest(self.measurements), _by_sampler_and_steps(self.measurements)
        samplers, columns = _names_and_steps(self.measurements)
        rows = [[CALLS, *map(str, columns)]]
        for name in samplers:
            of_sampler = [cells[name, count] for count in columns]
            rows.append([name, *(f"{_mean(m)}{'*' if m in nearest else ' '} {_seconds(m):>9}" for m in of_sampler)])
        return [f"{self.distance} (*: the nearest to the data), and seconds per image:", *aligned(rows)]

    def _samples(self):
        nearest, cells = _nearest(self.measurements), _by_sampler_and_steps(self.measurements)
        samplers, columns = _names_and_steps(self.measurements)
        number = _images_in_cell(next(iter(self.shown.values())), len(columns))
        places = [(row, column) for row in range(len(samplers)) for column in range(len(columns))]
        return ImageTable(
            cells=[[[*map(_picture, self.shown[name, k][:number])] for k in columns] for name in samplers],
            row_titles=samplers,
            column_titles=[f"{count} network call{'s' * (count > 1)}" for count in columns],
            captions=[[f"{_mean(m)} · {_seconds(m)}" for m in (cells[name, k] for k in columns)] for name in samplers],
            bold={(row, column) for row, column in places if cells[samplers[row], columns[column]] in nearest},
            title=f"{self.distance} (bold: the nearest to the data)\nand seconds per image; the same noise in every cell",
        )


def _images_in_cell(images, columns):
    across = max(LEGIBLE_TILE, *images[0].shape[-2:])
    return max(1, min(MOST_IN_CELL, len(images), TABLE_PIXELS // (columns * across)))


def _picture(levels):
    """A PIL image from uint8 (C, H, W)."""
    return Image.fromarray(levels.permute(1, 2, 0).squeeze(-1).numpy())


def _seconds(measurement):
    return f"{measurement.seconds:.2g} s"


def _mean(measurement):
    """The distance, with the spread of several seeds."""
    return f"{measurement.mean:.3g}" + ("" if measurement.spread is None else f" ± {measurement.spread:.2g}")


def _nearest(measurements):
    """The measurements of least distance for their number of steps."""
    least = {k: min(m.mean for m in measurements if m.steps == k) for k in {m.steps for m in measurements}}
    return [m for m in measurements if m.mean == least[m.steps]]


def _names_and_steps(measurements):
    return list(dict.fromkeys(m.sampler for m in measurements)), sorted({m.steps for m in measurements})


def _by_sampler_and_steps(measurements):
    return {(m.sampler, m.steps): m for m in measurements}


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
    nearest = _nearest(measurements)
    return _table(measurements, lambda m: f"**{_mean(m)}**" if m in nearest else _mean(m))


def _table(measurements, cell):
    samplers, columns = _names_and_steps(measurements)
    cells = {place: cell(m) for place, m in _by_sampler_and_steps(measurements).items()}
    lines = ["| sampler | " + " | ".join(map(str, columns)) + " |", "|---" * (len(columns) + 1) + "|"]
    for sampler in samplers:
        lines.append(f"| {sampler} | " + " | ".join(cells.get((sampler, k), "") for k in columns) + " |")
    return "\n".join(lines)


# Picture -------------------------------------------------------------------------------------------------------------


def _draw(png_path, title, distance, measurements):
    quantities = [(CALLS, lambda m: m.steps, distance, lambda m: m.mean)]
    if _timed(measurements):
        quantities += [("milliseconds per sample", lambda m: 1000 * m.seconds, distance, lambda m: m.mean)]
    if any(m.bits_per_dim is not None for m in measurements):
        quantities += [(CALLS, lambda m: m.steps, "bits per dimension", lambda m: m.bits_per_dim)]
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
        label_in_full(axes.yaxis)
        if x_label == CALLS:
            counts = sorted({m.steps for m in measurements})
            axes.set_xticks(counts, counts)
            axes.xaxis.minorticks_off()
        else:
            label_in_full(axes.xaxis)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.suptitle(title)
    save_figure(figure, png_path)
