"""Numbers that a network is told of its samples, instead of classes: an age, a temperature, an angle.

A network learns them from a column of the data. They are embedded like a timestep, by the stock U-Net's
`class_embed_type="timestep"`: the least number of the data is told as 0, and the greatest as 1000.
"""

import torch
from diffusers.utils import logging

from ddpm_hf.portable.config import own_value

value_logger = logging.get_logger(__name__)

# Embeddings of time are made for numbers from 0 to this.
LARGEST_TOLD = 1000
# What a network is told in the place of a number that was dropped; no number of the data is told as this.
ABSENT_TOLD = -1000.0


def value_limits_of(config):
    """(least, greatest) of the numbers that a network is told, or None for a network that is told none."""
    limits = own_value(config, "condition_value_range")
    return None if limits is None else tuple(limits)


def absent_value_of(config):
    """What a network was told where the number was dropped in training; None for one that was always told a number."""
    return own_value(config, "condition_value_absent")


def told_values(values, limits):
    """Numbers (N,) as the network is told them, float32, within the limits in [0, 1000].

    Args:
        values (`torch.Tensor`): of the data, or wanted for samples.
        limits (`tuple[float, float]`): the least and the greatest.
    """
    low, high = limits
    return ((values.double() - low) * (LARGEST_TOLD / (high - low))).float()


def checked_values(values, limits):
    """Numbers for samples, one or (B,), as float64 on the host; ValueError for none or not finite ones."""
    low, high = limits
    how = f"This model is told a number for each sample: give class_labels, or --value, such as {low:g} to {high:g}"
    if values is None:
        raise ValueError(f"{how}.")
    try:
        numbers = torch.as_tensor(values, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{how}; {values!r} is none.") from error
    if numbers.ndim > 1 or numbers.numel() == 0 or not numbers.isfinite().all():
        raise ValueError(f"{how}; there is {values}.")
    return numbers


def note_untaught(values, limits):
    """Warns of numbers that are not within those of the training."""
    (low, high), numbers = limits, checked_values(values, limits)
    if numbers.min() < low or numbers.max() > high:
        value_logger.warning(f"The model was taught numbers from {low:g} to {high:g}, and is told others: {values}.")
