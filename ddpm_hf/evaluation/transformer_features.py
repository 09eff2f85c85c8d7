"""Feature networks of transformers: DINOv2, CLIP, and image classifiers. None of them needs torchvision."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch.nn.functional import interpolate
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    CLIPVisionModelWithProjection,
    Dinov2Model,
)

from ddpm_hf.errors import InputError

# The statistics of ImageNet, and those of CLIP's own data.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP_DATA = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
# The images that DINOv2 sees in FD-DINOv2, whatever the size it was trained on last.
DINOV2_SIDE = 224


class TransformerNetwork(NamedTuple):
    """A network: `see` maps uint8 images (B, channels, H, W) to features (B, D) and logits (B, K) or None."""

    see: Callable
    channels: int
    preprocessing: str
    has_classes: bool = False


def load_dinov2(place, device):
    """The class token of DINOv2 after its last norm, of images resized as in EDM2's code for FD-DINOv2.

    EDM2's resizing in torch is almost that of PIL in the code of Stein et al. (2023).
    """
    with _reading(place):
        network = Dinov2Model.from_pretrained(place).eval().to(device)
    see = _resized(lambda pixels: network(pixels).pooler_output, DINOV2_SIDE, IMAGENET, device)
    return TransformerNetwork(see, 3, _resizing(DINOV2_SIDE, "ImageNet"))


def load_clip(place, device):
    """The image embedding of CLIP, before it is scaled to length 1 (Kynkaanniemi et al. 2023)."""
    with _reading(place):
        network = CLIPVisionModelWithProjection.from_pretrained(place).eval().to(device)
    side = network.config.image_size
    see = _resized(lambda pixels: network(pixels).image_embeds, side, CLIP_DATA, device)
    return TransformerNetwork(see, 3, _resizing(side, "CLIP"))


def load_classifier(place, device):
    """The inputs of the last layer of an image classifier, pooled over the image, as its own processor sees images."""
    with _reading(place):
        processor = AutoImageProcessor.from_pretrained(place)
        network = AutoModelForImageClassification.from_pretrained(place).eval().to(device)
    last_layer = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)][-1]
    seen = []
    last_layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    def see(images):
        pixels = processor(images.cpu().numpy(), return_tensors="pt", input_data_format="channels_first")
        logits = network(pixels["pixel_values"].to(device)).logits
        return seen.pop(), logits

    size = "resized by its processor" if getattr(processor, "do_resize", False) else "not resized"
    return TransformerNetwork(see, getattr(network.config, "num_channels", 3), size, has_classes=True)


def _resized(features_of, side, statistics, device):
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in statistics)

    def see(images):
        pixels = interpolate(images.to(device).float(), size=(side, side), mode="bicubic", antialias=True) / 255
        return features_of((pixels - mean) / std), None

    return see


def _resizing(side, data):
    return f"resized to {side}x{side} in torch, bicubic with antialiasing, and scaled by the statistics of {data}"


@contextmanager
def _reading(place):
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"The feature network {str(place)!r} cannot be read ({' '.join(str(error).split())[:300]}): give a folder with a "
            f"whole copy of it. `hf download {place}` fetches a network of the Hub, where there is one of that name, once."
        ) from error
