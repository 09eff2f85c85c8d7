"""Kinds of samples that models make and learn from, behind one interface (`kind.SampleKind`)."""

from ddpm_hf.samples.images import Images
from ddpm_hf.samples.kind import sides_of
from ddpm_hf.samples.latents import Latents, is_of_latents
from ddpm_hf.samples.points import Points


def kind_of(config, levels=None):
    """The kind of a network's samples, a [`SampleKind`]; a network of points has no `sample_size`.

    Args:
        config: the config of the network, or a dictionary of its `in_channels` and `sample_size`.
        levels (`int`, *optional*): number of values that the data can take; the kind's own by default.

    Raises:
        ValueError: for `levels` of continuous data.
    """
    if is_of_latents(config):
        return Latents(config, levels)
    return (Images if sides_of(config) else Points)(config, levels)


def kind_of_batch(batch):
    """The kind of samples of a tensor (N, C, *)."""
    return kind_of({"in_channels": batch.shape[1], "sample_size": tuple(batch.shape[2:])})
