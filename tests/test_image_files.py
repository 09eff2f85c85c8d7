"""Pixels of stored images: bit depths, transparency, and images that stay unchanged."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ddpm_hf.errors import InputError
from ddpm_hf.image_files import (
    check_mode,
    check_range,
    has_transparent_pixels,
    highest_value,
    in_eight_bits,
    is_grey,
    is_sixteen_bit,
)

RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8)
OPAQUE = np.full((8, 8), 65535, np.uint16)


def reopened(image, format="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return Image.open(BytesIO(buffer.getvalue()))


def png_of_sixteen_bits(channels):
    """A PNG that PIL reads but does not write, of 2 (grey, alpha), 3 (colours) or 4 channels (colours, alpha)."""
    pixels = np.stack(channels, axis=-1).astype(">u2")
    colour_type = {2: 4, 3: 2, 4: 6}[len(channels)]
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", *pixels.shape[1::-1], 16, colour_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))),
        (b"IEND", b""),
    ]
    chunks = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts]
    return Image.open(BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)))


# Depth ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "words"), [(np.float32, "'F' of 32-bit floats"), (np.int32, "'I' of 32-bit integers")]
)
def test_other_depths_are_refused_by_mode(dtype, words):
    image = reopened(Image.fromarray(RAMP.astype(dtype)), "TIFF")
    for refuses in (check_mode, lambda image: in_eight_bits(image, "L")):
        with pytest.raises(InputError, match=f"PIL mode {words}, and images are read with 8 or 16 bits"):
            refuses(image)


def test_sixteen_bits_of_a_large_picture_map_are_integers_to_pil():
    """PIL gives the 16 bits of a PGM file as 32-bit integers, which `convert` would clip at 255."""
    with pytest.raises(InputError, match="32-bit integers"):
        check_mode(Image.open(BytesIO(b"P5 2 1 65535\n" + np.array([9, 60000], ">u2").tobytes())))


@pytest.mark.parametrize(
    ("make", "grey"),
    [
        (lambda values: reopened(Image.fromarray(values)), True),
        (lambda values: reopened(Image.fromarray(values), "TIFF"), True),
        (lambda values: png_of_sixteen_bits([values] * 3), False),
        (lambda values: png_of_sixteen_bits([values, OPAQUE]), True),
        (lambda values: png_of_sixteen_bits([values] * 3 + [OPAQUE]), False),
    ],
)
def test_sixteen_bits_must_use_their_range(make, grey):
    """The check covers files that PIL opens as 8-bit colours too."""
    whole = make(RAMP * 1040)
    assert is_sixteen_bit(whole) and is_grey(whole) == grey
    check_range(highest_value(whole))
    pixels = np.asarray(in_eight_bits(whole, "L"))
    np.testing.assert_allclose(pixels, RAMP * 1040 / 257, atol=1)
    for twelve_bits in (RAMP * 65, RAMP, RAMP // 63):  # 16 levels, and 1
        if twelve_bits.max() >= 256 or whole.mode == "I;16":  # of colours PIL keeps nothing of the lower byte
            with pytest.raises(
                InputError, match=r"16-bit values go up to \d+ of 65535, .* of 256 levels would be left"
            ):
                check_range(highest_value(make(twelve_bits)))


def test_black_is_black_in_any_depth():
    check_range(highest_value(reopened(Image.fromarray(RAMP * 0))))


def test_eight_bits_are_no_sixteen():
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        image = reopened(Image.new("RGB", (8, 8), (1, 2, 3)).convert(mode))
        assert not is_sixteen_bit(image) and is_grey(image) == (mode in ("1", "L", "LA"))


# Transparency --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (Image.new("RGBA", (2, 1), (10, 10, 10, 255)), {}),
        (Image.new("LA", (2, 1), (10, 255)), {}),
        (Image.new("RGB", (2, 1), (10, 10, 10)), {"transparency": (90, 90, 90)}),
        (Image.new("L", (2, 1), 10), {"transparency": 90}),
        (Image.new("P", (2, 1), 10), {"transparency": 90}),
        (Image.fromarray(np.full((1, 2), 10 * 257, np.uint16)), {"transparency": 90 * 257}),
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_what_is_transparent_is_white(image, options, mode):
    """The hidden colour is 90."""
    image = image.copy()
    if image.mode == "P":
        image.putpalette([level for level in range(256) for _ in range(3)])
    hidden = {"RGBA": (90, 90, 90, 0), "LA": (90, 0), "RGB": (90, 90, 90)}.get(image.mode, 90)
    image.putpixel((1, 0), 90 * 257 if image.mode == "I;16" else hidden)
    stored = reopened(image, **options)
    assert has_transparent_pixels(stored)
    pixels = np.asarray(in_eight_bits(stored, mode)).reshape(2, -1)
    assert (pixels[0] == 10).all() and (pixels[1] == 255).all()


def test_half_transparent_is_between():
    pixels = np.asarray(in_eight_bits(Image.new("LA", (1, 1), (0, 51)), "L"))
    assert pixels.item() == 204  # a fifth of black


def test_opaque_images_keep_every_bit():
    levels = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    opaque = Image.new("L", (16, 16), 255)
    colours = Image.merge("RGB", [levels, levels.rotate(90), levels.rotate(180)])
    for image, plain in (
        (Image.merge("LA", [levels, opaque]), levels),
        (Image.merge("RGBA", [*colours.split(), opaque]), colours),
    ):
        assert not has_transparent_pixels(image)
        assert np.array_equal(in_eight_bits(image, plain.mode), plain)


def test_a_network_of_four_channels_gets_transparency_itself():
    image = Image.new("RGBA", (2, 2), (9, 8, 7, 0))
    assert in_eight_bits(image, "RGBA").getpixel((0, 0)) == (9, 8, 7, 0)
