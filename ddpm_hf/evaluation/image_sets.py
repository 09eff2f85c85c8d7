"""Sets of images to measure, behind one interface: stored ones, those of an archive, and samples that a model draws."""

from pathlib import Path

import numpy as np
import torch

from ddpm_hf.data import load_images
from ddpm_hf.evaluation.drawn_samples import draw_levels
from ddpm_hf.evaluation.image_archives import read_images

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
        self.shape, self.labels, self.resizing = (
            (source.channels, *[source.resolution] * 2),
            source.labels,
            source.resizing,
        )
        self.name, self._images = name, load_images(source, MEMORY_LIMIT_GB)

    def __len__(self):
        return len(self._images)

    def batch(self, places):
        return self._images.__getitems__(np.asarray(places))["images"]


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


class DrawnImages:
    """Samples of a model, each a function of the seed and its place; image i is that of `ddpm-hf sample --seed seed+i`.

    Args:
        pipeline ([`GaussianDiffusionPipeline`]): the model.
        count (`int`): how many samples.
        seed (`int`): of the first one.
        labels (`torch.Tensor`, *optional*): (count,), the class of each.
        sampling (`dict`): arguments of the call of the pipeline.
    """

    resizing = None

    def __init__(self, pipeline, count, seed, labels, sampling):
        self.pipeline, self.count, self.seed, self.labels, self.sampling = pipeline, count, seed, labels, sampling
        self.shape, self.name = tuple(pipeline.samples.output_shape), f"{count} samples"

    def __len__(self):
        return self.count

    def batch(self, places):
        labels = None if self.labels is None else self.labels[torch.tensor(places)]
        return draw_levels(
            self.pipeline, [self.seed + place for place in places], places.start, labels, **self.sampling
        )
