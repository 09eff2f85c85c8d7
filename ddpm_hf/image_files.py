"""Conversion of stored images to 8-bit pixels, or to arrays of their full depth, for data sets and single pictures.

Transparent pixels are composed on white. In 8 bits, floats, 32-bit integers, and 16-bit images that use few of their
bits are refused, because they would keep only a few levels.
"""

import sys

import numpy as np
from PIL import Image, ImageOps

from ddpm_hf.errors import InputError

SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
GREY_MODES = ("1", "L", "LA", *SIXTEEN_BIT_MODES)
READABLE_MODES = (*GREY_MODES, "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
DEEP_MODES = {"F": " of 32-bit floats", "I": " of 32-bit integers"}
# 16-bit images with 14 bits or fewer, as from cameras and scanners, stay below it and would keep 64 levels at most.
LEAST_HIGHEST_VALUE = 2**14
HIGHEST_OF_SIXTEEN_BITS = 65535
FLOAT_MODE = "F"
# The raw modes of 16-bit colours, of which PIL gives either byte alone, as it is stored.
TWO_BYTE_LAYOUTS = ("LA;16", "RGB;16", "RGBA;16", "RGBX;16")
# The weights of red, green and blue in grey, as in PIL.
GREY_WEIGHTS = (0.299, 0.587, 0.114)


def check_mode(image):
    """Raises InputError for images of an unsupported bit depth; `image` is an opened PIL image."""
    if image.mode not in READABLE_MODES:
        raise InputError(
            f"it has the PIL mode {image.mode!r}{DEEP_MODES.get(image.mode, '')}, and images are read with 8 or 16 "
            "bits a channel: scale its values to 0 .. 255 and save it as an 8-bit PNG"
        )


def is_grey(image):
    """Whether an image has no colours, before its pixels are loaded; PIL opens 16-bit grey with alpha as RGBA."""
    return image.mode in (*GREY_MODES, FLOAT_MODE) or _is_stored_as("LA;16", image)


def is_sixteen_bit(image):
    """Whether an image has 16 bits a channel, before its pixels are loaded; PIL opens 16-bit colours as 8-bit ones."""
    return image.mode in SIXTEEN_BIT_MODES or _is_stored_as(";16", image)


def _is_stored_as(mode, image):
    """Whether the raw mode in PIL's loading instructions contains `mode`."""
    return any(mode in str(tile[3]) for tile in image.tile)


def is_float(image):
    """Whether an image is of 32-bit floats, as TIFF files may be."""
    return image.mode == FLOAT_MODE


def highest_value(image):
    """The highest value of a 16-bit image, from 8 bits where PIL keeps no more."""
    if image.mode in SIXTEEN_BIT_MODES:
        return int(np.asarray(image).max())
    return int(np.asarray(image.convert("RGB")).max()) * 257


def deep_values(open_again, channels):
    """The values of an image of 16 bits or of floats, upright, as float32 (H, W, `channels`), of 1 or 3 channels.

    Transparent pixels are composed on white, and whole numbers stay whole.

    Args:
        open_again (`Callable`): opens the image anew at each call: PIL gives 16-bit colours in two readings.

    Raises:
        InputError: for an image of another depth.
    """
    image = open_again()
    if is_float(image):
        values = np.asarray(ImageOps.exif_transpose(image))[..., None]
    elif image.mode in SIXTEEN_BIT_MODES:
        values = _on_white(np.asarray(ImageOps.exif_transpose(image))[..., None], image.info.get("transparency"))
    elif is_sixteen_bit(image):
        values = _on_white(_both_bytes(image, open_again), image.info.get("transparency"))
    else:
        raise InputError(f"it has the PIL mode {image.mode!r}, of 8 bits, and the other images have 16 bits or floats")
    values = values.astype(np.float32)
    if channels == 1 and values.shape[-1] == 3:
        return (values @ np.float32(GREY_WEIGHTS)).round()[..., None]
    return np.broadcast_to(values, (*values.shape[:2], channels))


def _both_bytes(image, open_again):
    """The 16-bit values (H, W, C) of an image that PIL opens in 8 bits, whose order of bytes its tiles tell."""
    if image.mode not in ("RGB", "RGBA") or not any(_is_stored_as(layout, image) for layout in TWO_BYTE_LAYOUTS):
        raise InputError(
            f"it has 16 bits a channel in a layout of which 8 can be read ({image.mode}): save it as a PNG in colour, "
            "or give --no_preserve_input_precision"
        )
    if _is_stored_as("LA;16", image):  # four bytes a pixel, as of RGBA
        pixels = np.ascontiguousarray(_read_as(image, lambda mode: "RGBA"))
        return pixels.view(">u2").astype(np.uint16)
    lower = _read_as(open_again(), _with_other_byte)
    upper = np.asarray(ImageOps.exif_transpose(image))
    return upper.astype(np.uint16) << 8 | lower


def _with_other_byte(mode):
    """The raw mode that takes the lower byte of 16 bits where `mode` takes the upper one."""
    native = {"little": "L", "big": "B"}[sys.byteorder]
    base, depth, order = mode.partition(";16")
    return base + depth + {"B": "L", "L": "B"}[native if order == "N" else order]


def _read_as(image, other_mode):
    """The pixels of an image, upright, where `other_mode` gives the raw mode in place of the one of its tiles."""

    def read(tile):
        if isinstance(tile[3], str):
            return tile._replace(args=other_mode(tile[3]))
        return tile._replace(args=(other_mode(tile[3][0]), *tile[3][1:]))

    image.tile = [read(tile) for tile in image.tile]
    return np.asarray(ImageOps.exif_transpose(image))


def _on_white(values, transparency):
    """16-bit values (H, W, C) without alpha; pixels that are transparent, by alpha or value, are composed on white."""
    if values.shape[-1] in (2, 4):
        alpha = values[..., -1:] / HIGHEST_OF_SIXTEEN_BITS
        return (values[..., :-1] * alpha + HIGHEST_OF_SIXTEEN_BITS * (1 - alpha)).round()
    if transparency is None:
        return values
    hidden = (values == np.asarray(transparency)).all(-1, keepdims=True)
    return np.where(hidden, HIGHEST_OF_SIXTEEN_BITS, values)


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
