"""Files of arrays: the images of a `.npy` or `.npz` file, and what an `.npz` file has beside them."""

import zipfile
import zlib
from dataclasses import replace

import datasets
import numpy as np

from ddpm_hf.data.told_labels import ToldLabels, read_told_labels
from ddpm_hf.errors import InputError

# Arrays with fewer dimensions hold numbers about the images.
LEAST_DIMENSIONS = 3


def read_array_file(args, config=None):
    """The images of a file, with any number of dimensions, and their [`ToldLabels`].

    An `.npz` file has the images in its only array of three dimensions or more, or in `image_column`; its arrays of
    one number for each image are columns, such as a `label_column` or `value_column`.

    Args:
        args (`DataArguments`): which data; a split is a part of the whole, which is called train.
        config (*optional*): config of a trained network, as for `read_told_labels`.
    """
    if args.has_captions:
        raise InputError(f"dataset={args.dataset!r} has arrays, and captions are of images in a folder or a data set.")
    try:
        arrays = _arrays_in(args.dataset)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"Cannot read dataset={args.dataset!r} as an array: {error}.") from error
    if isinstance(arrays, np.ndarray):
        _refuse_labels(args)
        return _part(arrays, args.split), ToldLabels()
    images = arrays[_images_among(arrays, args)]
    columns = {name: _one_number_each(values, len(images)) for name, values in arrays.items()}
    columns = {name: values for name, values in columns.items() if values is not None}
    rows = datasets.Dataset.from_dict({name: _part(values, args.split) for name, values in columns.items()})
    return _part(images, args.split), read_told_labels(rows, _with_only_label_column(args, rows), config)


def _arrays_in(file):
    """The array of a `.npy` file, or {name: array} of an `.npz` file."""
    found = np.load(file, mmap_mode="r", allow_pickle=False)
    if isinstance(found, np.ndarray):
        return found
    with found:
        return dict(found)


def _refuse_labels(args):
    for name in ("class_conditional", "value_column"):
        if getattr(args, name):
            raise InputError(
                f"dataset={args.dataset!r} has no labels: leave out --{name}, or give an .npz file that has them, too."
            )


def _images_among(arrays, args):
    """The name of the array of images of an `.npz` file."""
    found = [name for name, values in arrays.items() if values.ndim >= LEAST_DIMENSIONS]
    described = ", ".join(f"{name} {values.shape}" for name, values in arrays.items())
    if args.image_column is None and len(found) == 1:
        return found[0]
    if args.image_column in found:
        return args.image_column
    given = "" if args.image_column is None else f"image_column={args.image_column!r} holds no images: "
    what = f"choose {' or '.join(found)} with --image_column" if found else "images need three dimensions or more"
    raise InputError(f"{given}dataset={args.dataset!r} has the arrays {described}: {what}.")


def _one_number_each(values, count):
    """(N,) of an array of one number for each of N images, None for another one."""
    is_column = values.shape in ((count,), (count, 1)) and values.dtype.kind in "iuf"
    return values.reshape(-1) if is_column else None


def _with_only_label_column(args, rows):
    """The options with the label column, if the file has one column of whole numbers."""
    whole = [name for name, feature in rows.features.items() if "int" in feature.dtype]
    return replace(args, label_column=whole[0]) if args.label_column is None and len(whole) == 1 else args


def _part(values, split):
    try:
        parts = datasets.ReadInstruction.from_spec(split).to_absolute({"train": len(values)})
    except (ValueError, AssertionError) as error:
        raise InputError(f"split={split!r} is no part of an array, whose whole is train: {error}.") from error
    return np.concatenate([values[part.from_ : part.to] for part in parts])
