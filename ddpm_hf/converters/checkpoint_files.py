"""The files that other codebases write: their weights, averaged where there are such, and never their code."""

import pickle
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ddpm_hf.errors import InputError
from ddpm_hf.number_checks import check_all_finite
from ddpm_hf.places import check_local_place

WEIGHTS = ("ema", "raw")
# What torch raises for a damaged file, and for one that it did not write.
UNREADABLE = (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError)
WHAT_IS_READ = "Give a checkpoint of PyTorch (.pt, .pth, .ckpt, .bin) or a .safetensors file."


class Checkpoint(NamedTuple):
    """The weights of one network by their names in its code, and which they are: `ema`, `raw`, or `only`."""

    weights: dict
    kind: str


def read_checkpoint(path, weights=None):
    """The [`Checkpoint`] of a file; tensors of floats become float32.

    Args:
        path: the file.
        weights (`str`, *optional*): `"ema"` or `"raw"`; by default the averaged weights, and the raw ones where there
            are no others.

    Raises:
        InputError: for what is no checkpoint, is damaged, holds more than weights, or lacks the weights asked for.
    """
    if weights is not None and weights not in WEIGHTS:
        raise InputError(f"weights={weights!r} is not one of {', '.join(map(repr, WEIGHTS))}.")
    check_local_place(path)
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder. {WHAT_IS_READ}")
    found = weight_sets(_content(path))
    kind = _chosen(path, found, weights)
    named = {_plain(name): tensor for name, tensor in found[kind].items()}
    return Checkpoint({name: _checked(path, name, tensor) for name, tensor in named.items()}, kind)


def weight_sets(content):
    """{kind: {name: tensor}} of what a checkpoint holds; {} if no code known here writes such a content."""
    for layout in LAYOUTS:
        found = layout(content)
        if found is not None:
            return {kind: weights for kind, weights in found.items() if weights}
    return {}


# Layouts: each returns None for what is not its own ------------------------------------------------------------------


def _of_ddim(content):
    """A list of weights, optimizer, epoch, step and, last, averaged weights."""
    if isinstance(content, list) and content and _are_weights(content[0]):
        averaged = content[4] if len(content) > 4 and _are_weights(content[4]) else {}
        return {"raw": content[0], "ema": averaged}
    return None


def _of_score_sde(content):
    """Weights by name, and averages in a list without names: of all parameters that are trained, in their order."""
    averages = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(averages, dict) or "shadow_params" not in averages:
        return None
    raw = content["model"] if _are_weights(content.get("model")) else {}
    trained = [name for name in raw if not re.search(r"(^|\.)sigmas$|all_modules\.0\.W$", name)]
    shadows = averages["shadow_params"]
    if raw and len(shadows) != len(trained):
        raise InputError(
            f"The checkpoint has {len(shadows)} averaged weights for {len(trained)} trained ones, so their names are "
            "not known: take the raw ones (--weights raw)."
        )
    return {"raw": raw, "ema": raw and raw | dict(zip(trained, shadows, strict=True))}


def _of_lucidrains(content):
    """Two networks within their diffusion processes, the second one averaged."""
    averages = content.get("ema") if isinstance(content, dict) else None
    prefix = "ema_model."
    if not _are_weights(averages) or not any(name.startswith(prefix) for name in averages):
        return None
    averaged = {name.removeprefix(prefix): value for name, value in averages.items() if name.startswith(prefix)}
    return {"raw": content["model"] if _are_weights(content.get("model")) else {}, "ema": averaged}


def _of_named_parts(content):
    """Weights under a name that many trainers use."""
    names = ("state_dict", "model", "model_state_dict", "ema", "ema_state_dict")
    if not isinstance(content, dict) or _are_weights(content):
        return None
    found = {("ema" if "ema" in name else "raw"): content[name] for name in names if _are_weights(content.get(name))}
    return found or None


def _of_weights(content):
    return {"only": content} if _are_weights(content) else None


LAYOUTS = (_of_weights, _of_ddim, _of_score_sde, _of_lucidrains, _of_named_parts)


def _are_weights(content):
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(each, torch.Tensor) for each in content.values())
    )


# Reading -------------------------------------------------------------------------------------------------------------


def _content(path):
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():  # of pickles that torch did not write, which it then refuses
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise InputError(_why_not(path, str(error))) from error


def _why_not(path, message):
    code = re.search(r"GLOBAL ([\w.]+)", message)
    if code is not None:
        return (
            f"{path} holds {code[1]} besides weights, and reading that could run code, so it is not read: save its "
            "state dict alone (torch.save(model.state_dict(), FILE)) where you trust it."
        )
    return f"{path} is no checkpoint, or is damaged or cut off: fetch it again. {WHAT_IS_READ}"


def _chosen(path, found, weights):
    if not found:
        raise InputError(f"{path} holds no weights, neither averaged nor raw. {WHAT_IS_READ}")
    if "only" in found:
        return "only"
    kind = weights or next(each for each in WEIGHTS if each in found)
    if kind not in found:
        raise InputError(f"{path} has no {kind} weights: take --weights {next(iter(found))}.")
    return kind


def _plain(name):
    """The name of a weight without what wrappers for several devices put before it."""
    return name.removeprefix("module.")


def _checked(path, name, tensor):
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    check_all_finite(
        tensor,
        lambda *place: f"{path}: the weight {name}{list(place)}",
        "Its training diverged, or the file is damaged: take another checkpoint.",
    )
    return tensor
