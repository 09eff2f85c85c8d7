"""Reasons why data cannot be read: a damaged file, or a cache of `datasets` that cannot be written."""

import errno
import json
from pathlib import Path

import datasets

from ddpm_hf.data.file_kinds import BUILDERS
from ddpm_hf.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)


def root_cause(error):
    """The first error of the chain: `datasets` wraps the errors of its readers into one without their message."""
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
    """The error to raise; `otherwise` is a sentence with another remedy."""
    cause = root_cause(error)
    state = "is full" if getattr(cause, "errno", None) in FULL else "cannot be written"
    return InputError(
        f"The cache of datasets, {datasets.config.HF_DATASETS_CACHE}, {state} ({cause}): make room or change its "
        f"rights, or lead datasets to another folder with HF_DATASETS_CACHE=FOLDER.{otherwise}"
    )


def first_unreadable(files):
    """The name of the first unreadable file and the reason, as text; None if all can be read.

    The files are read once more, one after the other, because the errors of readers do not name the file.
    """
    for path in map(Path, files):
        try:
            _read_through(path)
        except Exception as error:  # each reader has its own errors
            return f"{path}: {root_cause(error)}"
    return None


def _read_through(path):
    if path.suffix == ".arrow":
        datasets.Dataset.from_file(str(path))
    elif path.name in (datasets.config.DATASET_INFO_FILENAME, "state.json", "dataset_dict.json"):
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix in BUILDERS:
        rows = datasets.load_dataset(BUILDERS[path.suffix], data_files=[str(path)], split="train", streaming=True)
        for _ in rows.with_format("arrow").iter(1000):
            pass
