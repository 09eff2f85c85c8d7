"""Opens and inspects a data set of images, and checks it before the long work of decoding."""

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import datasets
import numpy as np

from ddpm_hf.data.arrays import array_column, open_array_file, open_arrays
from ddpm_hf.data.data_source import labels_at
from ddpm_hf.data.decoding import ImageForm, decode_all, decoding_workers
from ddpm_hf.data.depth import depth_of
from ddpm_hf.data.file_kinds import is_of_arrays
from ddpm_hf.data.fingerprint import fingerprint_of_captions, fingerprint_of_images
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
from ddpm_hf.data.stored_rows import open_rows
from ddpm_hf.data.told_labels import read_told_labels
from ddpm_hf.errors import InputError
from ddpm_hf.limits import check_fits_memory
from ddpm_hf.samples.value_range import SIXTEEN_BITS
from ddpm_hf.sizes import written_sides

logger = logging.getLogger(__name__)

# Images enlarged by more than this factor are reported.
MUCH_LARGER = 4


@dataclass(frozen=True)
class ImageSource(SizedImages):
    """An opened and inspected data set, and the form of its decoded images.

    `size` and `median_side` are as in `Survey`; `pixels` counts the pixels of all stored images. `condition_column` is
    that of the condition images of pairs, else None. `captions` are all different ones, whose numbers are the labels,
    else None. `numbers` are those of the rows in the data that were opened, None for all of them.
    """

    rows: datasets.Dataset
    column: str
    labels: np.ndarray | None
    num_classes: int | None
    class_names: list[str] | None
    form: ImageForm
    strict: bool
    pixels: float
    size: tuple[int, int] | None
    median_side: int
    condition_column: str | None = None
    value_limits: tuple[float, float] | None = None
    captions: tuple[str, ...] | None = None
    numbers: np.ndarray | None = None

    def __len__(self):
        return len(self.rows)

    def stored(self, rows):
        """The stored images, or pairs, of rows with these numbers."""
        return stored_values(self.rows[rows], self.column, self.condition_column)

    @cached_property
    def fingerprint(self):
        """A fingerprint of the images and their order; it takes as long as the survey."""
        columns = [name for name in (self.column, self.condition_column) if name is not None]
        values = chain.from_iterable(spread_values(self.rows, column) for column in columns)
        of_images = fingerprint_of_images(values, len(self), self.labels)
        return of_images if self.captions is None else fingerprint_of_captions(of_images, self.captions)

    @property
    def decoded_bytes(self):
        return len(self) * self.form.image_bytes

    def load(self, *limits):
        """The data set of `load_images`, which explains the limits."""
        return load_images(self, *limits)

    def decode(self, workers=None):
        """All `images`, and `labels` if any, as tensors, decoded by `workers` processes or a suitable number."""
        return decode_all(self, decoding_workers(workers, self.pixels))

    def number_of(self, row):
        """The number of a row in the data that were opened."""
        return row if self.numbers is None else self.numbers[row]

    def select(self, chosen):
        numbers = self.number_of(np.asarray(chosen))
        return replace(self, rows=self.rows.select(chosen), labels=labels_at(self.labels, chosen), numbers=numbers)


def open_images(args, default_resolution, config=None):
    """Opens images and checks them, before the long work of decoding; arrays as an [`ArraySource`].

    Args:
        args (`DataArguments`): which data.
        default_resolution (`int`, *optional*): the resolution for images of several sizes, if `args` names none.
        config (*optional*): config of a trained network, whose depth the images then have.
    """
    if is_of_arrays(args.dataset):
        return open_array_file(args, config)
    rows = open_rows(args)
    arrays = array_column(rows.features, args.image_column)
    if arrays is not None:
        return open_arrays(rows, arrays, args, config)
    rows = with_condition_folder(rows, args)
    column, condition_column = find_columns(rows.features, args)
    told_labels = read_told_labels(rows, args, config)
    rows = as_stored(rows, [column] if condition_column is None else [column, condition_column])
    told = {}
    if condition_column is not None:
        check_complete(rows, (column, condition_column))
        told = form_of_conditions(lambda name: spread_values(rows, name), column, condition_column, args)
    seen = survey(spread_values(rows, column), column)
    resolution, depth = resolution_of(args, seen, default_resolution), depth_of(seen, column, args, config, rows)
    return ImageSource(
        rows=rows,
        column=column,
        **told_labels._asdict(),
        form=ImageForm(seen.channels, resolution, args.center_crop, depth=depth, **told),
        strict=args.strict_data,
        pixels=seen.pixels_per_image * len(rows),
        size=seen.size,
        median_side=seen.median_side,
        condition_column=condition_column,
    )


def form_of_conditions(read, column, condition_column, args):
    """The channels and the depth of the condition images of pairs, which are of equal sizes.

    The depth is None, or that of 16 bits, in whose whole range such images are told.

    Args:
        read: gives the stored images of a column.
    """
    columns = column, condition_column
    check_sizes(zip(*map(read, columns), strict=True), columns)
    seen = survey(read(condition_column), condition_column)
    depth = depth_of(seen, condition_column, args)
    return {"condition_channels": seen.channels, "condition_depth": None if depth is None else SIXTEEN_BITS}


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
