"""Points (vectors of numbers), drawn from a named distribution or read from any `datasets` data set or CSV file."""

import csv
import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np
import torch

from ddpm_hf.data.data_source import DataSource, labels_at
from ddpm_hf.data.fingerprint import fingerprint_of_points
from ddpm_hf.data.images import ImagesInMemory
from ddpm_hf.data.point_clouds import POINT_CLOUDS
from ddpm_hf.data.stored_rows import find_label_column, open_rows
from ddpm_hf.data.told_labels import read_labels
from ddpm_hf.errors import InputError
from ddpm_hf.limits import check_fits_memory
from ddpm_hf.models.mlp_denoiser import MLPDenoiser

# Five arrays of two float64 coordinates: points, standardised points and intermediate results.
BYTES_PER_DRAWN_POINT = 5 * 2 * 8


@dataclass(frozen=True)
class PointSource(DataSource):
    """Points looked at and standardised: (x - mean) / std, (N, d), float32; mean, std: (d,), in the data's own units.

    `fingerprint` is None for drawn points, which their options determine.
    """

    points: torch.Tensor
    mean: np.ndarray
    std: np.ndarray
    labels: np.ndarray | None
    num_classes: int | None
    fingerprint: str | None = None

    def __len__(self):
        return len(self.points)

    @property
    def kind(self):
        return f"points of {self.channels} dimensions"

    @property
    def channels(self):
        return self.points.shape[1]

    network_class = MLPDenoiser
    class_names = None

    @property
    def network_options(self):
        """Options of the network, with which its samples are in the data's own units."""
        return {"in_channels": self.channels, "data_mean": self.mean.tolist(), "data_std": self.std.tolist()}

    @property
    def scheduler_options(self):
        """The range of the data, which bounds the conditional mean of x0, and whose square bounds the covariance.

        Without clipping, a deterministic sampler would keep the error of its first x0_hat, which is the error of
        eps_hat over sqrt(abar_T), 160 times as large at T = 1000.
        """
        return {"clip_sample_range": math.ceil(self.points.abs().max().item() * 100) / 100}

    def load(self, *limits):
        """The points as they are, in memory."""
        return ImagesInMemory(self.decode())

    def decode(self, workers=None):
        """All as batches have them: `images`, which are points, and `labels` if there are some."""
        labels = {} if self.labels is None else {"labels": torch.from_numpy(self.labels)}
        return {"images": self.points} | labels

    def select(self, chosen):
        return replace(self, points=self.points[chosen], labels=labels_at(self.labels, chosen))


def open_points(args, config=None):
    """Opens points and checks them completely.

    Args:
        args (`DataArguments`): which data. Each split of a named distribution has its own draws.
        config (*optional*): config of a trained network, whose units the points then take.

    Raises:
        InputError: for missing or non-finite values, with their place; for a single point; for constant columns.
    """
    if args.dataset is None:
        raise InputError(
            f"Which points? Name them with --dataset: one of {', '.join(POINT_CLOUDS)}, or a file with columns of "
            "numbers."
        )
    if args.dataset in POINT_CLOUDS:
        values, columns, labels = _drawn(args)
        num_classes = None if labels is None else int(labels.max()) + 1
    else:
        values, columns, labels, num_classes = _read(args)
    if len(values) < 2:
        raise InputError(f"dataset={args.dataset!r} has a single point: there is no distribution to learn from it.")
    if config is None or config.get("data_mean") is None:
        mean, std = values.mean(0), values.std(0)
        _check_varying(values, columns)
    else:
        mean, std = (np.array(config[name]) for name in ("data_mean", "data_std"))
    if config is not None and values.shape[1] != config["in_channels"]:
        raise InputError(
            f"The points have {values.shape[1]} dimensions ({', '.join(columns)}), and the network takes "
            f"{config['in_channels']}: choose as many columns with --point_columns."
        )
    fingerprint = None if args.dataset in POINT_CLOUDS else fingerprint_of_points(values, labels)
    points = torch.from_numpy((values - mean) / std).float()
    return PointSource(points, mean, std, labels, num_classes, fingerprint)


def _drawn(args):
    check_fits_memory(
        f"num_points={args.num_points} take", args.num_points * BYTES_PER_DRAWN_POINT, "ask for fewer points"
    )
    generator = torch.Generator().manual_seed(zlib.crc32(args.split.encode()))
    points, labels = POINT_CLOUDS[args.dataset](args.num_points, generator)
    if args.class_conditional and labels is None:
        raise InputError(f"dataset={args.dataset!r} has no classes: leave out --class_conditional.")
    labels = labels.numpy() if args.class_conditional else None
    return points.numpy(), ["x", "y"], labels


