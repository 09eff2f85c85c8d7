"""Classes and variance heads of networks: what their configs say, and how a trained network gets them."""

import torch

from ddpm_hf.portable.config import own_value
from ddpm_hf.samples.kind import channels_of


def classes_of(config):
    """The number of classes and the null label, each None where the network has none."""
    num_classes = own_value(config, "num_classes")
    if num_classes is not None:
        return num_classes, num_classes
    return config.get("num_class_embeds"), None


def is_told_text(config):
    """Whether a network attends to the hidden states of a text."""
    return config.get("cross_attention_dim") is not None


def has_head(config):
    """Whether a network has a variance head, by the number of its output channels."""
    return config.out_channels == 2 * channels_of(config)


def with_weights_of(unet, model, output_layer, variance_head=None, num_classes=None):
    """A copy of a trained network that has a variance head or classes more, with its weights.

    The rows of the head and the embedding of the null label begin at 0, so that the prediction without a class stays
    as it was.

    Args:
        unet: the trained network.
        model: the copy, with initial weights.
        output_layer (`str`): the layer whose rows are the output channels.
        variance_head (`str`), num_classes (`int`): what was added, None for nothing.
    """
    weights = {name: weight.clone() for name, weight in unet.state_dict().items()}
    if variance_head is not None:
        for name in (f"{output_layer}.weight", f"{output_layer}.bias"):
            weights[name] = torch.cat([weights[name], torch.zeros_like(weights[name])])
    if num_classes is not None:
        weights["class_embedding.weight"] = model.class_embedding.weight.detach().clone()
        weights["class_embedding.weight"][num_classes] = 0
    model.load_state_dict(weights, assign=True)
    return model.train(unet.training)
