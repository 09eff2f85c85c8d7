"""The perceptual distance of images: how far apart they are for a network that has learned to see."""

from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import MODEL_FOR_BACKBONE_MAPPING, AutoConfig
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import logging

from ddpm_hf.errors import InputError
from ddpm_hf.files import check_readable
from ddpm_hf.sizes import written_sides

# What networks of colour images take that say nothing of it, the statistics of ImageNet; and the others.
IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
HALVES = {"image_mean": (0.5,), "image_std": (0.5,)}
# Layers that transformers adds to some backbones and that classifiers do not have; they begin as what they stay.
ADDED_NORMS = "hidden_states_norms."
# Below the square of a feature vector's length, so that the direction of a vector of zeros has a gradient.
LEAST_SQUARE = 1e-8
# Images are enlarged so many times at most for a network that takes no smaller ones.
LARGEST_ENLARGEMENT = 16


class PerceptualDistance(torch.nn.Module):
    r"""The distance of LPIPS (Zhang et al. 2018, eq. 1) without learned weights, and as a mean over the stages:

    .. math:: D(x, \hat x) = \frac{1}{L} \sum_l \frac{1}{H_l W_l} \sum_{h,w} \|y^l_{hw} - \hat y^l_{hw}\|^2

    where :math:`y^l_{hw}` is the vector of features of x at a place of stage l, scaled to length 1. It is between 0
    and 4. The network is frozen, and computes in float32.

    Args:
        network: a backbone of transformers, which gives the feature maps of all of its stages.
        statistics (`dict`): `image_mean` and `image_std` of the images in [0, 1] that it takes.
        channels (`int`): channels of the images: those of the network, or 1, which is repeated.
        sides (`tuple[int]`): height and width of the images, which are enlarged where the network takes no such ones.

    Raises:
        ValueError: if the network takes no images of these channels, or of these sides enlarged.
    """

    def __init__(self, network, statistics, channels, sides):
        super().__init__()
        self.network, self.channels = network.requires_grad_(False).eval(), network.config.num_channels
        if channels not in (1, self.channels):
            raise ValueError(f"it takes images of {self.channels} channel(s), and these have {channels}")
        for name in ("image_mean", "image_std"):
            self.register_buffer(name, torch.tensor(statistics[name]).view(-1, 1, 1))
        self.enlargement = self._least_enlargement(sides)

    def forward(self, images, others):
        """The distances of images (N, C, H, W) in [-1, 1], (N,); differentiable in the second argument."""
        with torch.no_grad():
            seen = self._directions(images)
        stages = zip(seen, self._directions(others), strict=True)
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in stages]).mean(0)

    def _directions(self, images):
        """The vectors of features of each stage, (N, C_l, H_l, W_l), scaled to length 1."""
        if self.enlargement > 1:
            images = F.interpolate(images, scale_factor=self.enlargement, mode="bilinear")
        pixels = ((images + 1) / 2 - self.image_mean) / self.image_std
        maps = self.network(pixels.expand(-1, self.channels, -1, -1)).feature_maps
        return [features * (features.square().sum(1, keepdim=True) + LEAST_SQUARE).rsqrt() for features in maps]

    def _least_enlargement(self, sides):
        """The least power of 2 by which images are enlarged so that the network takes them."""
        factor = 1
        while factor <= LARGEST_ENLARGEMENT:
            try:
                with torch.no_grad():
                    self.network(torch.zeros(1, self.channels, *(factor * side for side in sides)))
                return factor
            except (RuntimeError, ValueError):  # the classes of a convolution and of a patch embedding
                factor *= 2
        raise ValueError(
            f"it takes no images of {written_sides(sides)}, nor enlarged up to {LARGEST_ENLARGEMENT} times"
        )


def open_perceptual_distance(name, channels, sides):
    """The [`PerceptualDistance`] of a folder or id of transformers.

    Args:
        name (`str`): as --perceptual_network.
        channels, sides: of the images.

    Raises:
        InputError: for a network that cannot be had, that is no backbone, or that does not take these images.
    """
    try:
        network = _open_backbone(name)
        return PerceptualDistance(network, _statistics_of(name, network.config.num_channels), channels, sides)
    except InputError:
        raise
    # transformers has many kinds of errors for what it cannot load.
    except Exception as error:
        check_readable(Path(name))
        raise InputError(
            f"Cannot see images by perceptual_network={name!r}: {str(error).strip().splitlines()[0]}"
        ) from error


def _open_backbone(name):
    config = AutoConfig.from_pretrained(name)
    if type(config) not in MODEL_FOR_BACKBONE_MAPPING or not hasattr(config, "stage_names"):
        raise InputError(
            f"perceptual_network={name!r} is a {config.model_type}, which is no backbone of transformers: give a "
            "folder or Hub id of one, such as a ResNet, a ConvNeXt or a DINOv2, or what `python -m "
            "ddpm_hf.evaluation.feature_network FOLDER` trains on your images."
        )
    config.out_indices = list(range(len(config.stage_names)))
    kind = MODEL_FOR_BACKBONE_MAPPING[type(config)]
    with _without_report():
        network, loaded = kind.from_pretrained(name, config=config, output_loading_info=True)
    missing = sorted(key for key in loaded["missing_keys"] if not key.startswith(ADDED_NORMS))
    if missing:
        raise InputError(
            f"perceptual_network={name!r} lacks {len(missing)} of the weights of a {kind.__name__}, such as "
            f"{missing[0]}: give a whole copy."
        )
    return network.float()


@contextmanager
def _without_report():
    """Keeps transformers from warning of the weights of a classifier, which a backbone has no use for."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _statistics_of(name, channels):
    """The mean and deviation of the images that a network takes, by its `preprocessor_config.json`."""
    default = IMAGENET if channels == len(IMAGENET["image_mean"]) else HALVES
    try:
        told, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        return default
    if not told.get("do_normalize", True):
        return {"image_mean": (0.0,), "image_std": (1.0,)}
    return {key: told.get(key, value) for key, value in default.items()}
