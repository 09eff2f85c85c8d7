"""The embedding of class labels and augmentation levels together, which no stock class has."""

from contextlib import nullcontext

import torch
from diffusers.models.embeddings import TimestepEmbedding
from torch import nn


class LabelAndLevelEmbedding(nn.Module):
    """The sum of the embedding of a label and that of a level, which is embedded like a timestep.

    Args:
        num_labels (`int`): the null label included.
        time_proj (`nn.Module`): the network's own, which makes waves of a number.
        frequencies (`int`): the number of these waves.
        width (`int`): the width of the embedding.

    Shapes: (B, 2), float, each row a label and 1000 times a level (`condition_images.with_levels`), to (B, width).
    """

    def __init__(self, num_labels, time_proj, frequencies, width):
        super().__init__()
        self.labels = nn.Embedding(num_labels, width)
        self.levels = TimestepEmbedding(frequencies, width)
        self._waves = [time_proj]  # in a list, so that its weights are not saved a second time

    def forward(self, told):
        labels, levels = told.unbind(1)
        waves = self._waves[0](levels).to(self.labels.weight.dtype)
        return self.labels(labels.to(torch.int64)) + self.levels(waves)


def telling_levels(unet):
    """A context in which a stock network in half precision takes levels, whose waves it leaves in float32."""
    # The dtype of a network takes a walk over its modules, in each step.
    if getattr(unet.config, "class_embed_type", None) != "timestep":
        return nullcontext()
    dtype = unet.dtype
    if dtype not in (torch.float16, torch.bfloat16):
        return nullcontext()
    return torch.autocast(unet.device.type, dtype)
