"""Why data cannot be read: which file is at fault, or that it is the cache of `datasets` and not the data."""

import errno
import json
from pathlib import Path

import datasets

from ddpm_hf.errors import InputError

KINDS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".tar": "webdataset"}
FULL = (errno.ENOSPC, errno.EDQUOT)


def root_cause(error):
    """What began it: `datasets` wraps the errors of its readers into one that says nothing of them."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def cannot_use_cache(error):
    """Whether the cause of an error of `datasets` is that its cache cannot be written."""
    error, cache = root_cause(error), Path(datasets.config.HF_DATASETS_CACHE).absolute()
    if not isinstance(error, OSError):
        return False
    if error.errno in FULL or error.filename is None:
        return error.errno in FULL
    path = Path(error.filename).absolute()
    return path.is_relative_to(cache) or cache.is_relative_to(path)


def cache_error(error, otherwise=""):
    """The error to raise; `otherwise` is what else there is to do, as a sentence."""
    cause = root_cause(error)
    state = "is full" if getattr(cause, "errno", None) in FULL else "cannot be written"
    return InputError(
        f"The cache of datasets, {datasets.config.HF_DATASETS_CACHE}, {state} ({cause}): make room or change its rights, or "
        f"lead datasets to another folder with HF_DATASETS_CACHE=FOLDER.{otherwise}"
    )


def first_unreadable(files):
    """The first of the files that cannot be read and why, as words; None if each can.

    They are read through once more, one after the other, because the errors of readers do not name the file.
    """
    for path in map(Path, files):
        try:
            _read_through(path)
        except Exception as error:  # each reader has its own
            return f"{path}: {root_cause(error)}"
    return None


def _read_through(path):
    if path.suffix == ".arrow":
        datasets.Dataset.from_file(str(path))
    elif path.name in (datasets.config.DATASET_INFO_FILENAME, "state.json", "dataset_dict.json"):
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix in KINDS:
        rows = datasets.load_dataset(KINDS[path.suffix], data_files=[str(path)], split="train", streaming=True)
        for _ in rows.with_format("arrow").iter(1000):
            pass
