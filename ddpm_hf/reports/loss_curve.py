"""The tables of a run: `loss.csv`, with a line for each logged interval and a curve, `bits_per_dim.csv`, and more."""

import csv
from pathlib import Path

from ddpm_hf.errors import InputError
from ddpm_hf.files import cannot_write, flush_to_disk, written_whole
from ddpm_hf.visualization.loss import draw_loss
from ddpm_hf.visualization.style import save_figure

LOSS_FILE, LOSS_PICTURE = "loss.csv", "loss.png"
BITS_PER_DIM_FILE = "bits_per_dim.csv"
# The Frechet distance of samples to held-out images, and the channels of the samples of each grid beside the data's.
DISTANCE_FILE, CHANNELS_FILE = "frechet_distance.csv", "sample_channels.csv"


def append_row(path, row):
    """Appends `row`, values by column; all rows of a file have the same columns, of which `step` is the first."""
    path = Path(path)
    is_new = not path.exists()
    try:
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if is_new:
                writer.writeheader()
            writer.writerow(row)
    except OSError as error:
        raise InputError(cannot_write(path, error)) from error


def flush(path):
    """Calls fsync on the file, so that its rows are as durable as the checkpoint that follows them."""
    if Path(path).exists():
        flush_to_disk(path)


def read_rows(path):
    with Path(path).open(newline="", encoding="utf-8") as file:
        return [{"step": int(row.pop("step"))} | {k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def drop_rows_after(path, step):
    """Drops rows after the checkpoint from which a run continues, and a truncated last row."""
    path = Path(path)
    if not path.exists():
        return
    header, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
    if not header.endswith(b"\n"):
        path.unlink()
        return
    whole = [line for line in lines if line.endswith(b"\n") and line.count(b",") == header.count(b",")]
    with written_whole(path) as aside:
        aside.write_bytes(b"".join([header, *(line for line in whole if int(line.split(b",")[0]) <= step)]))


def draw_loss_curve(folder, picture=None):
    """Writes the curve of the loss in the folder of a run to `picture`, by default `loss.png` in that folder."""
    figure = draw_loss(read_rows(Path(folder) / LOSS_FILE))
    with written_whole(picture or Path(folder) / LOSS_PICTURE) as aside:
        save_figure(figure, aside)
