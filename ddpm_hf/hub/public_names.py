"""Removes paths of this machine from the public form of files.

The files of a run keep paths as given, because resuming compares them. Publishing replaces a local path with its last
part; Hub ids and web addresses stay.
"""

import re
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

SEPARATORS = re.compile(r"[/\\]")
ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+://")


def on_the_hub(name):
    """The name of a model or data set if it is a Hub id and not a folder or file; else None."""
    if name is None:
        return None
    try:
        validate_repo_id(str(name))
    except HFValidationError:
        return None
    return None if Path(name).exists() else str(name)


def local_names(report):
    """The options of a run that were local folders or files when it began, even if they look like Hub ids."""
    return report.get("environment", {}).get("local", ())


def public_name(name, local=()):
    """A name without the folders of a path: "/home/me/cats" becomes "cats".

    Args:
        local (*optional*): names that are paths even if they look like Hub ids.
    """
    if not SEPARATORS.search(name) or ADDRESS.match(name) or (name not in local and on_the_hub(name)):
        return name
    parts = [part for part in SEPARATORS.split(name) if part]
    return parts[-1] if parts else name


def public_report(report):
    """A `dict` of JSON or YAML with the public form of all names, including names in texts separated by ", "."""
    return _public(report, local_names(report))


def _public(value, local):
    if isinstance(value, dict):
        return {key: _public(part, local) for key, part in value.items()}
    if isinstance(value, list):
        return [_public(part, local) for part in value]
    if isinstance(value, str):
        return ", ".join(public_name(part, local) for part in value.split(", "))
    return value
