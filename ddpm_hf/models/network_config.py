"""What the config of a network says of its samples and classes, whether it is a stock class or one of ours."""

from ddpm_hf.portable.config import PACKED_KEY


def sample_shape(config):
    """The shape of one sample, (C, H, W) for images and (d,) for points; None for sides that the config leaves open.

    A network of points has no `sample_size`.
    """
    size = config.get("sample_size", ())
    if size is None:
        return config["in_channels"], None, None
    return config["in_channels"], *((size, size) if isinstance(size, int) else size)


def is_of_points(config):
    return len(sample_shape(config)) == 1


def classes_of(config):
    """The number of classes and the null label, each None where the network has none."""
    num_classes = config.get("num_classes", config.get(PACKED_KEY, {}).get("num_classes"))
    if num_classes is not None:
        return num_classes, num_classes
    return config.get("num_class_embeds"), None
