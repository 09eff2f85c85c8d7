"""The devices of this machine, and the choice of one."""

import torch

from ddpm_hf.errors import InputError


def open_device(name=None):
    """The `torch.device` of that name; by default the fastest device.

    Raises:
        InputError: for a device that this machine, or this build of torch, does not have.
    """
    fastest = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    if name is None:
        return fastest
    present = ["cpu"]
    if fastest.type != "cpu":
        present += [fastest.type, *(f"{fastest.type}:{i}" for i in range(torch.accelerator.device_count()))]
    # accelerate calls the CPU of one of several processes cpu:0.
    if str(name) not in [*present, "cpu:0"]:
        raise InputError(f"The device {name} is not there: torch {torch.__version__} finds {', '.join(present)} here.")
    return torch.device(name)
