"""Kinds of samples that models make and learn from, behind one interface (`kind.SampleKind`)."""

from ddpm_hf.samples.images import Images
from ddpm_hf.samples.latents import Latents
from ddpm_hf.samples.points import Points

# Latents have the sides of images too, so they are asked first.
KINDS = (Latents, Images, Points)


def kind_of(config, levels=None):
    """The kind of a network's samples, a [`SampleKind`]: the first whose `is_of` knows the config.

    Args:
        config: the config of the network, or a dictionary of its `in_channels` and `sample_size`.
        levels (`int`, *optional*): number of values that the data can take; the kind's own by default.

    Raises:
        ValueError: for `levels` of continuous data.
    """
    return next(kind for kind in KINDS if kind.is_of(config))(config, levels)


def kind_of_batch(batch):
    """The kind of samples of a tensor (N, C, *)."""
    return kind_of({"in_channels": batch.shape[1], "sample_size": tuple(batch.shape[2:])})
