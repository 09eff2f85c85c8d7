"""Opens any `datasets` data set without decoding, and finds its columns by their types."""

import logging
import os
from pathlib import Path

import datasets

from ddpm_hf.data.embedded import FASHION_MNIST
from ddpm_hf.data.file_kinds import builder_of
from ddpm_hf.data.folder_listing import listing_folders_once
from ddpm_hf.data.reading_problems import cache_error, cannot_use_cache, first_unreadable, root_cause
from ddpm_hf.data.unused_files import files_with_accidental_words, report_unused_files, splits_named, told_of_links
from ddpm_hf.errors import InputError

logger = logging.getLogger(__name__)


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
    except InputError:
        raise
    # Each builder of `datasets` has its own errors for unreadable data; users see one kind.
    except Exception as error:
        raise _cannot_read(error, source, args.split, files) from error
    if args.dataset is not None and path.is_dir():
        splits = builder.info.splits
        num_rows = None if streaming else sum(splits[name].num_examples for name in splits_named(args.split, splits))
        report_unused_files(path, builder, args.split, num_rows)
    return rows


def _cannot_read(error, source, split, files):
    """The InputError for an error of `datasets`, which names the file at fault, if there is one."""
    if cannot_use_cache(error):
        return cache_error(error)
    reason = first_unreadable(files) or f"{type(root_cause(error)).__name__}: {root_cause(error)}"
    return InputError(
        f"Cannot read split {split!r} of dataset={source!r} ({reason}). {told_of_links(source)}"
        "Give a name on the Hub, a folder of images, a parquet file or folder, or a folder written by "
        "`save_to_disk`, and a --split that it has and that is not empty."
    )


def _builder(source, args, options):
    path = Path(source)
    if path.is_file():
        name = args.split.split("[")[0]  # a slice of the single split of a file
        return datasets.load_dataset_builder(builder_of(path), data_files={name: source}, **options)
    if not path.is_dir():
        return datasets.load_dataset_builder(source, args.dataset_config)
    with listing_folders_once(path):
        builder = datasets.load_dataset_builder(source, args.dataset_config)
        accidental = files_with_accidental_words(path, builder)
        if not accidental:
            return builder
        logger.warning(
            "Words such as train, test or val in names of images of dataset=%r (%d, the first is %s) are not taken "
            "for splits, for most images have none: all are of split 'train'. Folders of such names make splits.",
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
