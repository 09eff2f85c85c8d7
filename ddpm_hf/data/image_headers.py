"""A survey of image headers, before any image is decoded."""

import logging
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from statistics import median_low

import datasets
import numpy as np
from PIL import ExifTags, Image

from ddpm_hf.errors import InputError
from ddpm_hf.image_files import (
    LEAST_HIGHEST_VALUE,
    check_mode,
    highest_value,
    is_float,
    is_grey,
    is_sixteen_bit,
)

logger = logging.getLogger(__name__)

# Sizes and colours are read from the headers of at most this many images, evenly spread.
SURVEYED_IMAGES = 10_000
IMAGES_PER_READ = 256


@dataclass(frozen=True)
class Survey:
    """Properties of images from their headers.

    Args:
        channels (`int`): the least number of channels that keeps all colours.
        size (`tuple[int, int]`, *optional*): width and height; None if sizes differ.
        longest_side (`int`): longest side of all images.
        median_side (`int`): median of the shorter sides.
        pixels_per_image (`float`): mean number of pixels.
        depths (`Counter`): how many have 8 bits, 16 bits and floats, by the names 8, 16 and "float".
        examples (`dict`): a stored image of each depth; of 16 bits the one with the `highest` value.
        highest (`int`): the highest value of images of 16 bits, or one that uses their range.
    """

    channels: int
    size: tuple[int, int] | None
    longest_side: int
    median_side: int
    pixels_per_image: float
    depths: Counter
    examples: dict
    highest: int

    @property
    def side(self):
        """The side of the images if all are squares of one size, else None."""
        return self.size[0] if self.size and self.size[0] == self.size[1] else None


def survey(values, column):
    """Reads the headers of stored images, and reports images that may be transparent.

    16-bit images are decoded until one is found that uses the range.

    Raises:
        InputError: if no image can be read, and for an unsupported bit depth.
    """
    sizes, depths, problems, examples, highest = Counter(), Counter(), [], {}, 0
    are_grey, num_with_alpha = True, 0
    for value in values:
        try:
            image = open_image(value)
            grey, depth = is_grey(image), _depth(image)
            if depth == 16 and highest < LEAST_HIGHEST_VALUE and (brightest := highest_value(image)) > highest:
                highest, examples[16] = brightest, value
        except InputError as error:
            raise refused(value, column, error) from error
        except Exception as error:  # PIL has many kinds; decoding the image reports them
            problems.append(f"({name_of(value)}): {str(error).rstrip('.')}")
            continue
        are_grey &= grey
        sizes[image.size] += 1
        depths[depth] += 1
        examples.setdefault(depth, value)
        num_with_alpha += image.has_transparency_data
    if not sizes:
        raise InputError(
            f"None of the images in column {column!r} can be read: {len(problems)} were tried, the first "
            f"{problems[0]}."
        )
    if num_with_alpha:
        logger.warning(
            "%d of %d images in column %r have an alpha channel or a transparent colour: where they are transparent, "
            "they are composed on white.",
            *(num_with_alpha, sizes.total(), column),
        )
    return Survey(
        channels=1 if are_grey else 3,
        size=next(iter(sizes)) if len(sizes) == 1 else None,
        longest_side=max(max(size) for size in sizes),
        median_side=median_low(min(size) for size in sizes.elements()),
        pixels_per_image=sum(w * h * n for (w, h), n in sizes.items()) / sizes.total(),
        depths=depths,
        examples=examples,
        highest=highest,
    )


def _depth(image):
    """16, "float" or 8; InputError for an image of another depth."""
    if is_float(image):
        return "float"
    check_mode(image)
    return 16 if is_sixteen_bit(image) else 8


def refused(value, column, error):
    return InputError(f"An image in column {column!r} cannot be used ({name_of(value)}): {error}.")


def spread_values(rows, column):
    """At most `SURVEYED_IMAGES` stored images, evenly spread over all rows."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SURVEYED_IMAGES)).astype(int))
    for start in range(0, len(chosen), IMAGES_PER_READ):
        yield from rows[chosen[start : start + IMAGES_PER_READ]][column]


def open_image(value):
    """Opens an image and reads its header only; `value` is an image as stored by `datasets`."""
    if value["bytes"] is not None:
        return Image.open(BytesIO(value["bytes"]))
    if "://" in value["path"]:  # of a remote stream
        return datasets.Image().decode_example(value)
    return Image.open(value["path"])


def displayed_size(image):
    """(width, height) of an opened image as it is shown, after the rotation of its camera's note (EXIF)."""
    # Pillow would decode a PNG file to the end to look for such a note behind the pixels.
    has_note = image.format != "PNG" or "exif" in image.info
    is_turned = has_note and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return image.size[::-1] if is_turned else image.size


def name_of(value):
    """The path of a stored image, if it has one."""
    return (value or {}).get("path") or "no name"
