"""Images of any depth and number of channels, from arrays: a file of arrays, or a column of arrays of a data set.

They are kept in memory as floats in [-1, 1]. Whole numbers of 8 and 16 bits lie there on the grid of their levels, so
that nothing is lost; the config of the network says the range and the levels, by which its samples come back as they
were.
"""

import logging
from dataclasses import dataclass, replace
from functools import cached_property

import datasets
import numpy as np
import torch

from ddpm_hf.data.array_files import read_array_file
from ddpm_hf.data.data_source import labels_at
from ddpm_hf.data.decoding import ImageForm
from ddpm_hf.data.fingerprint import fingerprint_of_points
from ddpm_hf.data.images import ImagesInMemory
from ddpm_hf.data.sized_images import SizedImages
from ddpm_hf.data.told_labels import read_told_labels
from ddpm_hf.errors import InputError
from ddpm_hf.samples.value_range import EIGHT_BIT_RANGE, Depth, levels_of, to_unit_range, value_range_of
from ddpm_hf.sizes import size_of, written_sides

logger = logging.getLogger(__name__)

ARRAYS = (datasets.Array2D, datasets.Array3D)
# Grey, colours, and colours with transparency, which come last in the arrays of pictures.
CHANNELS_OF_PICTURES = (1, 3, 4)


@dataclass(frozen=True)
class ArraySource(SizedImages):
    """Arrays (N, C, H, W), looked at completely. `value_range` becomes [-1, 1]; `levels` is None for floats."""

    values: np.ndarray
    value_range: tuple[float, float]
    levels: int | None
    labels: np.ndarray | None = None
    num_classes: int | None = None
    class_names: list[str] | None = None
    value_limits: tuple[float, float] | None = None

    def __len__(self):
        return len(self.values)

    @property
    def size(self):
        """(width, height)."""
        return self.values.shape[3], self.values.shape[2]

    @property
    def median_side(self):
        return min(self.size)

    @property
    def form(self):
        depth = None if self.value_range == EIGHT_BIT_RANGE else Depth(self.value_range, self.levels)
        return ImageForm(self.values.shape[1], size_of(*self.values.shape[2:]), depth=depth)

    @cached_property
    def fingerprint(self):
        return fingerprint_of_points(self.values, self.labels)

    def load(self, *limits):
        """The images, in memory."""
        return ImagesInMemory(self.decode())

    def decode(self, workers=None):
        """All `images` as float32 in [-1, 1], and `labels` if there are some."""
        labels = {} if self.labels is None else {"labels": torch.from_numpy(self.labels)}
        return {"images": torch.from_numpy(to_unit_range(self.values, self.value_range))} | labels

    def resized(self, resolution):
        """The same images; InputError for another resolution."""
        if resolution != self.resolution:
            raise InputError(
                f"The arrays are of {written_sides(self.form.sides)} (height x width), and arrays are not resized, as "
                f"resolution={resolution} would need: resize them, or give a network for that size with --unet."
            )
        return self

    def select(self, chosen):
        return replace(self, values=self.values[chosen], labels=labels_at(self.labels, chosen))


def array_column(features, wanted):
    """The column of arrays of a data set without a column of images, or the one that is named; None without one."""
    found = [name for name, feature in features.items() if isinstance(feature, ARRAYS)]
    if wanted is not None:
        return wanted if wanted in found else None
    has_images = any(isinstance(feature, datasets.Image) for feature in features.values())
    return found[0] if len(found) == 1 and not has_images else None


def open_array_file(args, config=None):
    """The [`ArraySource`] of a `.npy` or `.npz` file; images are as for `channels_first`.

    Args:
        args (`DataArguments`): which data; a split is a part of the whole, which is called train.
        config (*optional*): config of a trained network, whose range of values the images then have.
    """
    values, told = read_array_file(args, config)
    return _source(values, args, config, told)


def open_arrays(rows, column, args, config=None):
    """The [`ArraySource`] of a column of arrays (H, W), (C, H, W) or (H, W, C); as `open_array_file`."""
    if args.has_captions:
        raise InputError(f"dataset={args.dataset!r} has arrays in column {column!r}, and captions are of images.")
    values = np.asarray(rows.with_format("numpy")[:][column]).astype(rows.features[column].dtype)
    return _source(values, args, config, read_told_labels(rows, args, config))


def _source(values, args, config, told):
    values = channels_first(values, args.dataset)
    trained = None if config is None else value_range_of(config) or EIGHT_BIT_RANGE
    value_range, levels = _range_and_levels(values, args, trained)
    source = ArraySource(
        values, value_range, levels, told.labels, told.num_classes, told.class_names, told.value_limits
    )
    return source if args.resolution is None else source.resized(args.resolution)


def channels_first(values, name):
    """(N, C, H, W) of an array (N, H, W), (N, C, H, W) or, with 1, 3 or 4 channels, (N, H, W, C).

    Raises:
        InputError: with the `name` of the data, for an array of another shape, and one of no images.
    """
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4 or len(values) == 0:
        raise InputError(
            f"dataset={name!r} has the shape {values.shape}: arrays are (number, height, width), (number, channels, "
            "height, width) or (number, height, width, channels), and at least one."
        )
    if values.shape[3] in CHANNELS_OF_PICTURES and values.shape[1] > max(CHANNELS_OF_PICTURES):
        logger.warning("dataset=%r of the shape %s has its channels last, as pictures have.", name, values.shape)
        return values.transpose(0, 3, 1, 2)
    return values


def _range_and_levels(values, args, trained):
    """The range of the values, (low, high), and the number of levels, which is None for floats."""
    levels = levels_of(values.dtype)
    if levels is not None:
        info = np.iinfo(values.dtype)
        value_range = (info.min, info.max)
    elif values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise InputError(f"dataset={args.dataset!r} has values that are not finite: remove them.")
        value_range = trained or (float(values.min()), float(values.max()))
    else:
        raise InputError(
            f"dataset={args.dataset!r} has values of the type {values.dtype}: arrays are of whole numbers of 8 or 16 "
            "bits, or floats; convert them."
        )
    low, high = value_range
    found = f"dataset={args.dataset!r} has values of {values.dtype} from {values.min():g} to {values.max():g}"
    if low >= high:
        raise InputError(f"{found}: there is nothing to learn where all are the same.")
    if trained not in (None, value_range) or values.min() < low or values.max() > high:
        raise InputError(f"{found}, and the network is for the range {trained}: give other data.")
    return value_range, levels
