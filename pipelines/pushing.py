"""`push_to_hub` of pipelines, which works like `ddpm-hf push` if the package is installed."""

import importlib
import tempfile
from pathlib import Path

from diffusers import DiffusionPipeline
from diffusers.utils import logging

logger = logging.get_logger(__name__)

WITHOUT_PACKAGE = (
    "ddpm_hf is not installed, so that %s gets the model card of diffusers, which is to be filled in by hand. "
    "Install ddpm_hf, as its README says, and push again for the whole card."
)


def push_pipeline(
    pipeline,
    repo_id,
    commit_message=None,
    private=None,
    token=None,
    create_pr=False,
    safe_serialization=True,
    variant=None,
    subfolder=None,
):
    """Uploads a pipeline in one commit, with the model card and after the checks of `ddpm-hf push`.

    It takes the arguments of [`DiffusionPipeline.push_to_hub`]. Without the package it warns and calls that method.

    Returns:
        `str`: the address of the commit, or of the pull request.

    Raises:
        ValueError: for a `variant` or a `subfolder`, which name parts of a repository.
    """
    if variant is not None or subfolder is not None:
        raise ValueError(
            f"variant={variant!r} and subfolder={subfolder!r} are parts of a repository, and this pushes whole ones: "
            "leave them out, or write a folder with `save_pretrained` and upload that with `hf upload`."
        )
    pushing = {"private": private, "token": token, "create_pr": create_pr}
    if _full_push() is None:
        logger.warning(WITHOUT_PACKAGE, repo_id)
        return DiffusionPipeline.push_to_hub(pipeline, repo_id, commit_message, **pushing)
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder, safe_serialization)
        return push_saved(pipeline, folder, repo_id, commit_message, **pushing)


def save_and_push(pipeline, folder, repo_id=None, commit_message=None, **options):
    """Saves a pipeline and pushes it like `push_pipeline`: `save_pretrained(folder, push_to_hub=True)`.

    Args:
        repo_id (`str`, *optional*): by default the name of the folder.
        options: `private`, `token` and `create_pr` of `push_pipeline`, and arguments of `save_pretrained`.
    """
    repo_id = repo_id or Path(folder).name
    pushing = {name: options.pop(name) for name in ("private", "token", "create_pr") if name in options}
    if _full_push() is None:
        logger.warning(WITHOUT_PACKAGE, repo_id)
        pushing |= {"push_to_hub": True, "repo_id": repo_id, "commit_message": commit_message}
        DiffusionPipeline.save_pretrained(pipeline, str(folder), **pushing, **options)
    else:
        pipeline.save_pretrained(folder, **options)
        push_saved(pipeline, folder, repo_id, commit_message, **pushing)


def push_saved(pipeline, folder, repo_id, commit_message, **pushing):
    """Pushes the folder of a pipeline and returns the address."""
    message = commit_message or f"Upload {type(pipeline).__name__}"
    return _full_push()(folder, repo_id, message=message, **pushing).url


def _full_push():
    """The package's `push_folder`; None without the package."""
    try:
        return importlib.import_module("ddpm_hf.hub.push").push_folder
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] != "ddpm_hf":
            raise
        return None
