"""Conversion of stored images to 8-bit pixels, for data sets and single pictures alike.

Images of 8 and of 16 bits are read, and transparent pixels are composed on white. Floats, 32-bit integers, and 16-bit
images that use few of their bits are refused; in 8 bits such images would keep only a few levels.
"""

import numpy as np
from PIL import Image, ImageOps

from ddpm_hf.errors import InputError

SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
GREY_MODES = ("1", "L", "LA", *SIXTEEN_BIT_MODES)
READABLE_MODES = (*GREY_MODES, "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
DEEP_MODES = {"F": " of 32-bit floats", "I": " of 32-bit integers"}
# 16-bit images with 14 bits or fewer, as from cameras and scanners, stay below it and would keep 64 levels at most.
LEAST_HIGHEST_VALUE = 2**14


def check_mode(image):
    """Raises InputError for images of an unsupported bit depth; `image` is an opened PIL image."""
    if image.mode not in READABLE_MODES:
        raise InputError(
            f"it has the PIL mode {image.mode!r}{DEEP_MODES.get(image.mode, '')}, and images are read with 8 or 16 "
            "bits a channel: scale its values to 0 .. 255 and save it as an 8-bit PNG"
        )


def is_grey(image):
    """Whether an image has no colours, before its pixels are loaded; PIL opens 16-bit grey with alpha as RGBA."""
    return image.mode in GREY_MODES or _is_stored_as("LA;16", image)


def is_sixteen_bit(image):
    """Whether an image has 16 bits a channel, before its pixels are loaded; PIL opens 16-bit colours as 8-bit ones."""
    return image.mode in SIXTEEN_BIT_MODES or _is_stored_as(";16", image)


def _is_stored_as(mode, image):
    """Whether the raw mode in PIL's loading instructions contains `mode`."""
    return any(mode in str(tile[3]) for tile in image.tile)


def highest_value(image):
    """The highest value of a 16-bit image, from 8 bits where PIL keeps no more."""
    if image.mode in SIXTEEN_BIT_MODES:
        return int(np.asarray(image).max())
    return int(np.asarray(image.convert("RGB")).max()) * 257


def check_range(highest):
    """Raises InputError for 16-bit images whose highest value fits in 14 bits; all-black images pass."""
    if 0 < highest < LEAST_HIGHEST_VALUE:
        raise InputError(
            f"its 16-bit values go up to {highest} of 65535, so that {highest // 256 + 1} of 256 levels would be left "
            f"in 8 bits: multiply the values by {65535 // highest}, or save it as an 8-bit PNG"
        )


def in_eight_bits(image, mode):
    """The image upright, in the PIL mode "L" or "RGB", or in "RGBA", which alone keeps transparency.

    Raises:
        InputError: for an unsupported bit depth.
    """
    check_mode(image)
    image = _in_eight_bit_mode(ImageOps.exif_transpose(image))
    if mode != "RGBA" and image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    # PIL cannot convert LAB to grey directly.
    return (image.convert("RGB") if image.mode == "LAB" else image).convert(mode)


def has_transparent_pixels(image):
    if not image.has_transparency_data:
        return False
    return _in_eight_bit_mode(image).convert("RGBA").getchannel("A").getextrema()[0] < 255


def _in_eight_bit_mode(image):
    """16-bit grey as 8-bit grey (`convert` would clip at 255), with the transparent value as alpha."""
    if image.mode not in SIXTEEN_BIT_MODES:
        return image
    values = np.asarray(image)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey
