"""Sets of images to measure, behind one interface: stored ones, those of an archive, and samples that a model draws."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ddpm_hf.data import load_images, to_model_range
from ddpm_hf.data.captions import captions_of
from ddpm_hf.evaluation.drawn_samples import draw_levels
from ddpm_hf.evaluation.image_archives import read_images
from ddpm_hf.evaluation.image_labels import labels_at

# Stored images beyond this are read from the disk batch by batch.
MEMORY_LIMIT_GB = 2.0


class StoredImages:
    """The images of a source, in memory or read batch by batch.

    An image set has a length, the `shape` (C, H, W) of its images, and a `name` for reports; `batch` gives the images of
    a `range` of places, uint8 (B, C, H, W).

    Args:
        source (`ImageSource`): which images.
        name (`str`): data set and split.
    """

    def __init__(self, source, name):
        self.shape, self.resizing = (source.channels, *source.form.sides), source.resizing
        self.labels = source.labels if source.captions is None else captions_of(source)
        self.name, self._images = name, load_images(source, MEMORY_LIMIT_GB)

    def __len__(self):
        return len(self._images)

    def batch(self, places):
        return self._images.__getitems__(np.asarray(places))["images"][:, : self.shape[0]]

    def told(self, places, condition):
        """The condition images of the images of places, (B, C, h, w) in [0, 1], as pipelines take them."""
        data = self._images.__getitems__(np.asarray(places))["images"]
        return condition.split(to_model_range(data))[1] / 2 + 0.5


class ArchivedImages:
    """The images of an .npz file, all in memory."""

    labels = resizing = None

    def __init__(self, file):
        self.name, self._images = Path(file).name, read_images(file)
        self.shape = tuple(self._images.shape[1:])

    def __len__(self):
        return len(self._images)

    def batch(self, places):
        return self._images[places.start : places.stop]


class SampleConditions(NamedTuple):
    """What the samples of a model are told: the classes, numbers or captions of a data set's images, and their condition images.

    labels: of each sample, (N,), captions as `np.ndarray` of `str`, or None. images: where the condition images come from, a [`StoredImages`], or None for
    a network that is told none. places: of each sample's image among these, (N,).
    """

    labels: torch.Tensor | np.ndarray | None = None
    images: StoredImages | None = None
    places: torch.Tensor | None = None

    def of(self, places, condition):
        """The arguments of a pipeline for the samples of these places.

        Args:
            condition ([`ConditionImage`]): of the network, or None.
        """
        places = torch.tensor(places)
        told = {} if self.images is None else {"condition_image": self.images.told(self.places[places], condition)}
        return told | {"class_labels": labels_at(self.labels, places)}


class DrawnImages:
    """Samples of a model, each a function of the seed and its place; image i is that of `ddpm-hf sample --seed seed+i`.

    Args:
        pipeline ([`GaussianDiffusionPipeline`]): the model.
        count (`int`): how many samples.
        seed (`int`): of the first one.
        conditions ([`SampleConditions`]): what each is told.
        sampling (`dict`): arguments of the call of the pipeline.
    """

    resizing = None

    def __init__(self, pipeline, count, seed, conditions, sampling):
        self.pipeline, self.count, self.seed, self.sampling = pipeline, count, seed, sampling
        self.conditions, self.labels = conditions, conditions.labels
        self.shape, self.name = tuple(pipeline.samples.output_shape), f"{count} samples"

    def __len__(self):
        return self.count

    def batch(self, places):
        told = self.conditions.of(places, self.pipeline.samples.condition)
        seeds = [self.seed + place for place in places]
        return draw_levels(self.pipeline, seeds, places.start, **told, **self.sampling)
