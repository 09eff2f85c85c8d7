"""What a file says of this machine, and what it says instead where others read it.

The files of a run keep the paths as they were given, because the run resumes and compares by them. Their public form is
made when they are published: a Hub id and an address of the web stay, a local folder or file becomes its last name.
"""

import re
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

SEPARATORS = re.compile(r"[/\\]")
ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+://")


def on_the_hub(name):
    """The name of a model or data set, if it is one of the Hub's and not of a folder or file; else None."""
    if name is None:
        return None
    try:
        validate_repo_id(str(name))
    except HFValidationError:
        return None
    return None if Path(name).exists() else str(name)


def local_names(report):
    """The options of a run that were folders or files of its machine when it began; they may look like ids of the Hub."""
    return report.get("environment", {}).get("local", ())


def public_name(name, local=()):
    """A name that may be a path, without the folders before its last part: "/home/me/cats" is "cats".

    Args:
        local (*optional*): names that are paths, whatever they look like.
    """
    if not SEPARATORS.search(name) or ADDRESS.match(name) or (name not in local and on_the_hub(name)):
        return name
    parts = [part for part in SEPARATORS.split(name) if part]
    return parts[-1] if parts else name


def public_report(report):
    """A `dict` of JSON or YAML with the public form of all names, of those in texts with ", " between too."""
    return _public(report, local_names(report))


def _public(value, local):
    if isinstance(value, dict):
        return {key: _public(part, local) for key, part in value.items()}
    if isinstance(value, list):
        return [_public(part, local) for part in value]
    if isinstance(value, str):
        return ", ".join(public_name(part, local) for part in value.split(", "))
    return value
