"""Where a command leaves its result: whether the place is free and can be written to, asked before the work begins."""

import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from ddpm_hf.errors import InputError
from ddpm_hf.files import FOLDER_ASIDE, aside_name, half_moved_files


def check_free_folder(folder, names=None, unfinished=()):
    """Passes where `moved_in_whole` can put a result into `folder`, and a command that was killed is no obstacle.

    Args:
        names (*optional*): the files that the result has, for a folder that may hold others; by default it must be empty.
        unfinished: names in `folder` of what a killed command of this kind has left on its way.

    Raises:
        InputError: where there is something else, or nothing can be written.
    """
    folder = Path(folder)
    if os.path.isfile(folder):  # and no error for a name that is too long
        raise InputError(f"{folder} is a file: choose a folder that is not there yet.")
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
    taken = {path.name for path in folder.iterdir()} - {FOLDER_ASIDE, *unfinished} - half_moved
    if taken:
        raise InputError(
            f"{folder} is not empty ({', '.join(sorted(taken)[:3])}): choose another folder, or move it away."
        )


def check_free_file(path, suffixes):
    """Passes where `written_whole` can write a file of that name; one that is there is never written over.

    Args:
        suffixes: those that the name may end in, in lower case: ".png".

    Raises:
        InputError: for another ending, a file that is there, and where nothing can be written.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path} must end in {' or '.join(suffixes)}.")
    aside = path.with_name(aside_name(path.name))
    with _written_to(path.parent):
        _check_absent(path)
        aside.touch()
        aside.unlink()


def _check_absent(path):
    if path.exists():
        raise InputError(f"{path} is already there; choose another name, or move it away.")


def check_apart(folder, model):
    """Raises InputError for a new pipeline folder that would lie within `model`, a pipeline folder or the id of one."""
    if Path(model).is_dir() and Path(model).resolve() in Path(folder).resolve().parents:
        raise InputError(
            f"{folder} lies within the model {model}, which would be shared and saved with it: choose a folder beside it."
        )


@contextmanager
def _written_to(folder):
    """The folder is there meanwhile; one that was made for this goes again."""
    made = []
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(f"Cannot write to {folder} ({error}): choose another place, or mend its rights.") from error
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()
