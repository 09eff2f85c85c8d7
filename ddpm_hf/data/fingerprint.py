"""A fingerprint of the content and order of data, independent of their place and container.

For images it covers all labels, and the first bytes and the length of at most 10,000 evenly spread images
(`spread_values`). Its cost does not grow with the data set and it detects a changed order, but it may miss changes of
a few images in a larger data set.
"""

import os

import numpy as np
import xxhash

BYTES_PER_IMAGE = 2**16


def fingerprint_of_images(values, number, labels=None):
    """A digest of stored images, their number and their labels.

    Args:
        values: images as stored by `datasets`, in order.
        number (`int`): number of images, or of shards if the number of images is unknown.
        labels (array, *optional*): integers, or floats.
    """
    hasher = xxhash.xxh3_128(str(number).encode())
    for value in values:
        beginning, length = _beginning(value)
        hasher.update(f"|{length}|".encode())
        hasher.update(beginning)
    return _with_labels(hasher, labels)


def fingerprint_of_captions(of_images, captions):
    """A digest of the fingerprint of images and of all their captions."""
    return xxhash.xxh3_128_hexdigest("\n".join([of_images, *captions]).encode())


def fingerprint_of_points(points, labels=None):
    """A digest of points (N, d), float64, before standardization, and of their labels."""
    return _with_labels(xxhash.xxh3_128(np.ascontiguousarray(points)), labels)


def _with_labels(hasher, labels):
    if labels is not None:
        labels = np.asarray(labels)
        hasher.update(np.ascontiguousarray(labels, dtype=np.float64 if labels.dtype.kind == "f" else np.int64))
    return hasher.hexdigest()


def _beginning(value):
    """The first bytes of a stored image and its length; for a remote image its name, for a missing one -1."""
    if value is None:
        return b"", -1
    if value["bytes"] is not None:
        return value["bytes"][:BYTES_PER_IMAGE], len(value["bytes"])
    if "://" in value["path"]:
        return os.path.basename(value["path"]).encode(), 0
    if not os.path.exists(value["path"]):
        return b"", -1
    with open(value["path"], "rb") as file:
        return file.read(BYTES_PER_IMAGE), os.fstat(file.fileno()).st_size
