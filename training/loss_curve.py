"""The course of a run: `loss.csv`, a line for each logged interval, and the curve drawn from it."""

import csv
import os
from pathlib import Path

COLUMNS = ("step", "loss", "lr", "images_per_second")


def append_row(path, row):
    """Adds `row`, a value for each of `COLUMNS`, to the file."""
    path = Path(path)
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def read_rows(path):
    with Path(path).open(newline="", encoding="utf-8") as file:
        return [{"step": int(row.pop("step"))} | {k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def drop_rows_after(path, step):
    """Forgets what a run wrote after the checkpoint that it is continued from."""
    path = Path(path)
    if not path.exists():
        return
    aside = path.with_suffix(".tmp")
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    with aside.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines[:1] + [line for line in lines[1:] if int(line[0]) <= step])
    os.replace(aside, path)


def draw_loss_curve(csv_path, png_path):
    from matplotlib.figure import Figure  # takes a second to import, and only the end of a run needs it

    rows = read_rows(csv_path)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([row["step"] for row in rows], [row["loss"] for row in rows])
    axes.set(xlabel="optimizer updates", ylabel="training loss", yscale="log")
    axes.grid(alpha=0.3, which="both")
    figure.savefig(png_path, dpi=150)