def _read(args):
    is_csv = Path(args.dataset).suffix.lower() == ".csv" and Path(args.dataset).is_file()
    rows = open_rows(args, **_as_text(args.dataset) if is_csv else {})
    labels, num_classes, label_column = None, None, args.label_column
    if args.class_conditional:
        if is_csv and label_column in rows.features:
            rows = _with_whole_numbers(rows, label_column)
        label_column = find_label_column(rows.features, label_column)
        labels, num_classes = read_labels(rows, label_column)
    chosen = _point_columns(args, rows.features, label_column)
    rows = rows.with_format(None)
    blocks = [_numbers(rows[name][:], name, rows.features[name]) for name in chosen]
    names = [
        f"{n}[{i}]" if b.shape[1] > 1 else n for n, b in zip(chosen, blocks, strict=True) for i in range(b.shape[1])
    ]
    return np.concatenate(blocks, axis=1), names, labels, num_classes


def _as_text(path):
    """Reader options for a CSV file as text, so that a value that is not a number is reported with its row."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            names = next(csv.reader(file), [])
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"Cannot read {path} ({error}): it must be CSV text in UTF-8.") from error
    if names and all(_is_number(name) for name in names):
        raise InputError(
            f"The first line of {path} has numbers ({', '.join(names[:4])}) where the names of the columns belong: "
            "write a line of names, such as x,y, before it."
        )
    features = datasets.Features({name: datasets.Value("string") for name in names})
    return {"features": features, "na_filter": False}


def _with_whole_numbers(rows, column):
    values = rows[column][:]
    bad = next((i for i, value in enumerate(values) if not value.strip().isdigit()), None)
    if bad is not None:
        raise InputError(
            f"Row {bad} has {values[bad]!r} in column {column!r}: labels must be whole numbers from 0 up."
        )
    return rows.cast_column(column, datasets.Value("int64"))


def _point_columns(args, features, label_column):
    """The columns of `point_columns`, or all columns but the labels."""
    if args.point_columns is not None:
        names = [name.strip() for name in args.point_columns.split(",")]
        unknown = [name for name in names if name not in features]
        if unknown:
            raise InputError(
                f"point_columns={args.point_columns!r} names {unknown[0]!r}, which is not there: the columns are "
                f"{', '.join(features)}."
            )
        return names
    labels = {name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)} | {label_column}
    names = [name for name in features if name not in labels]
    if not names:
        raise InputError(
            f"dataset={args.dataset!r} has no column of numbers beside its labels ({', '.join(features)})."
        )
    return names


def _numbers(values, column, feature):
    """The values of one column, (N, 1), or of a column of lists, (N, d), as float64.

    Raises:
        InputError: for the first value that is missing or not a finite number, or a list of another length.
    """
    if isinstance(feature, datasets.Value):
        values = [[value] for value in values]
    lengths = [len(cells) if isinstance(cells, list) else None for cells in values]
    if all(length is None for length in lengths):
        raise InputError(
            f"Column {column!r} holds {type(feature).__name__}, not numbers: choose others with --point_columns."
        )
    for row, length in enumerate(lengths):
        if length != lengths[0]:
            raise InputError(f"Row {row} has {length} numbers in column {column!r}, and row 0 has {lengths[0]}.")
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = None
    if numbers is None or numbers.ndim != 2 or not np.isfinite(numbers).all():
        numbers = np.array([[_number(c, row, column) for c in cells] for row, cells in enumerate(values)])
    return numbers


def _number(cell, row, column):
    if cell is None or cell == "" or cell != cell:
        raise InputError(
            f"Row {row} (counted from 0) has no value in column {column!r}: fill it in or remove the row; or leave "
            "the column out with --point_columns."
        )
    if not _is_number(cell):
        raise InputError(
            f"Row {row} (counted from 0) has {cell!r} in column {column!r}, which is no finite number: correct it, or "
            "leave the column out with --point_columns."
        )
    return float(cell)


def _is_number(cell):
    try:
        return math.isfinite(float(cell))
    except (TypeError, ValueError):
        return False


def _check_varying(values, columns):
    for column, low, high in zip(columns, values.min(0), values.max(0), strict=True):
        if low == high:
            raise InputError(
                f"Column {column!r} is {low:g} in every row, so there is nothing to learn in it: leave it out with "
                "--point_columns."
            )
