"""Opens and inspects a data set of images, and checks it before the long work of decoding."""

import logging
import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import datasets
import numpy as np

from ddpm_hf.data.arrays import array_column, is_of_arrays, open_array_file, open_arrays
from ddpm_hf.data.data_source import labels_at
from ddpm_hf.data.decoding import ImageForm, decode_all, decoding_workers
from ddpm_hf.data.fingerprint import fingerprint_of_images
from ddpm_hf.data.image_headers import spread_values, survey
from ddpm_hf.data.images import load_images
from ddpm_hf.data.pairs import (
    as_stored,
    check_complete,
    check_sizes,
    find_columns,
    stored_values,
    with_condition_folder,
)
from ddpm_hf.data.sized_images import SizedImages
from ddpm_hf.data.stored_rows import find_label_column, names_of_classes, open_rows, read_labels
from ddpm_hf.errors import InputError
from ddpm_hf.limits import check_fits_memory
from ddpm_hf.sizes import written_sides

logger = logging.getLogger(__name__)

# Images enlarged by more than this factor are reported.
MUCH_LARGER = 4


@dataclass(frozen=True)
class ImageSource(SizedImages):
    """An opened and inspected data set, and the form of its decoded images.

    `size` and `median_side` are as in `Survey`; `pixels` counts the pixels of all stored images. `condition_column`
    and `condition_channels` are those of the condition images of pairs, else None.
    """

    rows: datasets.Dataset
    column: str
    labels: np.ndarray | None
    num_classes: int | None
    class_names: list[str] | None
    channels: int
    resolution: int | str
    center_crop: bool
    strict: bool
    pixels: float
    size: tuple[int, int] | None
    median_side: int
    condition_column: str | None = None
    condition_channels: int | None = None

    def __len__(self):
        return len(self.rows)

    @property
    def form(self):
        return ImageForm(self.channels, self.resolution, self.center_crop, self.condition_channels)

    def stored(self, rows):
        """The stored images, or pairs, of rows with these numbers."""
        return stored_values(self.rows[rows], self.column, self.condition_column)

    @cached_property
    def fingerprint(self):
        """A fingerprint of the images and their order; it takes as long as the survey."""
        columns = [name for name in (self.column, self.condition_column) if name is not None]
        values = chain.from_iterable(spread_values(self.rows, column) for column in columns)
        return fingerprint_of_images(values, len(self), self.labels)

    @property
    def decoded_bytes(self):
        return len(self) * math.prod(self.form.shape)

    def load(self, *limits):
        """The data set of `load_images`, which explains the limits."""
        return load_images(self, *limits)

    def decode(self, workers=None):
        """All `images`, and `labels` if any, as tensors, decoded by `workers` processes or a suitable number."""
        return decode_all(self, decoding_workers(workers, self.pixels))

    def resized(self, resolution):
        """The same images in another resolution."""
        return replace(self, resolution=resolution)

    def select(self, chosen):
        return replace(self, rows=self.rows.select(chosen), labels=labels_at(self.labels, chosen))


def open_images(args, default_resolution, config=None):
    """Opens images and checks them, before the long work of decoding; arrays as an [`ArraySource`].

    Args:
        args (`DataArguments`): which data.
        default_resolution (`int`, *optional*): the resolution for images of several sizes, if `args` names none.
        config (*optional*): config of a trained network, whose range of values arrays then have.
    """
    if is_of_arrays(args):
        return open_array_file(args, config)
    rows = open_rows(args)
    arrays = array_column(rows.features, args.image_column)
    if arrays is not None:
        return open_arrays(rows, arrays, args, config)
    rows = with_condition_folder(rows, args)
    column, condition_column = find_columns(rows.features, args)
    labels = num_classes = class_names = None
    if args.class_conditional:
        label_column = find_label_column(rows.features, args.label_column)
        labels, num_classes = read_labels(rows, label_column)
        class_names = names_of_classes(rows.features[label_column])
    rows = as_stored(rows, [column] if condition_column is None else [column, condition_column])
    condition_channels = None if condition_column is None else _channels_of_conditions(rows, column, condition_column)
    seen = survey(spread_values(rows, column), column)
    return ImageSource(
        rows=rows,
        column=column,
        labels=labels,
        num_classes=num_classes,
        class_names=class_names,
        channels=seen.channels,
        resolution=resolution_of(args, seen, default_resolution),
        center_crop=args.center_crop,
        strict=args.strict_data,
        pixels=seen.pixels_per_image * len(rows),
        size=seen.size,
        median_side=seen.median_side,
        condition_column=condition_column,
        condition_channels=condition_channels,
    )


def _channels_of_conditions(rows, column, condition_column):
    """The channels of the condition images of pairs, which are known to be complete and of equal sizes."""
    columns = column, condition_column
    check_complete(rows, columns)
    check_sizes(zip(*(spread_values(rows, name) for name in columns), strict=True), columns)
    return survey(spread_values(rows, condition_column), condition_column).channels


def resolution_of(args, seen, default_resolution):
    """The size of the images: the requested one, or the images' own if all are equal squares, or the default.

    Args:
        args (`DataArguments`): options, which may name a resolution.
        seen (`Survey`): the survey of the images.

    Raises:
        InputError: if none of these is known, or if a single image of that size does not fit into memory.
    """
    resolution = args.resolution or seen.side or default_resolution
    if resolution is None:
        raise InputError(
            "The images have several sizes, or are not square, and the network takes any size: choose one with "
            "--resolution."
        )
    form = ImageForm(seen.channels, resolution, args.center_crop)
    check_fits_memory(
        f"resolution={resolution}: an image of {written_sides(form.sides)} takes",
        form.float_bytes,
        f"choose a smaller one (the longest side of the images is {seen.longest_side})",
    )
    if max(form.sides) > MUCH_LARGER * seen.longest_side:
        logger.warning(
            "resolution=%s enlarges the images, whose longest side is %d, more than %d times: each takes %.1f MiB as "
            "floats.",
            *(resolution, seen.longest_side, MUCH_LARGER, form.float_bytes / 2**20),
        )
    return resolution
