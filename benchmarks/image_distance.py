"""The images of a split, the Frechet distance of samples to them, and samples of a pipeline in batches."""

import torch

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.model_range import to_levels
from ddpm_hf.evaluation.distances import FeatureStatistics, frechet_distance
from ddpm_hf.evaluation.run import load_data
from ddpm_hf.models.network_config import classes_of

BATCH = 250


def split_of(dataset, split, config):
    """The images, uint8 (N, C, H, W), and the labels or None, for a network of this config."""
    return load_data(DataArguments(dataset=dataset, split=split), config, None)


class ImageDistance:
    """The Frechet distance to `real`, uint8 (N, C, H, W), in the features of a network of `load_features`."""

    def __init__(self, features, real):
        self.features = features
        self.real = FeatureStatistics(self._seen(real))

    def __call__(self, samples):
        """Of samples in [-1, 1], (N, C, H, W)."""
        return frechet_distance(FeatureStatistics(self.features_of(samples)), self.real)

    def features_of(self, samples):
        return self._seen(to_levels(samples))

    def _seen(self, images):
        return torch.cat([self.features(part) for part in images.split(2 * BATCH)])


def drawn(pipeline, noise, steps, **given):
    """Samples from x_T = `noise`, of all classes in turn where there are any, (N, C, H, W) in [-1, 1]."""
    parts, labels = [], turns(pipeline.unet, len(noise))
    for first in range(0, len(noise), BATCH):
        rows = slice(first, first + BATCH)
        chosen = None if labels is None else labels[rows].tolist()
        options = {"class_labels": chosen, "num_inference_steps": steps, "output_type": "latent", **given}
        parts.append(pipeline(latents=noise[rows], **options).images)
    return torch.cat(parts)


def turns(unet, number):
    """A label for each sample, all classes in turn, (number,); None for a network without classes."""
    classes, _ = classes_of(unet.config)
    return None if classes is None else torch.arange(number) % classes
