"""Atomic writing of files: a killed program or a full disk leaves no partial file."""

import json
import os
import shutil
import stat
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from yaml import YAMLError

from ddpm_hf.errors import InputError

# Errors of torch, safetensors and Python's own files if a write fails.
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
ASIDE = ".tmp"
FOLDER_ASIDE = f"new{ASIDE}"
# Lists the files being moved into a folder, beside them, so that the files moved by a killed program can be found.
MOVED_LIST = f"new{ASIDE}.json"


@contextmanager
def written_whole(path):
    """Yields a path beside `path` to write to, which then replaces `path` in one step.

    Raises:
        InputError: if writing fails; the old file stays.
    """
    path = Path(path)
    aside = path.with_name(aside_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        give_usual_mode(aside)
        flush_to_disk(aside)
        os.replace(aside, path)
        flush_to_disk(path.parent)
    except WRITE_ERRORS as error:
        with suppress(OSError):  # where the folder is a file, looking for one in it is an error too
            aside.unlink(missing_ok=True)
        raise InputError(cannot_write(path, error)) from error


@contextmanager
def moved_in_whole(folder, last):
    """Yields an empty folder, whose files then move into `folder`, each in one step, the one named `last` at the end.

    `half_moved_files` tells what a killed program has left.

    Raises:
        InputError: if writing fails; the old files stay.
    """
    folder = Path(folder)
    aside = folder / FOLDER_ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        files = [path.relative_to(aside) for path in sorted(aside.rglob("*")) if path.is_file()]
        for name in files:
            give_usual_mode(aside / name)
            flush_to_disk(aside / name)
        with written_whole(aside / MOVED_LIST) as listed:
            listed.write_text(json.dumps([name.as_posix() for name in files]) + "\n", encoding="utf-8")
        for name in [MOVED_LIST, *sorted(files, key=lambda name: name == Path(last))]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(aside / name, folder / name)
            flush_to_disk((folder / name).parent)
        shutil.rmtree(aside)
        # Comes last: as long as the list is there, the same command may begin anew.
        (folder / MOVED_LIST).unlink()
    except WRITE_ERRORS as error:
        raise InputError(cannot_write(folder, error)) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def half_moved_files(folder):
    """The names of the files in `folder` that a killed `moved_in_whole` had moved or was about to move."""
    listed = Path(folder) / MOVED_LIST
    return set(json.loads(listed.read_text(encoding="utf-8"))) if listed.is_file() else set()


def aside_name(name):
    """The name of a file until it is complete. The suffix stays last, because libraries read the format from it."""
    return f"{Path(name).stem}{ASIDE}{Path(name).suffix}"


def cannot_write(path, error):
    return (
        f"Cannot write {path} ({error}). What was there before stays: make room, or repair the disk, and run the same "
        "command again."
    )


def cannot_write_to(folder, error):
    return f"Cannot write to {folder} ({error}): choose another place, or correct its permissions."


@contextmanager
def made_if_absent(folder):
    """A context in which a folder exists; the folders that are made for it, and stay empty, are removed at the end.

    Raises:
        InputError: if the folder is a file or cannot be made.
    """
    folder, made = Path(folder), []
    if os.path.isfile(folder):  # unlike `Path.is_file`, without an error for too long a name
        raise InputError(f"{folder} is a file: choose a folder that is not there yet.")
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(made)
        raise InputError(cannot_write_to(folder, error)) from error
    try:
        yield
    finally:
        _remove_empty(made)


def _remove_empty(folders):
    for path in folders:
        with suppress(OSError):
            path.rmdir()


def give_usual_mode(path):
    """Gives a file the permissions of the umask; safetensors writes files for their owner alone."""
    umask = os.umask(
        0o077
    )  # reading the umask requires setting it; meanwhile another thread's file may be too private, but never too open
    os.umask(umask)
    usual, mode = 0o666 & ~umask, stat.S_IMODE(Path(path).stat().st_mode)
    if usual & ~mode:
        os.chmod(path, mode | usual)


def check_readable(*folders):
    """Checks that this user may read everything in local folders; a missing folder passes.

    Raises:
        InputError: with the first unreadable file, which libraries would report as missing.
    """
    for folder in map(Path, folders):
        for path in (folder, *sorted(folder.rglob("*"))):
            if path.exists() and not os.access(path, os.R_OK):
                about = path.stat()
                raise InputError(
                    f"{path} is there, but you may not read it: it has the mode {stat.S_IMODE(about.st_mode):04o} and "
                    f"belongs to user {about.st_uid}. Ask its owner for `chmod -R a+rX {folder}`, or for a copy."
                )


def read_mapping(file, parse=json.loads, name=None):
    """The `dict` in a file of JSON, or of what `parse` reads.

    Args:
        name (*optional*): of the file in messages, where that is not its path.

    Raises:
        InputError: naming the file, if it is not UTF-8, cannot be parsed, or holds something else.
    """
    try:
        content = parse(Path(file).read_text(encoding="utf-8"))
    except (ValueError, YAMLError) as error:
        raise InputError(
            f"{name or file} cannot be read ({' '.join(str(error).split())}): restore it, or write it again."
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{name or file} holds a {type(content).__name__} and not names with values: restore it, or write it "
            "again."
        )
    return content


def flush_to_disk(path):
    """Calls fsync on a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
