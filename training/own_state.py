"""State of a run besides weights and optimizer, in one safetensors file: tensors, and the rest as JSON in its header.

Reading it cannot run code. Checkpoints of earlier versions have a pickle per part, read as plain data.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ddpm_hf.training.plain_reading import load_pickle, named_when_unreadable

FILE = "training_state.safetensors"
TENSOR = "tensor:"  # in the JSON, text with this prefix stands for the tensor of that name


def write_own_state(parts, folder):
    """Writes the state of each of `parts` by name; each `state_dict` holds tensors, numbers, text, lists and dicts."""
    tensors = {}
    described = {name: _without_tensors(part.state_dict(), name, tensors) for name, part in parts.items()}
    save_file(tensors, Path(folder) / FILE, {"state": json.dumps(described)})


def _without_tensors(value, name, tensors):
    """`value` with its tensors replaced by names, and moved to `tensors`."""
    if torch.is_tensor(value):
        tensors[name] = value.detach().cpu().contiguous()
        return TENSOR + name
    if isinstance(value, dict):
        return {key: _without_tensors(inner, f"{name}.{key}", tensors) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_tensors(inner, f"{name}.{number}", tensors) for number, inner in enumerate(value)]
    return value


def read_own_state(parts, folder):
    """Restores each of `parts` from `write_own_state`; every process must call this.

    Raises:
        InputError: if it cannot be read.
    """
    path = Path(folder) / FILE
    if path.exists():
        with named_when_unreadable(path), safe_open(path, "pt") as file:
            described = json.loads(file.metadata()["state"])
            states = {name: _with_tensors(described[name], file) for name in parts}
    else:
        states = {name: load_pickle(Path(folder) / f"custom_checkpoint_{i}.pkl") for i, name in enumerate(parts)}
    for name, part in parts.items():
        part.load_state_dict(states[name])


def _with_tensors(value, file):
    if isinstance(value, str) and value.startswith(TENSOR):
        return file.get_tensor(value.removeprefix(TENSOR))
    if isinstance(value, dict):
        return {key: _with_tensors(inner, file) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_tensors(inner, file) for inner in value]
    return value
