"""The report of measures of samples: JSON, Markdown, and lines on the terminal."""

from typing import NamedTuple

from ddpm_hf.evaluation.sample_metrics import Figure
from ddpm_hf.reports.report_files import MEASURES
from ddpm_hf.reports.text_tables import aligned

HEAD = ("measure", "value", "error", "floor", "of")


class MeasuresReport(NamedTuple):
    """Figures of samples, with what all of them depend on.

    samples, reference: what was measured against what, by name. environment: versions of libraries.
    """

    samples: dict
    reference: dict
    figures: list[Figure]
    environment: dict

    def to_dict(self):
        return {
            "samples": self.samples,
            "reference": self.reference,
            "figures": [figure.to_dict() for figure in self.figures],
            "environment": self.environment,
        }

    def lines(self):
        """The table for a terminal, and below it what is to be said of its figures."""
        return [*aligned([list(HEAD), *map(_cells, self.figures)]), *self._notes()]

    def write(self, folder):
        """Writes `measures.json` and `measures.md` into the folder."""
        MEASURES.write(folder, self.to_dict())
        (folder / f"{MEASURES.stem}.md").write_text(self._markdown(), encoding="utf-8")

    def _markdown(self):
        rows = [HEAD, ("---",) * len(HEAD), *map(_cells, self.figures)]
        parts = [
            "# Measures of samples",
            "\n".join(f"- samples: {name}: {value}" for name, value in self.samples.items())
            + "\n"
            + "\n".join(f"- reference: {name}: {value}" for name, value in self.reference.items()),
            "\n".join(f"| {' | '.join(row)} |" for row in rows),
            "The error is the standard deviation between repeated draws. The floor is the same measure between two parts of "
            "the reference; it is there because no figure means anything without it.",
            "\n".join(f"- {note}" for note in self._notes()),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _notes(self):
        return list(dict.fromkeys(f"{figure.name}: {said}" for figure in self.figures for said in figure.warnings))


def _cells(figure):
    value, error, _ = figure.estimate
    floor = "" if figure.floor is None else f"{figure.floor.value:.4g}"
    counts = "" if figure.floor is None else f" ({'/'.join(map(str, figure.floor_counts))})"
    return [
        figure.name,
        f"{value:.4g}",
        "" if error is None else f"{error:.2g}",
        floor + counts,
        figure.conditions["network"],
    ]
