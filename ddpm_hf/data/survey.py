"""What the headers of images say, before any of them is decoded."""

from collections import Counter
from dataclasses import dataclass
from io import BytesIO

import datasets
import numpy as np
from PIL import Image

from ddpm_hf.errors import InputError

# Sizes and colours are read from the headers of at most this many images, evenly spread.
SURVEYED_IMAGES = 10_000
IMAGES_PER_READ = 256
GREY_MODES = ("1", "L", "LA", "I;16", "I;16B")


@dataclass(frozen=True)
class Survey:
    """What headers say.

    Args:
        channels (`int`): as many as keep all colours.
        size (`tuple[int, int]`, *optional*): width and height; None where sizes differ.
        pixels_per_image (`float`): the mean.
    """

    channels: int
    size: tuple[int, int] | None
    pixels_per_image: float

    @property
    def side(self):
        """That of images which all are squares of one size, else None."""
        return self.size[0] if self.size and self.size[0] == self.size[1] else None


def survey(values, column):
    """Reads the headers of stored images.

    Raises:
        InputError: if none of them can be read.
    """
    modes, sizes, damaged = set(), Counter(), 0
    for value in values:
        try:
            image = open_image(value)
        except Exception:  # PIL has many; what they are is reported where the image is decoded
            damaged += 1
            continue
        modes.add(image.mode)
        sizes[image.size] += 1
    if not sizes:
        raise InputError(f"None of the images in column {column!r} can be read: {damaged} were tried.")
    return Survey(
        channels=1 if modes <= set(GREY_MODES) else 3,
        size=next(iter(sizes)) if len(sizes) == 1 else None,
        pixels_per_image=sum(w * h * n for (w, h), n in sizes.items()) / sizes.total(),
    )


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
