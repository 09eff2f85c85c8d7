"""Checks, before the work begins, that the place for a result is free and can be written to."""

import tempfile
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path

from ddpm_hf.errors import InputError
from ddpm_hf.files import (
    FOLDER_ASIDE,
    MOVED_LIST,
    aside_name,
    cannot_write_to,
    half_moved_files,
    made_if_absent,
)
from ddpm_hf.folder_lock import LOCK_FILE, alone_in


def check_free_folder(folder, names=None, unfinished=()):
    """Checks that `moved_in_whole` can put a result into `folder`; leftovers of a killed command are no obstacle.

    Args:
        names (*optional*): the files of the result, for a folder that may hold others; by default it must be empty.
        unfinished: names of files in `folder` that a killed command of this kind leaves.

    Raises:
        InputError: if the folder holds something else or cannot be written to.
    """
    folder = Path(folder)
    with _written_to(folder):
        if names is None:
            _check_empty(folder, unfinished)
        else:
            for name in sorted(set(names) - half_moved_files(folder)):
                _check_absent(folder / name)
        with tempfile.TemporaryFile(dir=folder):
            pass


def _check_empty(folder, unfinished):
    half_moved = {Path(name).parts[0] for name in half_moved_files(folder)}
    taken = {path.name for path in folder.iterdir()} - {FOLDER_ASIDE, MOVED_LIST, LOCK_FILE, *unfinished} - half_moved
    if taken:
        raise InputError(
            f"{folder} is not empty ({', '.join(sorted(taken)[:3])}): choose another folder, or move it away."
        )


@contextmanager
def alone_in_free_folder(folder, names=None):
    """A context in which this process alone writes its result into a folder, which takes it (`check_free_folder`)."""
    with alone_in(folder):
        check_free_folder(folder, names)
        yield


def check_free_file(path, suffixes):
    """Checks that `written_whole` can write a file of that name; existing files are never overwritten.

    Args:
        suffixes: the allowed endings of the name, in lower case: ".png".

    Raises:
        InputError: for another ending, an existing file, or a folder that cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path} must end in {' or '.join(suffixes)}.")
    aside = path.with_name(aside_name(path.name))
    with _written_to(path.parent):
        _check_absent(path)
        aside.touch()
        aside.unlink()


def free_output(path, default, suffixes):
    """The file for a result, which is free.

    Args:
        path (*optional*): the file that the user named, checked as by `check_free_file`.
        default: the name where the user named none; a number makes it free, as in samples_2.png.
        suffixes: the allowed endings of the name.

    Raises:
        InputError: for another ending, an existing file that was named, or a folder that cannot be written to.
    """
    path = numbered(default) if path is None else path
    check_free_file(path, suffixes)
    return path


def numbered(path):
    """The path if nothing is there, else the first of samples_2.png, samples_3.png, .. where nothing is."""
    path = Path(path)
    names = (path.with_stem(f"{path.stem}_{number}") for number in count(2))
    return next(each for each in chain([path], names) if not each.exists())


def _check_absent(path):
    if path.exists():
        raise InputError(f"{path} is already there; choose another name, or move it away.")


def check_apart(folder, model):
    """Raises InputError if a new pipeline folder would lie within `model`, a pipeline folder or a Hub id."""
    if Path(model).is_dir() and Path(model).resolve() in Path(folder).resolve().parents:
        raise InputError(
            f"{folder} lies within the model {model}, which would be shared and saved with it: choose a folder beside "
            "it."
        )


@contextmanager
def _written_to(folder):
    """A context in which the folder exists, and where it cannot be read or written, an error says so."""
    with made_if_absent(folder):
        try:
            yield
        except OSError as error:
            raise InputError(cannot_write_to(folder, error)) from error
