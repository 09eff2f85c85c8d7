"""A pipeline folder, or repository: what is in it, how it loads, and which of its files are fit to be shared."""

import inspect
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import get_token
from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects

from ddpm_hf.errors import InputError
from ddpm_hf.finite import check_all_finite
from ddpm_hf.hub.reading import WHAT_IS_TAKEN, read_index, reading
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline

# What only a run itself needs, and what is being written.
LEFT_OUT = ("checkpoints/**", "logs/**", "*.tmp", "*.tmp/**", "**/__pycache__/**", *DEFAULT_IGNORE_PATTERNS)
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
# Of the Hub's documentation on storage limits (2025).
LARGEST_FILE = 50 * 10**9
# Secrets are looked for in files up to this size; larger ones are weights.
LARGEST_TEXT = 10 * 2**20


def files_to_share(folder):
    """{path in the repository: `Path`}, all that a pipeline folder shares."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(Path(folder).rglob("*")) if path.is_file()}
    return {name: paths[name] for name in filter_repo_objects(paths, ignore_patterns=list(LEFT_OUT))}


def check_model_folder(folder):
    """Passes a folder that loads as a pipeline and has nothing in it that should not be shared.

    Raises:
        InputError: for anything else: what it is, and what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder: give a pipeline folder, as training or `save_pretrained` writes it."
        )
    read_index(folder)
    for name, path in files_to_share(folder).items():
        _check_file(folder, name, path)
    _check_loads(folder)


def _check_file(folder, name, path):
    if path.suffix in PICKLES:
        raise InputError(
            f"{folder} has {name}, a pickle file, which runs code when it is loaded: save the weights as safetensors "
            "(`pipeline.save_pretrained(folder)`), or move the file away."
        )
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise InputError(
            f"{folder} has {name} of {size / 1e9:.1f} GB, and the Hub takes files up to {LARGEST_FILE / 1e9:.0f} GB: save the "
            'weights in parts (`pipeline.save_pretrained(folder, max_shard_size="10GB")`).'
        )
    token = get_token()
    if token and size <= LARGEST_TEXT and token.encode() in path.read_bytes():
        raise InputError(f"{folder} has {name}, which contains your token of the Hub: take it out of that file.")


def _check_loads(folder):
    try:
        ours = _components(folder) <= set(inspect.signature(GaussianDiffusionPipeline.__init__).parameters)
        (GaussianDiffusionPipeline if ours else DiffusionPipeline).from_pretrained(folder)
    # Whatever a loader raises (a file that is missing, cut off, or of another size), to the user it is one thing.
    except Exception as error:
        raise InputError(
            f"{folder} does not load as a pipeline ({str(error).strip().splitlines()[0]}): nobody could use it; write it again "
            "with `save_pretrained`."
        ) from error


def load_pipeline(model, **parts):
    """The [`GaussianDiffusionPipeline`] of a folder or a Hub id.

    Args:
        parts: components that it is to have, whatever is there: `classifier=`.

    Raises:
        InputError: for what is no DDPM of images, and for a repository that cannot be read.
        ValueError: for weights that are not finite.
    """
    others = _components(model) - {"unet", "scheduler", "classifier"}
    if others:
        raise InputError(
            f"Cannot take model={str(model)!r}: it has a {' and a '.join(sorted(others))} too, so its network does not see "
            f"images. {WHAT_IS_TAKEN}"
        )
    with reading(model):
        pipeline = GaussianDiffusionPipeline.from_pretrained(model, **parts)
    networks = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    check_weights_finite(model, networks)
    return pipeline


def check_weights_finite(model, networks):
    """Passes where all weights are finite.

    Args:
        model (`str`): whose weights they are, for the message.
        networks (`dict[str, torch.nn.Module]`): by the names of the pipeline's parts.

    Raises:
        ValueError: with the name of the first weight that is not.
    """
    for part, network in networks.items():
        for name, weight in network.state_dict().items():
            check_all_finite(
                weight,
                lambda *place, name=name, part=part: f"{model}: the weight {name}{list(place)} of its {part}",
                "Its training diverged, or the file is damaged: take an earlier checkpoint, or train it again.",
            )


def _components(model):
    """The names of a pipeline's parts, as its index has them."""
    return {name for name in read_index(model) if not name.startswith("_")}
