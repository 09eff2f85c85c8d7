"""The depth at which images are read: 8 bits, or the 16 bits or floats that they are stored with.

Images of 16 bits and floats become floats in [-1, 1], whose range and levels the network's config says, as for arrays.
"""

import logging
from functools import partial

import numpy as np

from ddpm_hf.data.image_headers import IMAGES_PER_READ, open_image, refused
from ddpm_hf.errors import InputError
from ddpm_hf.image_files import LEAST_HIGHEST_VALUE, check_mode, check_range, deep_values
from ddpm_hf.samples.value_range import SIXTEEN_BITS, Depth, depth_of_network

logger = logging.getLogger(__name__)

# Levels of 8 bits and fewer would be those of images of 8 bits.
LEAST_BITS = 9


def depth_of(seen, column, args, config=None, rows=None):
    """The [`Depth`] of the images of a column, or None if they are read in 8 bits.

    Images are read in 16 bits where all that were looked at have as many. If none uses the upper two bits, their
    levels are those of the bits that they use, as the 4096 of a camera. Floats have the range of all images.

    Args:
        seen ([`Survey`]): of the images.
        args (`DataArguments`): options with `preserve_input_precision`.
        config (*optional*): config of a trained network, whose depth the images have.
        rows (*optional*): all stored images; None for a stream, which is not read twice.

    Raises:
        InputError: for floats among other images, in a stream, or where the precision is not to be kept; for 16 bits
            that use few of their bits and are to be read in 8; and for images of another depth than the network's.
    """
    trained = None if config is None else depth_of_network(config)
    keeps = args.preserve_input_precision and (config is None or trained is not None)
    if seen.depths["float"]:
        own = _depth_of_floats(seen, column, keeps, trained, rows)
    else:
        own = _depth_of_bits(seen, column, keeps)
    if trained is None:
        return own
    if own is None or (own.levels is None) != (trained.levels is None):
        kind = "images of 8 bits" if own is None else "floats" if own.levels is None else "images of 16 bits"
        raise InputError(
            f"Column {column!r} has {kind}, and the network is for values in {trained.value_range}, "
            f"{'floats' if trained.levels is None else f'{trained.levels} levels'}: give images of that depth."
        )
    return trained


def _depth_of_bits(seen, column, keeps):
    count, total = seen.depths[16], seen.depths.total()
    if count == total and keeps:
        if not 0 < seen.highest < LEAST_HIGHEST_VALUE:
            return SIXTEEN_BITS
        levels = 2 ** max(LEAST_BITS, seen.highest.bit_length())
        return Depth((0, levels - 1), levels)
    try:
        check_range(seen.highest)
    except InputError as error:
        raise refused(seen.examples[16], column, error) from error
    if count:
        logger.warning(
            "%d of %d images in column %r have 16 bits a channel, and are read in 8, with their upper bits.",
            *(count, total, column),
        )
    return None


def _depth_of_floats(seen, column, keeps, trained, rows):
    if seen.depths["float"] < seen.depths.total() or not keeps or rows is None:
        try:
            check_mode(open_image(seen.examples["float"]))
        except InputError as error:
            raise refused(seen.examples["float"], column, error) from error
    return trained or Depth(_range_of_floats(rows, column), None)


def _range_of_floats(rows, column):
    """(low, high) of all images of floats; InputError for values that are not finite, and where all are the same."""
    low, high = np.inf, -np.inf
    for first in range(0, len(rows), IMAGES_PER_READ):
        for value in rows[first : first + IMAGES_PER_READ][column]:
            try:
                values = deep_values(partial(open_image, value), 1)
            except Exception:  # PIL has many kinds; decoding the image reports them
                continue
            if not np.isfinite(values).all():
                raise refused(value, column, "it has values that are not finite")
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if not low < high:
        raise InputError(f"All values in column {column!r} are {low:g}: there is nothing to learn.")
    return low, high
