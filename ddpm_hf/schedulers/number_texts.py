"""Arrays of float32 as base64 text, the form that long lists of numbers have in a config."""

import base64
import math

import numpy as np
import torch


def as_text(numbers):
    """A tensor of any shape as base64 of little-endian float32."""
    return base64.b64encode(numbers.to("cpu", torch.float32).contiguous().numpy().astype("<f4").tobytes()).decode()


def from_text(text, shape, what, advice):
    """The tensor that `as_text` wrote, float32.

    Args:
        shape (`tuple[int]`): its shape; None for a vector of any length.
        what, advice (`str`): what the numbers are, and what to do about wrong ones, for messages.

    Raises:
        ValueError: for another number of numbers, and for numbers that are not finite.
    """
    numbers = torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32))
    if shape is not None and len(numbers) != math.prod(shape):
        raise ValueError(f"{what} has {len(numbers)} numbers and needs {math.prod(shape)}: {advice}")
    if not numbers.isfinite().all():
        raise ValueError(f"{what} is not finite: {advice}")
    return numbers if shape is None else numbers.reshape(shape)
