"""One listing of each folder, however often `datasets` asks for it."""

import copy
from contextlib import contextmanager

from fsspec.core import url_to_fs


@contextmanager
def listing_folders_once(place):
    """A context in which fsspec lists each folder of a local place once.

    `datasets` looks for the files of each split by some 65 patterns, and each of them lists all folders anew, which
    for tens of thousands of images takes longer than all else before the first batch.
    """
    file_system, _ = url_to_fs(str(place))
    list_folder, listings = file_system.ls, {}

    def list_once(path, detail=False, **options):
        key = path, detail, *options.items()
        if key not in listings:
            listings[key] = list_folder(path, detail=detail, **options)
        return copy.copy(listings[key])

    # On the instance, of which fsspec has one in each thread, so that its class stays as it is.
    file_system.ls = list_once
    try:
        yield
    finally:
        del file_system.ls
