"""The manifest of a checkpoint lists its files with a digest of each, to detect damage."""

import json
import os
from pathlib import Path

import xxhash

from ddpm_hf.files import flush_to_disk, give_usual_mode

MANIFEST = "manifest.json"
CHUNK = 16 * 2**20


def write_manifest(folder, about):
    """Flushes all files of `folder` to the disk and lists them; the manifest is the last file of a checkpoint.

    Args:
        about (`dict`): further entries about the checkpoint, as JSON.
    """
    folder, files = Path(folder), {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        give_usual_mode(path)
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "xxh3_128": digest(path)}
        flush_to_disk(path)
    manifest = about | {"files": files}
    text = json.dumps({"manifest": manifest, "xxh3_128": _digest_of_content(manifest)}, indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    flush_to_disk(folder / MANIFEST)
    for inner in [path for path in folder.rglob("*") if path.is_dir()]:
        flush_to_disk(inner)
    flush_to_disk(folder)


def read_manifest(folder):
    """The entries written by `write_manifest`.

    Raises:
        OSError, ValueError: if the manifest is missing or damaged.
    """
    stored = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(stored, dict) or stored.get("xxh3_128") != _digest_of_content(stored.get("manifest")):
        raise ValueError("its content is not what was written")
    return stored["manifest"]


def _digest_of_content(manifest):
    return xxhash.xxh3_128_hexdigest(json.dumps(manifest).encode())


def find_damage(folder):
    """A description of a checkpoint's damage; None if all its files are intact."""
    try:
        files = read_manifest(folder)["files"]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    for name, expected in files.items():
        path = Path(folder) / name
        try:
            size = path.stat().st_size
            if size != expected["size"]:
                return f"{name} has {size} bytes instead of {expected['size']}"
            if digest(path) != expected["xxh3_128"]:
                return f"{name} does not have the content that was written (its digest differs)"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def digest(path):
    hasher = xxhash.xxh3_128()
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def forget_cached(folder):
    """Drops the files from the system's cache, where possible, so that the next reader reads the disk."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in Path(folder).rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
