"""What is measured of the samples of a run: the channels of its grids, and their distance to held-out images."""

import numpy as np
import torch

from ddpm_hf.data import BucketedData, count_images
from ddpm_hf.distributed import together
from ddpm_hf.evaluation.distances import FeatureStatistics, frechet_distance
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.evaluation.measures.channels import channel_features, channel_moments

# So many training images tell the means of the channels to a level or two.
MOST_IMAGES = 1000


def channels_of_data(images, channels):
    """The means and deviations of the channels of the training images, from the first thousand of a random order.

    Args:
        images: a data set of `ddpm_hf.data`; a stream, which cannot be read twice, and points give None.
        channels (`int`): the channels of a sample; further ones of the data are of condition images.
    """
    count = count_images(images)
    if count is None:
        return None
    order = np.random.default_rng(0).permutation(count)[:MOST_IMAGES]
    read = images.by_shape(order) if isinstance(images, BucketedData) else [images.__getitems__(order)]
    if any(batch["images"].dtype != torch.uint8 for batch in read):
        return None
    return channel_moments(torch.cat([channel_features(batch["images"][:, :channels]) for batch in read]))


def channel_row(pictures, of_data):
    """A row of the log: means and deviations of the channels of samples, in levels of 0 to 255, and those of the data.

    Args:
        pictures: a list of PIL images.
        of_data: from `channels_of_data`.
    """
    row, features = {}, torch.cat([channel_features(levels_of([picture])) for picture in pictures])
    for whose, moments in (("", channel_moments(features)), ("_of_data", of_data)):
        for name, values in zip(("mean", "deviation"), moments, strict=True):
            row |= {f"channel_{number}_{name}{whose}": value for number, value in enumerate(values.tolist())}
    return row


def levels_of(pictures):
    """PIL images as uint8 (N, C, H, W)."""
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)


class HeldOutDistance:
    """The Frechet distance of samples to held-out images.

    The network is loaded and sees the held-out images when this is made, so that a missing part shows before the
    training begins. Only the main process has them; every process must call the methods.

    Args:
        args (`TrainingArguments`): options with `eval_features`.
        held_out: from `load_held_out`.
        accelerator (`accelerate.Accelerator`): the accelerator of the run.

    Raises:
        InputError: in all processes, for a network that cannot be had, or does not take these images.
    """

    def __init__(self, args, held_out, accelerator):
        self.accelerator, self.batch_size, self.count = accelerator, args.batch_size, len(held_out["images"])
        together(accelerator, lambda: self._load(args.eval_features, held_out["images"]), main_process_only=True)

    def _load(self, name, images):
        self.network = load_features(name, str(self.accelerator.device))
        self.target = self._statistics(images)

    def _statistics(self, images):
        statistics = FeatureStatistics()
        for batch in images.split(self.batch_size):
            statistics.update(self.network(batch))
        return statistics

    def measure(self, pictures):
        """The distance of PIL images, in the main process; None in the others."""
        if not self.accelerator.is_main_process:
            return None
        return frechet_distance(self._statistics(levels_of(pictures)), self.target)
