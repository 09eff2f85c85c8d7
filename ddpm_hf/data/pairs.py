"""Pairs of images, of which the second is the condition image of the first: a row of two columns of images.

A stored pair is a tuple of two stored images. It is decoded to one tensor that has the channels of the image and then
those of the condition image, so that both are cropped and mirrored together, and kept as every other image is.
"""

from pathlib import Path

import datasets
import pyarrow.compute as pc

from ddpm_hf.data.image_headers import name_of, open_image
from ddpm_hf.data.stored_rows import find_image_column
from ddpm_hf.errors import InputError

MISSING_TO_NAME = 5


def find_columns(features, args):
    """The column of images and that of their condition images, which is None without `condition_column`."""
    if args.condition_column is None:
        return find_image_column(features, args.image_column), None
    condition = find_image_column(features, args.condition_column, option="condition_column")
    if args.image_column == condition:
        raise InputError(f"image_column and condition_column are both {condition!r}: give two columns of images.")
    others = {name: feature for name, feature in features.items() if name != condition}
    return find_image_column(others, args.image_column), condition


def with_condition_folder(rows, args):
    """The rows with a column of the files of a folder, if `condition_column` is a folder and no column.

    Each image of a folder of files gets the file with the same path and name within the other folder, whatever its
    suffix.

    Raises:
        InputError: for images without such a file, and for data that are no folder of image files.
    """
    folder = args.condition_column
    if folder is None or folder in rows.features or not Path(folder).is_dir():
        return rows
    root, column = Path(args.dataset or ""), find_image_column(rows.features, args.image_column)
    values = rows.cast_column(column, datasets.Image(decode=False))[:][column]
    if args.dataset is None or not root.is_dir() or any(value["bytes"] is not None for value in values):
        raise InputError(
            f"condition_column={folder!r} is a folder, by whose names of files only a folder of image files is "
            "completed: name a column of images instead."
        )
    there = {_name_in(path, folder): str(path) for path in sorted(Path(folder).rglob("*")) if path.is_file()}
    names = [_name_in(value["path"], root) for value in values]
    missing = [name for name in names if name not in there]
    if missing:
        more = f" and {len(missing) - MISSING_TO_NAME} more" if len(missing) > MISSING_TO_NAME else ""
        raise InputError(
            f"{len(missing)} of {len(names)} images have no file of the same name in condition_column={folder!r}: "
            f"{', '.join(missing[:MISSING_TO_NAME])}{more}."
        )
    return rows.add_column(folder, [there[name] for name in names]).cast_column(folder, datasets.Image())


def _name_in(path, folder):
    """The path within a folder, without its suffix."""
    return Path(path).resolve().relative_to(Path(folder).resolve()).with_suffix("").as_posix()


def stored_values(batch, column, condition_column):
    """The stored images of rows, or the stored pairs if there is a condition column."""
    if condition_column is None:
        return batch[column]
    return list(zip(batch[column], batch[condition_column], strict=True))


def check_complete(rows, columns):
    """Raises InputError if a row has no image in one of its columns; the message names the first such rows."""
    for column in columns:
        values = rows.with_format("arrow").select_columns(column)[:][column]
        missing = pc.indices_nonzero(pc.is_null(values)).to_pylist()
        if missing:
            named = ", ".join(map(str, missing[:MISSING_TO_NAME]))
            more = f" and {len(missing) - MISSING_TO_NAME} more" if len(missing) > MISSING_TO_NAME else ""
            raise InputError(
                f"{len(missing)} of {len(rows)} pairs have no image in column {column!r} (rows {named}{more}, "
                "counted from 0): complete them, or remove these rows."
            )


def check_sizes(pairs, columns):
    """Raises InputError for the first stored pair whose images are of two sizes."""
    for pair in pairs:
        try:
            sizes = [open_image(value).size for value in pair]
        except Exception:  # PIL has many kinds; decoding the image reports them
            continue
        if sizes[0] != sizes[1]:
            described = " and ".join(
                f"{width}x{height} in {column!r} ({name_of(value)})"
                for (width, height), column, value in zip(sizes, columns, pair, strict=True)
            )
            raise InputError(
                f"The images of a pair must be of one size, and there are {described}: resize one of them."
            )


def as_stored(rows, columns):
    """The rows with these columns alone, as they are stored: undecoded."""
    rows = rows.select_columns(list(columns))
    for column in columns:
        rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows
