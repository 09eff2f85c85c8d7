"""Networks whose features sets of images are compared by."""

from pathlib import Path

import torch

from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.inception import inception_class

INCEPTION = "inception"


def load_features(name, device="cpu"):
    """A function from uint8 images (B, C, H, W) to features (B, D), float32, on the device.

    Args:
        name: a folder of a `transformers` image classifier, whose features are the inputs of its last layer (pooled
            over the image), or "inception", torch-fidelity's Inception-v3 (pool3, D = 2048), in which FID is measured.
        device: the device of the network.

    Raises:
        InputError: if the network cannot be found; the message says how to get one.
    """
    return _inception(device) if name == INCEPTION else _classifier(name, device)


def _classifier(folder, device):
    if not (Path(folder) / "config.json").is_file():
        raise InputError(
            f"features={str(folder)!r} holds no config.json: give a folder with an image classifier of transformers, "
            "`python -m ddpm_hf.evaluation.feature_network FOLDER` trains a small one, or 'inception'."
        )
    # The import takes seconds, and only this function needs it.
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    try:
        processor = AutoImageProcessor.from_pretrained(folder)
        network = AutoModelForImageClassification.from_pretrained(folder).eval().to(device)
    except (OSError, ValueError) as error:
        raise InputError(f"features={str(folder)!r} cannot be read as an image classifier: {error}") from error
    channels = getattr(network.config, "num_channels", 3)
    last_layer = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)][-1]
    seen = []
    last_layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    @torch.no_grad()
    def features(images):
        images = _with_channels(images, channels)
        pixels = processor(images.cpu().numpy(), return_tensors="pt", input_data_format="channels_first")
        network(pixels["pixel_values"].to(device))
        return seen.pop().float()

    return features


def _inception(device):
    network_class = inception_class()
    try:
        network = network_class("inception-v3-compat", ["2048"]).eval().to(device)
    except OSError as error:
        raise InputError(
            f"The weights of torch-fidelity's Inception cannot be read ({error}): it downloads them once, or takes them "
            "from the cache of torch.hub."
        ) from error

    @torch.no_grad()
    def features(images):
        return network(_with_channels(images, 3).to(device))[0].float()

    return features


def _with_channels(images, channels):
    """The images with the channels of the network: a grey channel is repeated for a network of colours."""
    if images.shape[1] in (1, channels):
        return images.expand(-1, channels, -1, -1)
    raise InputError(
        f"Images of {images.shape[1]} channels do not fit a feature network for {channels}: choose another."
    )
