"""What a model is told of each image of a data set: its class, a number, or its caption."""

import logging
from typing import NamedTuple

import datasets
import numpy as np

from ddpm_hf.data.captions import read_captions
from ddpm_hf.data.stored_rows import find_label_column
from ddpm_hf.errors import InputError
from ddpm_hf.samples.condition_values import value_limits_of

logger = logging.getLogger(__name__)


class ToldLabels(NamedTuple):
    """What a model is told of the images of a data set, each None where it is told nothing.

    labels: classes or numbers of captions, int64, or numbers, float32, (N,). num_classes, class_names: of classes.
    value_limits: of numbers. captions: all different ones.
    """

    labels: np.ndarray | None = None
    num_classes: int | None = None
    class_names: list[str] | None = None
    value_limits: tuple[float, float] | None = None
    captions: tuple[str, ...] | None = None


def read_told_labels(rows, args, config=None):
    """The [`ToldLabels`] of rows by the options of the data.

    Args:
        config (*optional*): config of a trained network, whose limits numbers then have.
    """
    if args.value_column is not None:
        trained = None if config is None else value_limits_of(config)
        values, limits = read_values(rows, args.value_column, trained, args.value_limits())
        return ToldLabels(values, value_limits=limits)
    if args.has_captions:
        captions, numbers = read_captions(rows, args)
        return ToldLabels(numbers, captions=captions)
    if not args.class_conditional:
        return ToldLabels()
    column = find_label_column(rows.features, args.label_column)
    labels, num_classes = read_labels(rows, column)
    return ToldLabels(labels, num_classes, names_of_classes(rows.features[column]))


def read_labels(rows, column):
    """All labels as int64, and the number of classes."""
    values = rows.with_format(None).select_columns(column)[:][column]
    bad = next((i for i, value in enumerate(values) if value is None or value < 0), None)
    if bad is not None:
        raise InputError(
            f"label_column={column!r} has the label {values[bad]} in row {bad}; every image needs one from 0 up."
        )
    feature = rows.features[column]
    classes = feature.num_classes if isinstance(feature, datasets.ClassLabel) else max(values) + 1
    if classes > len(values) and not isinstance(feature, datasets.ClassLabel):
        raise InputError(
            f"label_column={column!r} has the label {max(values)}, which would make {classes} classes of "
            f"{len(values)} images: number the classes from 0 up."
        )
    if max(values) >= classes:
        raise InputError(f"label_column={column!r} has the label {max(values)}, but only {classes} classes.")
    return np.asarray(values, dtype=np.int64), classes


def names_of_classes(feature):
    """The names of the classes of a label column, in the order of their labels; None for a column of integers."""
    return feature.names if isinstance(feature, datasets.ClassLabel) else None


def check_value_column(features, column):
    """Raises InputError for a column that is not there or holds no numbers."""
    feature = features.get(column)
    kind = str(getattr(feature, "dtype", ""))
    if isinstance(feature, datasets.ClassLabel) or not kind.startswith(("float", "int", "uint", "decimal")):
        described = ", ".join(f"{name} ({getattr(f, 'dtype', type(f).__name__)})" for name, f in features.items())
        state = "does not exist" if feature is None else "does not hold numbers"
        raise InputError(f"value_column={column!r} {state}. The columns are: {described}.")


def as_numbers(values):
    """Stored numbers as float32, (N,); NaN where one is missing."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64).astype(np.float32)


def are_within(numbers, limits):
    """Which of the numbers, float32, are finite and within limits, (N,)."""
    low, high = np.float32(limits)
    return (low <= numbers) & (numbers <= high)


def read_values(rows, column, trained=None, wanted=None):
    """All numbers of a column as float32, and (least, greatest), or `trained`, that of a network, or `wanted`.

    Raises:
        InputError: for a column of no numbers, numbers that are missing, not finite, or not within those `wanted`, and
            a column of equal ones.
    """
    check_value_column(rows.features, column)
    stored = rows.with_format(None).select_columns(column)[:][column]
    values = as_numbers(stored)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise InputError(
            f"value_column={column!r} has {stored[bad[0]]} in row {bad[0]}: every image needs a finite number."
        )
    least, greatest = float(values.min()), float(values.max())
    if trained is None and wanted is not None:
        if not are_within(values, wanted).all():
            raise InputError(
                f"value_column={column!r} has numbers from {least:g} to {greatest:g}, and value_range says "
                f"{wanted[0]:g} to {wanted[1]:g}: give a range that holds them."
            )
        return values, wanted
    if trained is None and least == greatest:
        raise InputError(f"value_column={column!r} has {least:g} everywhere: there is nothing to learn of it.")
    if trained is not None and not are_within(values, trained).all():
        logger.warning(
            "value_column=%r has numbers from %g to %g, and the network was taught those from %g to %g.",
            *(column, least, greatest, *trained),
        )
    return values, trained or (least, greatest)
