"""Keeps what was measured to be fastest, for each machine, network and batch size."""

import hashlib
import json
import platform
from pathlib import Path

import torch
from huggingface_hub import constants

from ddpm_hf.errors import InputError
from ddpm_hf.execution import Execution
from ddpm_hf.files import written_whole


def remembered(network, batch_size, device, measure):
    """The result of `measure()`, an [`Execution`], or what it was for this machine, network and batch size before."""
    return Execution(**_remembered(_key(network, batch_size, device), lambda: measure()._asdict()))


def remembered_gain(network, batch_size, device, measure):
    """The result of `measure()`, a number, as in `remembered`: how many times as fast bf16 trains the network."""
    return _remembered(f"gain of bf16 {_key(network, batch_size, device)}", measure)


def _remembered(key, measure):
    file = cache_file()
    known = _read(file)
    if key in known:
        return known[key]
    measured = measure()
    _write(file, _read(file) | {key: measured})
    return measured


def cache_file():
    return Path(constants.HF_HOME) / "ddpm_hf" / "execution.json"


def _key(network, batch_size, device):
    """A digest of what the speed of a network depends on."""
    shapes = {name: list(each.shape) for name, each in network.state_dict().items()}
    on_cpu = device.type == "cpu"
    processor = (
        torch.backends.cpu.get_cpu_capability() if on_cpu else torch.get_device_module(device).get_device_name()
    )
    machine = [
        platform.node(),
        platform.processor(),
        processor,
        device.type,
        torch.get_num_threads(),
        torch.__version__,
    ]
    return hashlib.sha256(json.dumps([shapes, batch_size, *machine]).encode()).hexdigest()[:32]


def _read(file):
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it is not there, or was cut off: it is measured again
        return {}


def _write(file, known):
    try:
        with written_whole(file) as aside:
            aside.write_text(json.dumps(known, indent=1), encoding="utf-8")
    except InputError:  # a home that cannot be written costs a measurement each time
        return
