"""Condition images in training: made of the data, noised, dropped at random, and told to the network."""

from typing import NamedTuple

import torch

from ddpm_hf.errors import InputError
from ddpm_hf.samples.condition_images import (
    DOWNSAMPLINGS,
    DROPPED,
    ConditionImage,
    augmented,
    condition_of,
    enlarged,
    with_levels,
)
from ddpm_hf.samples.condition_values import ABSENT_TOLD, absent_value_of, told_values, value_limits_of
from ddpm_hf.sizes import config_size, sides_of_size
from ddpm_hf.training.objectives import drop_labels


class Told(NamedTuple):
    """What an objective takes: the network as a function of x_t alone, x_0, (B, C, H, W), and the labels or None."""

    network: object
    images: torch.Tensor
    labels: torch.Tensor | None


class TaughtCondition(NamedTuple):
    """The condition images of a training.

    condition: what the config of the network says of them; dropout: the share of them that is dropped.
    """

    condition: ConditionImage
    dropout: float

    def tell(self, network, data, labels):
        """What is told of a batch of the data, in the range of the network, as [`Told`]; draws on its device."""
        x_0, image = self.condition.split(data)
        levels = None
        if self.condition.max_augmentation_level is not None:
            levels = self.condition.max_augmentation_level * torch.rand(len(image), device=image.device)
            image = augmented(image, levels, torch.randn_like(image))
        image = enlarged(image, x_0.shape[2:])
        if self.dropout:
            dropped = torch.rand(len(image), 1, 1, 1, device=image.device) < self.dropout
            image = image.masked_fill(dropped, DROPPED)
        return Told(with_condition(network, image), x_0, with_levels(labels, levels))


def learned_labels(batch, config, args):
    """What a batch's labels are for the network, (B,), or None without any.

    Numbers are scaled. Classes are replaced by the null label at random, and numbers by what is told for none.

    Args:
        config: of the network.
        args: `label_dropout` and `value_dropout`, the shares that are dropped, as in `TrainingArguments`.
    """
    labels, limits, absent = batch.get("labels"), value_limits_of(config), absent_value_of(config)
    if labels is None or limits is None:
        return None if labels is None else drop_labels(labels, args.label_dropout, config["num_classes"])
    told = told_values(labels, limits)
    return told if absent is None else drop_labels(told, args.value_dropout, absent)


def told(taught, network, data, labels):
    """What is told of a batch, as [`Told`].

    Args:
        taught ([`TaughtCondition`], *optional*): None for a network without condition images.
    """
    return Told(network, data, labels) if taught is None else taught.tell(network, data, labels)


def taught_condition(unet, args):
    """The [`TaughtCondition`] of a network and the options of its training, or None for a network without one."""
    condition = condition_of(unet.config)
    return None if condition is None else TaughtCondition(condition, args.condition_dropout)


def with_condition(network, image):
    """The network as a function of x_t, with the condition image in the size of x_t concatenated to it."""

    def call(x_t, *arguments, **keywords):
        return network(torch.cat([x_t, image], dim=1), *arguments, **keywords)

    return call


def check_condition_kept(args, unet, source):
    """Raises InputError where options or data ask for other conditions than the trained network of `init_from` has."""
    has = condition_of(unet.config)
    given = {name: getattr(args, name) for name in ("low_resolution", "max_augmentation_level")}
    for name, value in given.items():
        trained = None if has is None else getattr(has, name)
        if value is not None and (sides_of_size(value) if name == "low_resolution" else value) != trained:
            raise InputError(
                f"{name}={value} does not go with init_from={args.init_from!r}, whose network has {name}={trained}: "
                "leave it out, and the network keeps its own."
            )
    is_of_pairs = has is not None and has.low_resolution is None
    if is_of_pairs != (args.condition_column is not None):
        raise InputError(
            f"condition_column={args.condition_column!r} does not go with init_from={args.init_from!r}, whose network "
            f"{'is told the images of pairs: name their column' if is_of_pairs else 'is told none: leave it out'}."
        )
    if is_of_pairs and has.condition_channels != source.condition_channels:
        raise InputError(
            f"The network of init_from={args.init_from!r} is told images of {has.condition_channels} channel(s), and "
            f"those of condition_column={args.condition_column!r} have {source.condition_channels}."
        )
    learned = value_limits_of(unet.config)
    if (learned is None) != (args.value_column is None):
        raise InputError(
            f"value_column={args.value_column!r} does not go with init_from={args.init_from!r}, whose network "
            f"{'is told no numbers: leave it out' if learned is None else 'is told some: name their column'}."
        )
    if args.value_range is not None and args.value_limits() != learned:
        raise InputError(
            f"value_range={args.value_range} does not go with init_from={args.init_from!r}, whose network was taught "
            f"numbers from {learned[0]:g} to {learned[1]:g}: leave it out."
        )
    if args.value_dropout and absent_value_of(unet.config) is None:
        raise InputError(
            f"value_dropout={args.value_dropout} does not go with init_from={args.init_from!r}, whose network was "
            "always told a number: leave it out."
        )
    if args.condition_dropout and (has is None or not has.condition_dropout):
        raise InputError(
            f"condition_dropout={args.condition_dropout} does not go with init_from={args.init_from!r}, whose "
            "network was trained without: leave it out."
        )


def network_options(args, source):
    """The options of a new network for the condition images and the dropped numbers that a training asks for.

    Args:
        source: the opened data; pairs have the condition images themselves.
    """
    numbers = {"condition_value_absent": ABSENT_TOLD} if args.value_dropout else {}
    if args.low_resolution is None and args.condition_column is None:
        return numbers
    low_resolution = args.low_resolution and {
        "in_channels": 2 * source.channels,
        "condition_channels": source.channels,
        "low_resolution": config_size(args.low_resolution),
        "downsampling": DOWNSAMPLINGS[0],
    }
    return {
        **numbers,
        **(low_resolution or {}),
        "max_augmentation_level": args.max_augmentation_level,
        "condition_dropout": args.condition_dropout > 0,
    }
