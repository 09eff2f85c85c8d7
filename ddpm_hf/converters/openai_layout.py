"""The form of a network of improved-diffusion and guided-diffusion, as its weights tell it."""

import re
from typing import NamedTuple

from ddpm_hf.converters.renaming import numbers_after
from ddpm_hf.errors import InputError

FAMILY = "improved-diffusion or guided-diffusion"
GROUPS, EPS = 32, 1e-5


class Layout(NamedTuple):
    """The form of a network, as its weights tell it."""

    widths: tuple
    layers: int
    attention: tuple  # for each level, whether its blocks have attention
    scale_shift: bool
    resnet_resampling: bool
    time_channels: int
    in_channels: int
    out_channels: int
    num_classes: int | None

    @property
    def is_upsampler(self):
        """Whether the network takes a small image in colour beside x_t."""
        return self.in_channels == 6

    @property
    def learns_sigma(self):
        """Whether the second half of the output channels is v, for the variance."""
        return self.out_channels == 2 * (3 if self.is_upsampler else self.in_channels)

    @property
    def attention_widths(self):
        """The widths of all attentions; the middle always has one."""
        return {width for width, has in zip(self.widths, self.attention, strict=True) if has} | {self.widths[-1]}


class Heads(NamedTuple):
    """The heads of all attentions: channels of each head, or how many there are; with neither there is one.

    The rows of qkv are in the order (q|k|v, head, channel) with `new_order`, and else (head, q|k|v, channel).
    """

    channels: int | None
    number: int | None
    new_order: bool

    def of(self, width):
        """How many an attention of some width has."""
        return self.number or width // (self.channels or width)


def read_layout(weights, layers=None):
    """The [`Layout`] of a network.

    Args:
        layers (`int`, *optional*): blocks of each level, which the weights of an encoder alone do not tell.
    """
    inputs = numbers_after(weights, r"input_blocks\.(\d+)\.")
    if inputs != list(range(len(inputs))):
        raise InputError(
            f"The checkpoint has no weights in input_blocks.{next(i for i, n in enumerate(inputs) if i != n)}, as "
            "with conv_resample=False, which no class here holds."
        )
    levels = _number_of_levels(weights, len(inputs), layers)
    layers, remainder = divmod(len(inputs), levels)
    if remainder or layers < 2:
        raise InputError(
            f"{len(inputs)} input blocks do not divide into {levels} levels: the options are those of another model, "
            f"or this is a variant of {FAMILY} that is not known here."
        )
    layers -= 1
    firsts = [1 + level * (layers + 1) for level in range(levels)]
    widths = tuple(weights[f"input_blocks.{first}.0.out_layers.3.weight"].shape[0] for first in firsts)
    rows = weights["input_blocks.1.0.emb_layers.1.weight"].shape[0]
    classes = weights.get("label_emb.weight")
    return Layout(
        widths=widths,
        layers=layers,
        attention=tuple(f"input_blocks.{first}.1.qkv.weight" in weights for first in firsts),
        scale_shift=rows == 2 * widths[0],
        resnet_resampling=not any(re.fullmatch(r"input_blocks\.\d+\.0\.op\.weight", name) for name in weights),
        time_channels=weights["time_embed.0.weight"].shape[1],
        in_channels=weights["input_blocks.0.0.weight"].shape[1],
        out_channels=weights["out.2.weight"].shape[0] if "out.2.weight" in weights else 0,
        num_classes=None if classes is None else classes.shape[0],
    )


def _number_of_levels(weights, inputs, layers):
    """Each level but the last changes the resolution once, by a layer that is the second or third of its block."""
    if layers is not None:
        return inputs // (layers + 1)
    last = r"output_blocks\.\d+\.[12]\.(conv|in_layers\.0)\.weight"
    return 1 + sum(bool(re.fullmatch(last, name)) for name in weights)
