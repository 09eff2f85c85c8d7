"""Features that need no network: the pixels of images, and the moments of their channels."""

from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.features import FeatureNetwork
from ddpm_hf.evaluation.measures.channels import channel_features

PIXELS, CHANNELS = "pixels", "channels"


def pixel_features():
    """All pixels as numbers in [0, 1], (B, C H W)."""
    return FeatureNetwork(PIXELS, "none", "levels over 255", lambda images: (images.flatten(1).float() / 255, None))


def channel_network():
    """The mean and the mean square of each channel of an image, (B, 2C)."""
    return FeatureNetwork(CHANNELS, "none", "levels 0 to 255", lambda images: (channel_features(images).float(), None))


def check_same_shape(network, shape, reference_shape):
    """Raises InputError for pixels of images of two shapes (C, H, W), which cannot be compared."""
    same = shape == reference_shape if network == PIXELS else shape[0] == reference_shape[0]
    if not same:
        first, second = ("x".join(map(str, each)) for each in (shape, reference_shape))
        raise InputError(
            f"Samples of {first} and reference images of {second} (channels x height x width) have no {network} in common: "
            "give images of one shape."
        )
