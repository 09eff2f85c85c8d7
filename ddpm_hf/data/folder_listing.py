"""One listing of each folder, however often `datasets` asks for it."""

import copy
import re
from contextlib import contextmanager

from fsspec.core import url_to_fs

# What stands for other characters in a pattern: a set of them in brackets, and the wildcards.
WILDCARDS = re.compile(r"\[[^]]*\]|[*?]+")


@contextmanager
def listing_folders_once(place):
    """A context in which fsspec lists each folder of a local place once.

    `datasets` looks for the files of each split by some 65 patterns. Each of them lists all folders anew and is
    compared with every file, which for tens of thousands of images takes longer than all else before the first batch.
    A pattern with a word that no file's path has matches nothing, and is not compared.
    """
    file_system, root = url_to_fs(str(place))
    list_folder, match, listings = file_system.ls, file_system.glob, {}

    def list_once(path, detail=False, **options):
        key = path, detail, *options.items()
        if key not in listings:
            listings[key] = list_folder(path, detail=detail, **options)
        return copy.copy(listings[key])

    def match_known_words(pattern, **options):
        below = pattern.removeprefix(root)
        if below == pattern or all(word in paths for word in WILDCARDS.split(below)):
            return match(pattern, **options)
        return {}

    # On the instance, of which fsspec has one in each thread, so that its class stays as it is.
    file_system.ls = list_once
    paths = "\n".join(path.removeprefix(root) for path in file_system.find(root))
    file_system.glob = match_known_words
    try:
        yield
    finally:
        del file_system.ls, file_system.glob
