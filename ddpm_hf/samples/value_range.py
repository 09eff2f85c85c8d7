"""The range and the levels of the values of images that are not of 8 bits, and their way to [-1, 1] and back."""

from typing import NamedTuple

import numpy as np

from ddpm_hf.portable.config import own_value

EIGHT_BIT_RANGE = (0, 255)


class Depth(NamedTuple):
    """The values of images that are not of 8 bits: their range (low, high) and number of levels, None for floats."""

    value_range: tuple[float, float]
    levels: int | None


SIXTEEN_BITS = Depth((0, 65535), 65536)


def levels_of(dtype):
    """The number of values of a type of whole numbers of 8 or 16 bits; None for other types."""
    dtype = np.dtype(dtype)
    return 2 ** (8 * dtype.itemsize) if dtype.kind in "iu" and dtype.itemsize <= 2 else None


def value_range_of(config):
    """(low, high) of the data of a network that are not images of 8 bits from 0 to 255; None for these."""
    value_range = own_value(config, "value_range")
    return None if value_range is None else tuple(value_range)


def depth_of_network(config):
    """The [`Depth`] of the data of a network, or None for images of 8 bits from 0 to 255."""
    value_range = value_range_of(config)
    return None if value_range is None else Depth(value_range, own_value(config, "levels"))


def to_unit_range(values, value_range):
    """Values of data as float32 in [-1, 1]."""
    low, high = value_range
    return (2 * (values.astype(np.float64) - low) / (high - low) - 1).astype(np.float32)


def from_unit_range(x_0, value_range, levels):
    """Samples in [-1, 1] as data: whole numbers of their type if there are levels, else float32.

    Args:
        x_0 (`np.ndarray`): floats.
        value_range: (low, high) of the data.
        levels (`int`, *optional*): number of values of the data.
    """
    low, high = value_range
    values = (x_0.astype(np.float64) + 1) / 2 * (high - low) + low
    if levels is None:
        return values.astype(np.float32)
    kind = ("i" if low < 0 else "u") + str(1 if levels == 256 else 2)
    return values.round().clip(low, high).astype(kind)
