"""Sizes of images as options write them: 32 for squares, 24x40 for height and width."""

import math
import re

from ddpm_hf.errors import InputError, refuse_empty

# The shapes of photographs, height to width, upright and across.
ASPECT_RATIOS = ((1, 1), (5, 4), (4, 5), (4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (9, 16), (2, 1), (1, 2))


def parsed_size(name, value):
    """A size as it is kept: a whole number for squares, "24x40" for other images, None for None.

    Args:
        name (`str`): of the option, for messages.
        value: a whole number, or text.

    Raises:
        InputError: for what is no size.
    """
    if value is None:
        return None
    refuse_empty(name, value)
    found = re.fullmatch(r"([+-]?\d+)(?:x(\d+))?", str(value).strip()) if not isinstance(value, bool) else None
    if found is None:
        raise InputError(
            f"{name}={value!r} must be a whole number, such as 32, or a height and a width, such as 24x40."
        )
    height = int(found[1])
    width = height if found[2] is None else int(found[2])
    if height < 1 or width < 1:
        raise InputError(f"{name}={value} is not allowed: it must be at least 1.")
    return size_of(height, width)


def parsed_sizes(name, value):
    """Several sizes, as "24x40,32,40x24", or one number, as they are kept: text with commas; None for None.

    Raises:
        InputError: for what is no size, for one that is there twice, and for one shape alone.
    """
    if value is None:
        return None
    if "x" in str(value) and "," not in str(value):
        raise InputError(f"{name}={value} is one shape: give several with commas between, or --resolution {value}.")
    sizes = [parsed_size(name, part) for part in str(value).split(",")]
    twice = next((size for size in sizes if sizes.count(size) > 1), None)
    if twice is not None:
        raise InputError(f"{name}={value} has {written_sides(sides_of_size(twice))} twice: name each shape once.")
    return ",".join(map(str, sizes))


def sizes_of(text):
    """The sizes, each as it is kept, of text from `parsed_sizes`."""
    return [int(part) if part.isdecimal() else part for part in text.split(",")]


def shapes_of_side(side, factor):
    """Shapes (height, width) from 2:1 to 1:2, with sides divisible by `factor` and about `side` * `side` pixels."""
    shapes = []
    for height, width in ASPECT_RATIOS:
        exact = side * math.sqrt(height / width), side * math.sqrt(width / height)
        shape = tuple(max(factor, round(length / factor) * factor) for length in exact)
        if shape not in shapes:
            shapes.append(shape)
    return shapes


def size_of(height, width):
    """The size of these sides as it is kept, None for sides that are left open."""
    return height if height == width else f"{height}x{width}"


def sides_of_size(size):
    """(height, width) of a size as it is kept."""
    if isinstance(size, int):
        return size, size
    height, width = size.split("x")
    return int(height), int(width)


def written_sides(sides):
    """The sides (height, width) in words."""
    return "{}x{}".format(*sides)


def config_size(size):
    """A size as it is kept in the form of a network's config: a number, or (height, width)."""
    return size if isinstance(size, int) else sides_of_size(size)
