"""Files that are there as a whole or not at all, whenever the program is killed or the disk fills up."""

import json
import os
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from yaml import YAMLError

from ddpm_hf.errors import InputError

# What torch, safetensors and Python's own files raise where a write fails.
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
ASIDE = ".tmp"
FOLDER_ASIDE = f"new{ASIDE}"
# The names of the files that are being moved in: which of a folder's files a killed program had moved.
MOVED_LIST = "moved_files.json"


@contextmanager
def written_whole(path):
    """Gives a path beside `path` to write to, which then takes its place in one step.

    Raises:
        InputError: where it cannot be written; what was there stays.
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
        aside.unlink(missing_ok=True)
        raise InputError(cannot_write(path, error)) from error


@contextmanager
def moved_in_whole(folder, last):
    """Gives an empty folder, whose files then take their places in `folder`, each in one step, and the one named `last`
    when all others have theirs. What a killed program leaves is told by `half_moved_files`.

    Raises:
        InputError: where they cannot be written; what was there stays.
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
        for name in sorted(files, key=lambda name: name == Path(last)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(aside / name, folder / name)
            flush_to_disk((folder / name).parent)
    except WRITE_ERRORS as error:
        raise InputError(cannot_write(folder, error)) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def half_moved_files(folder):
    """The names of the files in `folder` that a `moved_in_whole` which was killed had moved or was about to move."""
    listed = Path(folder) / FOLDER_ASIDE / MOVED_LIST
    return set(json.loads(listed.read_text(encoding="utf-8"))) if listed.is_file() else set()


def aside_name(name):
    """What a file is called until it is whole. The suffix stays last: to libraries it names the format."""
    return f"{Path(name).stem}{ASIDE}{Path(name).suffix}"


def cannot_write(path, error):
    return (
        f"Cannot write {path} ({error}). What was there before stays: make room, or mend the disk, and run the same "
        "command again."
    )


def give_usual_mode(path):
    """Lets those read and write a file whom the umask lets: safetensors keeps its files to their owner alone."""
    umask = os.umask(
        0o077
    )  # it can be read only by setting it; another thread's file is meanwhile too private, not too open
    os.umask(umask)
    usual, mode = 0o666 & ~umask, stat.S_IMODE(Path(path).stat().st_mode)
    if usual & ~mode:
        os.chmod(path, mode | usual)


def check_readable(*folders):
    """Passes where this user may read all that is in local folders; one that is not there passes too.

    Raises:
        InputError: naming the first file that may not be read: libraries take it for one that is missing.
    """
    for folder in map(Path, folders):
        for path in (folder, *sorted(folder.rglob("*"))):
            if path.exists() and not os.access(path, os.R_OK):
                about = path.stat()
                raise InputError(
                    f"{path} is there, but you may not read it: it has the mode {stat.S_IMODE(about.st_mode):04o} and belongs to "
                    f"user {about.st_uid}. Ask its owner for `chmod -R a+rX {folder}`, or for a copy."
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
            f"{name or file} holds a {type(content).__name__} and not names with values: restore it, or write it again."
        )
    return content


def flush_to_disk(path):
    """Until what was written to a file, or the names in a folder, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
