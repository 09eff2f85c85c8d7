"""Networks whose features sets of images are compared by, behind one interface."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.inception import PACKAGE, check_inception, load_inception
from ddpm_hf.files import read_mapping

INCEPTION, DINOV2, CLIP = "inception", "dinov2", "clip"
# The networks of FD-DINOv2 (Stein et al. 2023) and of Kynkaanniemi et al. (2023).
REPOSITORIES = {DINOV2: "facebook/dinov2-large", CLIP: "openai/clip-vit-base-patch32"}
NAMED_NETWORKS = (INCEPTION, *REPOSITORIES)
HOW_TO_CHOOSE = (
    f"give a folder with an image classifier of transformers (`python -m ddpm_hf.evaluation.feature_network FOLDER` "
    f"trains a small one), with a DINOv2 or a CLIP, or one of {', '.join(NAMED_NETWORKS)}"
)


@dataclass(frozen=True)
class FeatureNetwork:
    """A function from uint8 images (B, C, H, W) to features (B, D), float32, on its device.

    name: the network, as the user named it. library: where its code and weights are from, with the version.
    preprocessing: what is done to the images. Distances compare only where these are the same.
    see: images to features (B, D) and to the logits of the network's classes (B, K), None without classes.
    has_classes: whether it has classes.
    """

    name: str
    library: str
    preprocessing: str
    see: Callable
    has_classes: bool = False

    def __call__(self, images):
        return self.see(images)[0]

    @property
    def conditions(self):
        """What a figure in these features depends on, by name."""
        return {"network": self.name, "library": self.library, "preprocessing": self.preprocessing}


def check_features(name):
    """Checks that a feature network can be had, before anything is imported for it.

    Raises:
        InputError: as `load_features`, except that the Hub is not asked, and weights are not read.
    """
    if name == INCEPTION:
        check_inception()
    elif name not in REPOSITORIES:
        _model_type(name)


def load_features(name, device="cpu"):
    """The [`FeatureNetwork`] of a name.

    Args:
        name: "inception", torch-fidelity's Inception-v3 (pool3, D = 2048), in which FID is measured; "dinov2",
            DINOv2 ViT-L/14 (class token, D = 1024), and "clip", CLIP ViT-B/32 (image embedding, D = 512), from the
            Hub; or a folder of a DINOv2, a CLIP, or an image classifier of `transformers`, whose features are the
            inputs of its last layer (pooled over the image).
        device: the device of the network.

    Raises:
        InputError: if the network cannot be found or read; the message says how to get one.
    """
    check_features(name)
    if name == INCEPTION:
        preprocessing = "enlarged to 299x299 like TensorFlow 1, bilinear"
        library = f"torch-fidelity {version(PACKAGE)}, Inception-v3 of 2015-12-05"
        return FeatureNetwork(INCEPTION, library, preprocessing, _seeing(*load_inception(device)), has_classes=True)
    # transformers is imported here, because that takes seconds and only these networks need it.
    from ddpm_hf.evaluation import transformer_features

    place = REPOSITORIES.get(name, name)
    kind = name if name in REPOSITORIES else _model_type(name)
    load = {DINOV2: transformer_features.load_dinov2, CLIP: transformer_features.load_clip}
    load["clip_vision_model"] = transformer_features.load_clip
    network = load.get(kind, transformer_features.load_classifier)(place, device)
    return FeatureNetwork(
        name=str(name),
        library=f"transformers {version('transformers')}, {place}",
        preprocessing=network.preprocessing,
        see=_seeing(network.see, network.channels),
        has_classes=network.has_classes,
    )


def _model_type(folder):
    """The kind of network in a folder, by its config."""
    config = Path(folder) / "config.json"
    if not config.is_file():
        raise InputError(f"features={str(folder)!r} holds no config.json: {HOW_TO_CHOOSE}.")
    return read_mapping(config).get("model_type")


def _seeing(see, channels):
    """`see` for images of any size, without gradients; a grey channel is repeated for a network of colours."""

    @torch.no_grad()
    def seen(images):
        if images.shape[1] not in (1, channels):
            raise InputError(
                f"Images of {images.shape[1]} channels do not fit a feature network for {channels}: choose another."
            )
        features, logits = see(images.expand(-1, channels, -1, -1))
        return features.float(), None if logits is None else logits.float()

    return seen
