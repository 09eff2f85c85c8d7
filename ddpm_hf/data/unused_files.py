"""The files of a local folder that `datasets` leaves out, with their number and the reason.

`datasets` takes a word such as train, test or dev in the name of a folder or file as the split of the file. If one
file has such a word, files without one belong to no split: a picture of a steam train, `train.png`, would leave out
all others.
"""

import logging
import os
from collections import Counter

from PIL import Image

logger = logging.getLogger(__name__)

# Suffixes of data files, besides those of images.
CONTAINERS = {".arrow", ".parquet", ".tar"}
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
BEHIND_LINK = "behind a link to a folder, which datasets does not follow"
WORDS_MAKE_SPLITS = "words such as train, test, dev or val in names of folders and files make splits"


def report_unused_files(folder, builder, split, num_rows=None):
    """Warns of data files below `folder` that are not read for `split`, with their numbers and the reasons.

    Args:
        builder (`datasets.DatasetBuilder`): the builder of `datasets` for the folder.
        split (`str`): the requested split: `train`, `train[:90%]`, `train+test`, `all`.
        num_rows (`int`, *optional*): rows of the whole splits that `split` names; unknown for a stream.
    """
    listed = _listed_files(builder)
    readable = _readable_suffixes(builder, listed)
    found = _data_files(folder, readable)
    chosen = set().union(*(listed[name] for name in splits_named(split, listed)))
    others = {path: name for name, files in listed.items() for path in files - chosen}
    reasons = Counter(_reason(path, others, readable) for path in found - chosen)
    metadata = next((os.path.basename(path) for path in sorted(chosen) if _is_metadata(path)), None)
    if metadata and num_rows is not None:
        reasons[f"not named in {metadata}"] = max(len(found & chosen) - num_rows, 0)
    if reasons.total():
        logger.warning(
            "Split %r of dataset=%r leaves out %d of the %d files on the disk: %s.",
            *(split, str(folder), reasons.total(), len(found)),
            "; ".join(f"{number} {reason}" for reason, number in reasons.items() if number),
        )


def files_with_accidental_words(folder, builder):
    """The images whose own names have words that make splits, if most images have none; else an empty set.

    Words in names of folders and of shards are not accidents.
    """
    if builder.name != "imagefolder":
        return set()
    listed = _listed_files(builder)
    of_splits = set().union(*listed.values())
    of_none = _data_files(folder, _readable_suffixes(builder, listed)) - of_splits
    beside = {os.path.dirname(path) for path in of_splits} & {os.path.dirname(path) for path in of_none}
    return of_splits if beside and len(of_none) > len(of_splits) else set()


def told_of_links(folder):
    """A sentence for a folder whose data files are all behind links to folders; empty for any other."""
    found = _data_files(folder, set())
    if not found or not all(map(_is_behind_link, found)):
        return ""
    place = os.path.realpath(os.path.dirname(min(found)))
    return f"All {len(found)} files of data are {BEHIND_LINK}: give the folder itself, {place}. "


def splits_named(split, there):
    """The split names in an expression such as `train[:90%]+test`; all names of `there` for `all`.

    Raises:
        ValueError: for a name that is not in `there`.
    """
    names = [part.split("[")[0].strip() for part in split.split("+")]
    if names == ["all"]:
        return list(there)
    missing = [name for name in names if name not in there]
    if missing:
        raise ValueError(f"there is no split {missing[0]!r} but {', '.join(map(str, there))}; {WORDS_MAKE_SPLITS}")
    return names


def _reason(path, others, readable):
    if path in others:
        return f"of split {others[path]!r} ({WORDS_MAKE_SPLITS})"
    if _is_behind_link(path):
        return BEHIND_LINK
    if _suffix(path) not in readable:
        return f"with the suffix {_suffix(path)}, which is not read here"
    return f"of no split ({WORDS_MAKE_SPLITS}, and other files are left out)"


def _is_behind_link(path):
    return os.path.realpath(os.path.dirname(path)) != os.path.dirname(path)


def _listed_files(builder):
    """The files of each split."""
    return {str(name): set(map(os.path.abspath, files)) for name, files in builder.config.data_files.items()}


def _data_files(folder, readable):
    """The files below `folder` that hold data, as their suffixes say."""
    of_data = _image_suffixes() | CONTAINERS | readable
    return {path for path in _files_below(folder) if _suffix(path) in of_data and not _is_metadata(path)}


def _readable_suffixes(builder, listed):
    """The suffixes that `datasets` reads for the kind of data that it finds in the folder."""
    if builder.name == "imagefolder":
        return set(builder.EXTENSIONS) | {".zip"}
    return {_suffix(path) for files in listed.values() for path in files}


def _image_suffixes():
    return {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}


def _suffix(path):
    return os.path.splitext(path)[1].lower()


def _is_metadata(path):
    return os.path.basename(path) in METADATA_NAMES


def _files_below(folder):
    """All files except hidden ones, which `datasets` leaves out too."""
    for parent, folders, names in os.walk(os.path.realpath(folder), followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        yield from (os.path.join(parent, name) for name in names if not name.startswith("."))
