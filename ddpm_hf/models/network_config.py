"""What the config of a network says of its classes, whether it is a stock class or one of ours."""

from ddpm_hf.portable.config import PACKED_KEY


def classes_of(config):
    """The number of classes and the null label, each None where the network has none."""
    num_classes = config.get("num_classes", config.get(PACKED_KEY, {}).get("num_classes"))
    if num_classes is not None:
        return num_classes, num_classes
    return config.get("num_class_embeds"), None
