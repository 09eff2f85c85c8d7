"""Opens any `datasets` data set without decoding, and finds its columns by their types."""

import logging
import os
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np

from ddpm_hf.data.embedded import FASHION_MNIST
from ddpm_hf.data.folder_listing import listing_folders_once
from ddpm_hf.data.reading_problems import cache_error, cannot_use_cache, first_unreadable, root_cause
from ddpm_hf.data.unused_files import files_with_accidental_words, report_unused_files, splits_named
from ddpm_hf.errors import InputError
from ddpm_hf.samples.condition_values import value_limits_of


def open_rows(args, streaming=False, **options):
    """The rows of `args.dataset`, whatever its kind, without decoding.

    For a local folder, a warning names the data files that are not used.

    Args:
        streaming (`bool`): return an `IterableDataset`, which is read when rows are requested.
        options: options for the reader of `datasets` for a single file.

    Raises:
        InputError: for data that cannot be read; the message names the file at fault, if there is one.
    """
    source = args.dataset or str(FASHION_MNIST)
    path = Path(source)
    is_saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
    if is_saved and streaming:
        raise InputError(
            f"dataset={source!r} was written by `save_to_disk`, which is read by memory map: leave out --streaming."
        )
    files = []
    try:
        if is_saved:
            files = sorted(path.rglob("*.*"))
            rows = datasets.load_from_disk(source)
            return rows[args.split] if isinstance(rows, datasets.DatasetDict) else rows
        builder = _builder(source, args, options)
        if path.exists():
            splits_named(args.split, builder.config.data_files)
            files = [file for found in builder.config.data_files.values() for file in found]
        if streaming:
            rows = builder.as_streaming_dataset(split=args.split)
        else:
            builder.download_and_prepare()
            rows = builder.as_dataset(split=args.split)
    # Each builder of `datasets` has its own errors for unreadable data; users see one kind.
    except Exception as error:
        if cannot_use_cache(error):
            raise cache_error(error) from error
        reason = first_unreadable(files) or f"{type(root_cause(error)).__name__}: {root_cause(error)}"
        raise InputError(
            f"Cannot read split {args.split!r} of dataset={source!r} ({reason}). Give a name on the "
            "Hub, a folder of images, a parquet file or folder, or a folder written by `save_to_disk`, and a --split "
            "that it has and that is not empty."
        ) from error
    if args.dataset is not None and path.is_dir():
        splits = builder.info.splits
        num_rows = None if streaming else sum(splits[name].num_examples for name in splits_named(args.split, splits))
        report_unused_files(path, builder, args.split, num_rows)
    return rows


def _builder(source, args, options):
    path = Path(source)
    if path.is_file():
        kind = {".jsonl": "json", ".tar": "webdataset"}.get(path.suffix, path.suffix.lstrip("."))
        name = args.split.split("[")[0]  # a slice of the single split of a file
        return datasets.load_dataset_builder(kind, data_files={name: source}, **options)
    if not path.is_dir():
        return datasets.load_dataset_builder(source, args.dataset_config)
    with listing_folders_once(path):
        builder = datasets.load_dataset_builder(source, args.dataset_config)
        accidental = files_with_accidental_words(path, builder)
        if not accidental:
            return builder
        logger.warning(
            "Words such as train, test or val in names of images of dataset=%r (%d, the first is %s) are not taken for "
            "splits, for most images have none: all are of split 'train'. Folders of such names make splits.",
            *(source, len(accidental), os.path.basename(min(accidental))),
        )
        return datasets.load_dataset_builder(source, args.dataset_config, data_files={"train": "**"})


def find_image_column(features, wanted=None, option="image_column"):
    """The image column: the only one of type `datasets.Image`, or of several the one that `option` names."""
    found = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    return _choose_column(option, wanted, found, features, "images")


def find_label_column(features, wanted=None):
    """The label column: the only one of type `datasets.ClassLabel`, or the `wanted` one, which may hold integers."""
    found = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if wanted in features and "int" in str(getattr(features[wanted], "dtype", "")):
        return wanted
    return _choose_column("label_column", wanted, found, features, "class labels")


def _choose_column(option, wanted, found, features, kind):
    described = ", ".join(f"{name} ({getattr(f, 'dtype', type(f).__name__)})" for name, f in features.items())
    if wanted is not None:
        if wanted in found:
            return wanted
        state = f"does not hold {kind}" if wanted in features else "does not exist"
        hint = f"choose {' or '.join(found)}" if found else f"none of the columns holds {kind}"
        raise InputError(f"{option}={wanted!r} {state}: {hint}. The columns are: {described}.")
    if not found:
        raise InputError(f"The data set has no column of {kind}. The columns are: {described}.")
    if len(found) > 1:
        raise InputError(f"The data set has several columns of {kind}: choose with --{option} {' or '.join(found)}.")
    return found[0]


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


def names_of_classes(feature):
    """The names of the classes of a label column, in the order of their labels; None for a column of integers."""
    return feature.names if isinstance(feature, datasets.ClassLabel) else None


logger = logging.getLogger(__name__)


class ToldLabels(NamedTuple):
    """What a model is told of the images of a data set, each None where it is told nothing.

    labels: classes, int64, or numbers, float32, (N,). num_classes, class_names: of classes. value_limits: of numbers.
    """

    labels: np.ndarray | None = None
    num_classes: int | None = None
    class_names: list[str] | None = None
    value_limits: tuple[float, float] | None = None


def read_told_labels(rows, args, config=None):
    """The [`ToldLabels`] of rows by the options of the data.

    Args:
        config (*optional*): config of a trained network, whose limits numbers then have.
    """
    if args.value_column is not None:
        trained = None if config is None else value_limits_of(config)
        values, limits = read_values(rows, args.value_column, trained, args.value_limits())
        return ToldLabels(values, value_limits=limits)
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
