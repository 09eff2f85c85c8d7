"""Reads models from a folder or the Hub, and explains failures in one sentence with a remedy."""

import errno
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import constants, get_token, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from ddpm_hf.errors import InputError
from ddpm_hf.files import check_readable, read_mapping
from ddpm_hf.hub.model_files import INDEX_FILE, check_files
from ddpm_hf.hub.public_names import on_the_hub
from ddpm_hf.hub.retries import first_line
from ddpm_hf.reports.report_files import CAPTIONS

WHAT_IS_TAKEN = "Give a pipeline folder or a Hub id of a DDPM of images, as training/train.py writes."
# EFBIG comes from limits on file sizes, as on clusters; the remedy is the same.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def read_index(model):
    """The content of a pipeline's index, from a folder or a repository.

    Raises:
        InputError: if it is not a pipeline, or the repository cannot be read.
    """
    file = Path(model) / INDEX_FILE
    if not Path(model).is_dir():
        with reading(model):
            file = _download_index(model)
    if not file.is_file():
        raise InputError(
            f"{model} is not a pipeline folder, for it has no {INDEX_FILE}: give one that training or "
            "`save_pretrained` has written (a run writes it when it is finished)."
        )
    index = read_mapping(file, name=f"{model}/{INDEX_FILE}")
    name = index.get("_class_name")
    if not isinstance(name[-1] if isinstance(name, list) and name else name, str):
        raise InputError(
            f"{file} names no class of a pipeline (_class_name={name!r}): write it again with `save_pretrained`."
        )
    return index


def _download_index(model):
    try:
        return Path(hf_hub_download(str(model), INDEX_FILE))
    except RemoteEntryNotFoundError as error:
        raise InputError(
            f"{model} holds another kind of model, for it has no {INDEX_FILE}: give a repository that diffusers has a "
            "pipeline for."
        ) from error


def read_captions(model):
    """The report of the captions of a model's training, from a folder or a repository; {} where there is none."""
    if Path(model).is_dir():
        return CAPTIONS.read(model)
    with reading(model):
        try:
            return CAPTIONS.read(Path(hf_hub_download(str(model), CAPTIONS.name)).parent)
        except (RemoteEntryNotFoundError, LocalEntryNotFoundError):
            return {}


@contextmanager
def reading(model):
    """Turns every error while this model is read into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    # Loaders raise many kinds of errors from the libraries below them.
    except Exception as error:
        check_readable(*(config.parent for config in Path(model).glob("*/*config.json")))
        raise InputError(_why_not(model, error)) from error


def _why_not(model, error):
    reasons = list(_chain(error))
    if any(isinstance(reason, OSError) and reason.errno in NO_ROOM for reason in reasons):
        return (
            f"There is no room to download {model} to ({constants.HF_HUB_CACHE}): make room there, or set HF_HOME to "
            "a folder on another disk."
        )
    if Path(model).is_dir():  # loaders may take an unreadable folder for a Hub id
        return _does_not_load(model, error)
    for kind, explain in EXPLANATIONS.items():
        for reason in reasons:
            if isinstance(reason, kind):
                return explain(model, reason)
    return _does_not_load(model, error)


def _chain(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _not_a_name(model, error):
    if _folder_of(model) is not None:
        return _does_not_load(model, error)
    return f"{model} is neither a folder here nor a name of a repository: check the path, or give OWNER/NAME."


def _gated(model, error):
    return f"{model} is open only to those who have asked: ask for it on its page, and log in with `hf auth login`."


def _no_repository(model, error):
    if get_token() is None:
        return (
            f"There is no folder and no public repository {model}: check the name; if it is private, log in with "
            "`hf auth login`, or set HF_TOKEN."
        )
    return (
        f"There is no folder and no repository {model} that your token may read: check the name, and whose token it "
        "is (`hf auth whoami`)."
    )


def _refused(model, error):
    if error.response.status_code != 401:
        return _unreachable(model, error)
    return (
        f"The Hub does not accept the token for reading {model}: log in again with `hf auth login`, or correct "
        "HF_TOKEN, which takes precedence; a public model needs no token."
    )


def _does_not_load(model, error):
    folder = _folder_of(model)
    try:
        if folder is not None:
            check_files(folder)
    except InputError as damage:
        return str(damage).replace(str(folder), str(model))
    return f"Cannot take model={str(model)!r}: {first_line(error).rstrip('.')}. {WHAT_IS_TAKEN}"


def _folder_of(model):
    """The folder of a model's files, for a repository in the cache; None if there is none."""
    if Path(model).is_dir():
        return Path(model)
    index = try_to_load_from_cache(str(model), INDEX_FILE) if on_the_hub(model) else None
    return Path(index).parent if isinstance(index, str) else None


def _unreachable(model, error):
    return (
        f"The Hub cannot be reached to read {model} ({first_line(error)}): check the network, and HF_ENDPOINT and "
        "HF_HUB_OFFLINE if they are set."
    )


# The first kind in this order that occurs among an error and its causes gives the reason.
EXPLANATIONS = {
    HFValidationError: _not_a_name,
    GatedRepoError: _gated,
    RepositoryNotFoundError: _no_repository,
    RemoteEntryNotFoundError: _does_not_load,  # a part in the index is missing
    HfHubHTTPError: _refused,
    LocalEntryNotFoundError: _unreachable,
    httpx2.TransportError: _unreachable,
    ConnectionError: _unreachable,
}
