"""Prepares a network for its device: memory format, compilation, gradient checkpointing."""

import torch

from ddpm_hf.errors import InputError
from ddpm_hf.execution import can_compile

# Options that make training faster, by device, as measured (docs/training.md, "Speed"). On CPUs neither option helps
# these networks. GPUs have not been measured, so nothing is chosen for them; benchmarks/gpu.py measures.
FASTER = {"cpu": ()}


def is_chosen(option, choice, device):
    """Whether an option with the value `yes`, `no` or `auto` is on for a device."""
    return choice == "yes" or (choice == "auto" and option in FASTER.get(device.type, ()))


def check_set_up(args, model):
    """Checks that `set_up_model` can apply the options of `args`.

    Raises:
        InputError: if this network does not support gradient checkpointing.
    """
    if getattr(args, "gradient_checkpointing", False) and not model._supports_gradient_checkpointing:
        raise InputError(
            f"gradient_checkpointing is not there for a {type(model).__name__}, which takes little memory: leave it "
            "out."
        )


def set_up_model(model, args, device):
    """Applies the options of `args`, checked by `check_set_up`, to `model`; its weights and their names stay."""
    if is_chosen("channels_last", args.channels_last, device):
        model.to(memory_format=torch.channels_last)
    if getattr(args, "gradient_checkpointing", False):  # networks without support have no such option
        model.enable_gradient_checkpointing()
    if is_chosen("compile", args.compile, device) and can_compile(device):
        model.compile()  # in place, so that names of weights and references to the model stay valid
