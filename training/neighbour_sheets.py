"""A sheet of the samples of a run that are nearest to training images, each beside its neighbour."""

import numpy as np
import torch
import torch.nn.functional as F

from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.measures.neighbours import nearest
from ddpm_hf.evaluation.memorisation_sheet import Neighbour, nearest_first, neighbour_sheet

# What is searched, so that a sheet takes seconds and some hundred megabytes: so many images, in at most this size.
MOST_SEARCHED, LARGEST_SIDE = 10_000, 32
READ_AT_A_TIME = 500


class TrainingNeighbours:
    """The training images among which the neighbours of samples are searched, in pixels, by Euclidean distance.

    Args:
        images: a data set of `ddpm_hf.data` with 8-bit images.
        channels (`int`): the channels of a sample; further ones of the data are of condition images.

    Raises:
        InputError: for points, and images of more than 8 bits.
    """

    def __init__(self, images, channels):
        self.images, self.channels = images, channels
        self.places = np.random.default_rng(0).permutation(len(images))[:MOST_SEARCHED]
        _check_are_images(self._read(self.places[:1]))
        parts = np.array_split(self.places, -(-len(self.places) // READ_AT_A_TIME))
        self.searched = torch.cat([_as_features(self._read(part)) for part in parts])

    def _image_at(self, place):
        return self._read(np.array([place]))[0].numpy()

    def _read(self, places):
        return self.images.__getitems__(places)["images"][:, : self.channels]

    def sheet(self, samples):
        """A figure of the ten samples, of uint8 (N, C, H, W), that are nearest to training images."""
        distances, found = nearest(_as_features(samples), self.searched)
        pairs = zip(distances[:, 0].tolist(), self.places[found[:, 0].numpy()], strict=True)
        neighbours = {place: Neighbour(*pair) for place, pair in enumerate(pairs)}
        shown = {place: samples[place].numpy() for place in nearest_first(neighbours)}
        searched, total = len(self.places), len(self.images)
        among = f"the {total:,}" if searched == total else f"{searched:,} of {total:,}"
        title = (
            f"The {len(shown)} of {len(samples)} samples that are nearest\nto {among} training images,\nwith the "
            "nearest of these (distances below)"
        )
        return neighbour_sheet(shown, {"pixels": neighbours}, self._image_at, title)


def _check_are_images(levels):
    if levels.ndim != 4 or levels.dtype != torch.uint8:
        raise InputError(
            "sample_neighbours=True draws images of 8 bits beside each other, and the data are not such images: leave "
            "it out."
        )


def _as_features(levels):
    """Levels over 255, (N, D), of images reduced to at most 32 pixels a side."""
    sides = [min(side, LARGEST_SIDE) for side in levels.shape[-2:]]
    return F.adaptive_avg_pool2d(levels.float() / 255, sides).flatten(1)
