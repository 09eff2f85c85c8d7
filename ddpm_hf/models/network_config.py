"""Classes and variance heads of networks: what their configs say, and how a trained network gets them."""

import difflib

import torch

from ddpm_hf.portable.config import own_value
from ddpm_hf.samples.kind import channels_of


def classes_of(config):
    """The number of classes and the null label, each None where the network has none."""
    num_classes = own_value(config, "num_classes")
    if num_classes is not None:
        return num_classes, num_classes
    return config.get("num_class_embeds"), None


def class_names_of(config):
    """{label: name} of the classes of a network or classifier, from its `id2label`; {} without names."""
    return {int(label): name for label, name in (own_value(config, "id2label") or {}).items()}


def has_head(config):
    """Whether a network has a variance head, by the number of its output channels."""
    return config.out_channels == 2 * channels_of(config)


def id2label_of(names):
    """The `id2label` of a config for names in the order of their labels, as transformers writes it; None for None."""
    return None if names is None else {str(label): name for label, name in enumerate(names)}


def to_labels(class_labels, names):
    """Labels in which the names of classes are replaced by their numbers.

    A string is first taken for a name and then for a number, because the names of classes may be numbers themselves.

    Args:
        class_labels: a label, a name, a list or tuple of these, or a tensor, or None.
        names (`dict`): the names of the classes by label, as from `class_names_of`.

    Raises:
        ValueError: for a name that no class has; the message has the nearest name.
    """
    if isinstance(class_labels, str):
        return _to_label(class_labels, names)
    if isinstance(class_labels, (list, tuple)):
        return [to_labels(each, names) for each in class_labels]
    return class_labels


def _to_label(name, names):
    labels = {each: label for label, each in names.items()}
    if name in labels:
        return labels[name]
    if name.isdecimal():
        return int(name)
    if not names:
        raise ValueError(f"class_labels={name!r} is the name of a class, and this model has no such names.")
    folded = {each.lower(): each for each in labels}
    nearest = difflib.get_close_matches(name.lower(), folded, n=1)
    advice = f"did you mean {folded[nearest[0]]!r}?" if nearest else f"the classes are {', '.join(labels)}."
    raise ValueError(f"class_labels={name!r} is not the name of a class: {advice}")


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
