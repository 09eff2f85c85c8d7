"""Whether the name of a model or of data is a path or the id of a repository, before anything is looked up."""

import os
from pathlib import Path

from ddpm_hf.errors import InputError
from ddpm_hf.nearest_names import did_you_mean

# Classes of Fashion-MNIST in 28x28, with solvers for few steps; `make embedded` trains it.
EMBEDDED_MODEL = str(Path(__file__).parent / "models" / "fashion_mnist")

# The endings of files of data, which are not those of names on the Hub.
FILES = (".csv", ".parquet", ".json", ".jsonl", ".tar", ".zip", ".arrow", ".npy", ".npz", ".png", ".jpg")


def check_model_place(name):
    """Checks that a model's name is a folder that is there, or OWNER/NAME on the Hub; nothing is downloaded.

    Raises:
        InputError: with the nearest name among the neighbours, for a path that leads nowhere.
    """
    if not os.path.exists(name) and (_is_path(name) or "/" not in name):
        raise InputError(f"There is no folder {name}{_nearest_path(name)} A model on the Hub is OWNER/NAME.")


def check_local_place(name):
    """Raises InputError, with the nearest name among the neighbours, for a folder or file that is not there."""
    if not os.path.exists(name):
        raise InputError(f"There is no folder or file {name}{_nearest_path(str(name))}")


def check_data_place(name, others=()):
    """Checks as `check_model_place`, except that the Hub has data whose names have no owner.

    Args:
        others (*optional*): further names of data.

    Raises:
        InputError: with the nearest name among the neighbours, for a path that leads nowhere, and for a name without
            an owner that is near to a neighbour's.
    """
    near = _nearest_path(name, others)
    if not os.path.exists(name) and (_is_path(name) or ("/" not in name and near != ".")):
        raise InputError(f"There is no folder or file {name}{near} Data on the Hub are OWNER/NAME.")


def _is_path(name):
    """Whether a name cannot be the id of a repository, or lies in a folder that is there."""
    first, slash, rest = name.partition("/")
    is_spelled_as_path = name[0] in "./~" or "\\" in name or "/" in rest or name.endswith(("/", *FILES))
    return is_spelled_as_path or (bool(slash) and os.path.isdir(first))


def _nearest_path(name, others=()):
    parent = Path(name).parent
    is_read = os.path.isdir(parent) and os.access(parent, os.R_OK)
    neighbours = [str(parent / each.name) for each in parent.iterdir()] if is_read else []
    return did_you_mean(name, [*neighbours, *others])
