"""PNG files of 16 bits with any of their numbers of channels; PIL writes grey ones alone."""

import struct
import zlib

# The PNG type of colours for each number of channels: grey, grey with alpha, colour, colour with alpha.
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
SIGNATURE = b"\x89PNG\r\n\x1a\n"
UNFILTERED = b"\0"


def write_deep_png(image, file):
    """Writes an array (H, W, C) of whole numbers from 0 to 65535 as a PNG of 16 bits.

    Args:
        image (`np.ndarray`): the values.
        file (`Path`): the file.
    """
    height, width, channels = image.shape
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[channels], 0, 0, 0)
    rows = b"".join(UNFILTERED + row.tobytes() for row in image.astype(">u2"))
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    file.write_bytes(SIGNATURE + b"".join(_chunk(*chunk) for chunk in chunks))


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
