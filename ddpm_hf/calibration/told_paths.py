"""What a network is told of the paths that it is followed along: their classes, condition images, or texts."""

from typing import NamedTuple

import torch

from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.image_labels import labels_of
from ddpm_hf.models.network_config import classes_of, is_told_text
from ddpm_hf.pipelines.conditioning import Conditioning, Guidance, encode_labels, with_unguided
from ddpm_hf.pipelines.prompts import Prompts
from ddpm_hf.samples.condition_images import DROPPED, condition_of, enlarged
from ddpm_hf.samples.condition_values import value_limits_of

NO_TEXTS = Prompts()


class Told(NamedTuple):
    """What a network is told of a number of paths.

    labels: one for all, one for each, or None: all classes in turn, if the network has classes. images: the condition
    images (N, C, h, w) in [-1, 1], before they are enlarged, on the host; None for a network that is told none. texts:
    the hidden states of the texts, [`Prompts`] of N; None for a network that is told none.
    """

    labels: object = None
    images: torch.Tensor | None = None
    texts: Prompts | None = None

    def of_batch(self, config, x, first, number, guidance_scale):
        """The [`Conditioning`] of the states x (B, C, *) from the path `first` on.

        Args:
            config: of the network.
            number (`int`): of all paths.
        """
        if self.texts is not None:
            states = selected(self.texts, slice(first, first + len(x))).states(guidance_scale, len(x))
            return Conditioning(states.to(x), Guidance(guidance_scale))
        labels = labels_in_turn(config, number) if self.labels is None else self.labels
        labels = encode_labels(config, labels_of(labels, first, len(x)), guidance_scale, len(x), x.device)
        images = None
        if self.images is not None:
            images = enlarged(self.images[first : first + len(x)].to(x.device), x.shape[2:])
            images = with_unguided(config, images, guidance_scale)
        return Conditioning(labels, Guidance(guidance_scale), image=images)


def selected(texts, places):
    """The [`Prompts`] of the texts at these places, with the same negative ones."""
    return texts._replace(prompt_embeds=texts.prompt_embeds[places])


def labels_in_turn(config, number):
    """The classes of a network in turn, for so many paths; None for a network without classes."""
    classes = classes_of(config)[0]
    return None if classes is None else [place % classes for place in range(number)]


class PathConditions(NamedTuple):
    """What a network is told of each path, by the number of the path.

    labels: of the paths from 0 on, as in [`Told`]. images: the condition images of the data, (M, C, h, w), which are
    told in turn; None for a network that is told none. image_labels: the classes of the data, for such a network, or
    the numbers of a network that is told these. texts: the hidden states of texts, [`Prompts`] of M and the negative
    ones of one, which are told in turn.
    """

    labels: object = None
    images: torch.Tensor | None = None
    image_labels: torch.Tensor | None = None
    texts: Prompts | None = None

    def of(self, first, number):
        """What is told of so many paths from number `first` on, [`Told`]."""
        if self.texts is not None:
            places = torch.arange(first, first + number) % len(self.texts.prompt_embeds)
            return Told(texts=selected(self.texts, places))
        of_data = [told for told in (self.images, self.image_labels) if told is not None]
        if not of_data:
            return Told(self.labels if first == 0 else None)
        places = torch.arange(first, first + number) % len(of_data[0])
        labels, images = (None if told is None else told[places] for told in (self.image_labels, self.images))
        return Told(labels, images)


def conditions_of_paths(config, images, labels, image_labels, texts=NO_TEXTS):
    """The [`PathConditions`] of a network.

    Args:
        config: of the network.
        images (`torch.Tensor`): the condition images of the data, or None.
        labels: of the paths. image_labels: of the data.
        texts ([`Prompts`]): the hidden states of texts, for a network that is told some.

    Raises:
        InputError: for a network that is told images, without data or without their classes, and for one that is told
            texts, without their hidden states.
    """
    if is_told_text(config) or any(each is not None for each in texts):
        return PathConditions(texts=_checked_texts(config, texts))
    is_told_images, is_told_values = condition_of(config) is not None, value_limits_of(config) is not None
    if not is_told_images and not is_told_values:
        return PathConditions(labels)
    if is_told_images and images is None:
        raise InputError("The network is told condition images: give the data from which they are made.")
    if classes_of(config)[0] is None and not is_told_values:
        return PathConditions(images=images)
    if image_labels is None or (images is not None and len(image_labels) != len(images)):
        what = "a number" if is_told_values else "images and their classes"
        raise InputError(f"The network is told {what}: give image_labels, one for each of the data.")
    return PathConditions(images=images, image_labels=torch.as_tensor(image_labels))


def _checked_texts(config, texts):
    """The [`Prompts`] on the host; InputError for what a network is not told, and for states of another shape."""
    if not is_told_text(config):
        raise InputError("prompt_embeds are for a network that is told a text, and this one is not: leave them out.")
    width = config["cross_attention_dim"]
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        states = getattr(texts, name)
        if states is None:
            raise InputError(
                f"The network is told a text: give {name}, hidden states (N, L, {width}) as the text encoder makes them, "
                "(1, L, D) of the empty text for the negative ones."
            )
        if states.ndim != 3 or states.shape[2] != width:
            raise InputError(
                f"{name} of shape {tuple(states.shape)} must be (N, L, {width}): hidden states of the width that the "
                "network attends to."
            )
    if len(texts.negative_prompt_embeds) != 1:
        raise InputError(
            f"negative_prompt_embeds has {len(texts.negative_prompt_embeds)} texts, and all paths are led away from one: "
            "give (1, L, D)."
        )
    return Prompts(
        prompt_embeds=texts.prompt_embeds.detach().float().cpu(),
        negative_prompt_embeds=texts.negative_prompt_embeds.detach().float().cpu(),
    )


def told_beside(config, samples):
    """Samples (B, C, H, W) with what a network is told beside them where nothing else is known.

    It is their own image in low resolution, or for pairs the grey of condition images that were dropped.
    """
    condition = condition_of(config)
    if condition is None:
        return samples
    if condition.low_resolution is not None:
        return torch.cat([samples, enlarged(condition.of_image(samples), samples.shape[2:])], dim=1)
    grey = samples.new_full((len(samples), condition.condition_channels, *samples.shape[2:]), DROPPED)
    return torch.cat([samples, grey], dim=1)
