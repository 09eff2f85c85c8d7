"""How a network is laid out for its device before it trains: memory format, compilation, checkpoints of activations."""

import torch

from ddpm_hf.errors import InputError

# What makes training faster, by device, as far as it was measured (docs/training.md, "Speed"). On a CPU neither option
# gains for these networks. GPUs have not been measured here, so nothing is chosen for them; benchmarks/gpu.py measures.
FASTER = {"cpu": ()}


def is_chosen(option, choice, device):
    """Whether an option that is `yes`, `no` or `auto` is on, on a device."""
    return choice == "yes" or (choice == "auto" and option in FASTER.get(device.type, ()))


def check_set_up(args, model, device):
    """Passes where `set_up_model` can do what `args` asks for.

    Raises:
        InputError: if this machine cannot compile, or this network has no activations to compute anew.
    """
    if is_chosen("compile", args.compile, device):
        check_compiler(device)
    if getattr(args, "gradient_checkpointing", False) and not model._supports_gradient_checkpointing:
        raise InputError(
            f"gradient_checkpointing is not there for a {type(model).__name__}, which takes little memory: leave it out."
        )


def set_up_model(model, args, device):
    """Does with `model` what `args` asks for, as `check_set_up` has passed it; its weights and their names stay."""
    if is_chosen("channels_last", args.channels_last, device):
        model.to(memory_format=torch.channels_last)
    if getattr(args, "gradient_checkpointing", False):  # networks that cannot have no such option
        model.enable_gradient_checkpointing()
    if is_chosen("compile", args.compile, device):
        model.compile()  # in place: names of weights, and what else knows the model, stay as they are


def check_compiler(device):
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except Exception as error:  # each backend has its own
        raise InputError(
            f"compile='yes' does not work on this machine ({' '.join(str(error).split())[:200]}): install a C++ compiler "
            "(CPU) or Triton (GPU), or leave it out."
        ) from error
