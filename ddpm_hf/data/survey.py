"""What the headers of images say, before any of them is decoded."""

import logging
from collections import Counter
from dataclasses import dataclass
from io import BytesIO

import datasets
import numpy as np
from PIL import Image

from ddpm_hf.errors import InputError
from ddpm_hf.image_files import (
    LEAST_HIGHEST_VALUE,
    check_mode,
    check_range,
    highest_value,
    is_grey,
    is_sixteen_bit,
)

logger = logging.getLogger(__name__)

# Sizes and colours are read from the headers of at most this many images, evenly spread.
SURVEYED_IMAGES = 10_000
IMAGES_PER_READ = 256


@dataclass(frozen=True)
class Survey:
    """What headers say.

    Args:
        channels (`int`): as many as keep all colours.
        size (`tuple[int, int]`, *optional*): width and height; None where sizes differ.
        longest_side (`int`): of all images.
        pixels_per_image (`float`): the mean.
    """

    channels: int
    size: tuple[int, int] | None
    longest_side: int
    pixels_per_image: float

    @property
    def side(self):
        """That of images which all are squares of one size, else None."""
        return self.size[0] if self.size and self.size[0] == self.size[1] else None


def survey(values, column):
    """Reads the headers of stored images, and says so where images may be transparent.

    16-bit images are decoded until one of them is seen to use its range.

    Raises:
        InputError: if none of them can be read, or for depths that are not read.
    """
    sizes, problems, highest = Counter(), [], {}
    are_grey, num_with_alpha = True, 0
    for value in values:
        try:
            image = open_image(value)
            check_mode(image)
            grey = is_grey(image)
            if is_sixteen_bit(image) and max(highest, default=0) < LEAST_HIGHEST_VALUE:
                highest[highest_value(image)] = value
        except InputError as error:
            raise _refused(value, column, error) from error
        except Exception as error:  # PIL has many; what they are is reported where the image is decoded
            problems.append(f"({name_of(value)}): {str(error).rstrip('.')}")
            continue
        are_grey &= grey
        sizes[image.size] += 1
        num_with_alpha += image.has_transparency_data
    if not sizes:
        raise InputError(
            f"None of the images in column {column!r} can be read: {len(problems)} were tried, the first {problems[0]}."
        )
    try:
        check_range(max(highest, default=0))
    except InputError as error:
        raise _refused(highest[max(highest)], column, error) from error
    if num_with_alpha:
        logger.warning(
            "%d of %d images in column %r have an alpha channel or a transparent colour: where they are transparent, they are "
            "composed on white.",
            *(num_with_alpha, sizes.total(), column),
        )
    return Survey(
        channels=1 if are_grey else 3,
        size=next(iter(sizes)) if len(sizes) == 1 else None,
        longest_side=max(max(size) for size in sizes),
        pixels_per_image=sum(w * h * n for (w, h), n in sizes.items()) / sizes.total(),
    )


def _refused(value, column, error):
    return InputError(f"An image in column {column!r} cannot be used ({name_of(value)}): {error}.")


def spread_values(rows, column):
    """Stored images, at most `SURVEYED_IMAGES`, evenly spread over all rows."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SURVEYED_IMAGES)).astype(int))
    for start in range(0, len(chosen), IMAGES_PER_READ):
        yield from rows[chosen[start : start + IMAGES_PER_READ]][column]


def open_image(value):
    """The image with its header read and its pixels not; `value` is what `datasets` stores for an image."""
    if value["bytes"] is not None:
        return Image.open(BytesIO(value["bytes"]))
    if "://" in value["path"]:  # of a stream from afar
        return datasets.Image().decode_example(value)
    return Image.open(value["path"])


def name_of(value):
    """The path of a stored image, as far as it has one."""
    return (value or {}).get("path") or "no name"
