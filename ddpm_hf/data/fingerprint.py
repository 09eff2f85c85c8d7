"""A fingerprint of data: which they are and in what order, wherever and in whatever container they are stored.

Of images it has the bytes of at most 10,000, evenly spread (`spread_values`), of each no more than the beginning and the
length, and all labels. So it takes no longer for a data set of any size, and sees every other order; a change of few images
in a larger data set it may miss.
"""

import os

import numpy as np
import xxhash

BYTES_PER_IMAGE = 2**16


def fingerprint_of_images(values, number, labels=None):
    """A digest of stored images, of the number of all, and of their labels.

    Args:
        values: as `datasets` stores images, in their order.
        number (`int`): of images, or of shards where nobody knows how many images they have.
        labels (array, *optional*): integers.
    """
    hasher = xxhash.xxh3_128(str(number).encode())
    for value in values:
        beginning, length = _beginning(value)
        hasher.update(f"|{length}|".encode())
        hasher.update(beginning)
    return _with_labels(hasher, labels)


def fingerprint_of_points(points, labels=None):
    """A digest of points (N, d), float64, as they were read, and of their labels."""
    return _with_labels(xxhash.xxh3_128(np.ascontiguousarray(points)), labels)


def _with_labels(hasher, labels):
    if labels is not None:
        hasher.update(np.ascontiguousarray(labels, dtype=np.int64))
    return hasher.hexdigest()


def _beginning(value):
    """The first bytes of a stored image, and how many it has; of one that is far away its name, and -1 for one that is missing."""
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
