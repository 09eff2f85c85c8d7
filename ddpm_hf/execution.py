"""How this machine calls a network fastest: precision of the weights, order in memory, compiled or not.

`auto` is decided by a measurement of a second or two, which `execution_cache` keeps.
"""

import copy
import functools
import math
import time
from typing import NamedTuple

import torch
from diffusers.utils import logging
from torch import nn

from ddpm_hf.errors import InputError

logger = logging.get_logger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# What `auto` tries beside float32; on CPUs float16 has less range and is no faster.
TRIED = {"cpu": ("bf16",), "cuda": ("bf16", "fp16"), "mps": ("fp16",)}
# Turns of a measurement, and the seconds after which no further turn begins.
TURNS, MEASURING_SECONDS = 3, 2.0
# Half precision rounds, which a smaller gain is not worth.
WORTHWHILE_GAIN = 1.1


class ExecutionChoice(NamedTuple):
    """What is chosen of an [`Execution`]; "auto" leaves it open."""

    precision: str = "auto"
    channels_last: str = "auto"
    compile: str = "auto"


class Execution(NamedTuple):
    """How a network is called; `precision` is None for a network that stays in its own."""

    precision: str | None = "fp32"
    channels_last: bool = False
    compiled: bool = False

    @property
    def text(self):
        """The choice in words, such as "bf16 weights, channels last"."""
        parts = {"channels last": self.channels_last, "compiled": self.compiled}
        weights = f"{self.precision or 'unchanged'} weights"
        return ", ".join([weights, *(name for name, is_so in parts.items() if is_so)])

    @property
    def is_plain(self):
        """Whether a network is called as it was made."""
        return self.precision in (None, "fp32") and not (self.channels_last or self.compiled)

    def for_what_is_open_in(self, options):
        """The [`ExecutionChoice`] of the options, with this execution's part for each "auto"."""
        own = (self.precision, *("yes" if is_so else "no" for is_so in (self.channels_last, self.compiled)))
        given = (getattr(options, name) for name in ExecutionChoice._fields)
        return ExecutionChoice(*(mine if value == "auto" else value for value, mine in zip(given, own, strict=True)))

    def apply(self, network):
        """Changes a network in place; its class and the names of its weights stay."""
        if self.precision is not None:
            # `ModelMixin.to` warns of layers to keep in float32 where there are none.
            nn.Module.to(network, dtype=DTYPES[self.precision])
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        if self.compiled:
            network.compile()


def can_change(network):
    """Whether a network may run in another precision: it has convolutions, which is where half precision gains."""
    parameters = [*network.parameters()]
    is_single = all(each.dtype == torch.float32 for each in parameters)
    return is_single and any(isinstance(module, nn.Conv2d) for module in network.modules())


def check_precision(precision, device):
    """Checks that a device computes convolutions in a precision.

    Raises:
        InputError: with the precisions in which it does.
    """
    if not _computes(precision, device):
        able = [each for each in DTYPES if _computes(each, device)]
        raise InputError(
            f"precision={precision!r} cannot be computed on {device} with torch {torch.__version__}: take "
            f"{' or '.join(able)}."
        )


def fastest_execution(network, call, device, precision="auto", channels_last="auto"):
    """The fastest [`Execution`] of the choices that are left open, and the calls a second of each that was tried.

    Args:
        network (`torch.nn.Module`): in float32; it is copied for each choice, and stays as it is.
        call: a function of a network that calls it once, with inputs of its precision, and waits for the result.
        device (`torch.device`): where both are.
        precision: "auto", or one of `DTYPES`.
        channels_last: "auto", "yes" or "no".
    """
    candidates = _candidates(device, precision, channels_last)
    if len(candidates) == 1:
        return candidates[0], {}
    seconds = _measure({each: _as(each, network) for each in candidates}, call)
    fastest = min(seconds, key=seconds.get)
    plain = candidates[0]
    if seconds[plain] < WORTHWHILE_GAIN * seconds[fastest]:
        fastest = plain
    return fastest, {each: 1 / value for each, value in seconds.items()}


def compiled_if_faster(execution, network, call):
    """The [`Execution`] compiled, if that works here and is faster; the arguments are those of `fastest_execution`."""
    compiled = execution._replace(compiled=True)
    try:
        seconds = _measure({each: _as(each, network) for each in (execution, compiled)}, call)
    except Exception as error:  # each backend of torch.compile has its own errors
        logger.warning(f"The network is not compiled: {' '.join(str(error).split())[:200]}")
        return execution
    return compiled if seconds[execution] > WORTHWHILE_GAIN * seconds[compiled] else execution


def _candidates(device, precision, channels_last):
    """The choices that are left open, the plainest first."""
    if precision == "auto":
        halves = [each for each in TRIED.get(device.type, ()) if gains(each, device)]
        precisions = ["fp32", *halves]
    else:
        precisions = [precision]
    layouts = {"auto": (False, True), "yes": (True,), "no": (False,)}[channels_last]
    return [Execution(each, layout) for each in precisions for layout in layouts]


def _as(execution, network):
    changed = copy.deepcopy(network)
    execution.apply(changed)
    return changed


def _measure(networks, call):
    """The seconds of a call of each network, the least of some turns after a call that prepares it."""
    seconds = dict.fromkeys(networks, math.inf)
    for network in networks.values():
        call(network)
    begun = time.perf_counter()
    for _ in range(TURNS):
        for execution, network in networks.items():
            seconds[execution] = min(seconds[execution], _seconds_of(lambda network=network: call(network)))
        if time.perf_counter() - begun > MEASURING_SECONDS:
            break
    return seconds


def _seconds_of(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


# What a device can do ----------------------------------------------------------------------------------------------


@functools.cache
def can_compile(device):
    """Whether torch.compile works on a device; a warning says once why not."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except Exception as error:  # each backend has its own errors
        logger.warning(
            f"The network is not compiled, for torch.compile does not work on {device} here "
            f"({' '.join(str(error).split())[:200]}); it needs a C++ compiler (CPU) or Triton (GPU)."
        )
        return False
    return True


def _computes(precision, device):
    try:
        _convolve(DTYPES[precision], device)
    except (RuntimeError, TypeError):
        return False
    return True


def gains(precision, device):
    """Whether a convolution is faster in a precision; where a processor emulates it, it is many times slower."""
    if not _computes(precision, device):
        return False
    single, half = (
        min(_seconds_of(lambda dtype=dtype: _convolve(dtype, device)) for _ in range(TURNS))
        for dtype in (torch.float32, DTYPES[precision])
    )
    return half < single


def _convolve(dtype, device):
    x = torch.ones(4, 64, 32, 32, dtype=dtype, device=device)
    weight = torch.ones(64, 64, 3, 3, dtype=dtype, device=device)
    # Reading a number waits for the device.
    return torch.nn.functional.conv2d(x, weight, padding=1).sum(dtype=torch.float32).item()
