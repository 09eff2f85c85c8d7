"""Images as the moments of their latents, encoded once into the cache of `datasets`, and read by memory map.

The encoder of an autoencoder gives each image a normal distribution; its moments are kept, and a batch draws from them
anew each time it is learned.
"""

import logging
import math
import os
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np
import torch
import xxhash
from datasets.fingerprint import Hasher
from diffusers import AutoencoderKL
from filelock import FileLock
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ddpm_hf.data.data_source import DataSource
from ddpm_hf.data.model_range import to_model_range
from ddpm_hf.data.reading_problems import cache_error
from ddpm_hf.data.source import ImageSource
from ddpm_hf.errors import InputError
from ddpm_hf.files import ASIDE
from ddpm_hf.limits import check_fits_memory
from ddpm_hf.models.autoencoders import check_sides
from ddpm_hf.models.unet_2d import DDPMUNet2DModel
from ddpm_hf.samples.latent_units import factor_of, moments_of, scaled_moments
from ddpm_hf.sizes import config_size, size_of, written_sides

logger = logging.getLogger(__name__)

# Images are encoded so many at a time, so that the moments do not depend on the batch size of a training.
ENCODED_AT_A_TIME = 64
# Version of the file of moments.
MOMENTS = 1
# Latents of a smaller or larger standard deviation suit no noise schedule.
USUAL_STD = (0.5, 2.0)


class LatentsMapped(Dataset):
    """The moments in the memory-mapped files of a folder; a batch is copied out of the pages that hold it.

    Args:
        folder (`Path`): `moments.npy`, float32, (N, 2C, h, w), or (N, 2, 2C, h, w) with those of the mirrored images;
            and `labels.npy`, (N,), if there are labels.
    """

    def __init__(self, folder):
        self.moments = np.load(folder / "moments.npy", mmap_mode="r")
        labels = folder / "labels.npy"
        self.labels = torch.from_numpy(np.load(labels)) if labels.is_file() else None

    def __len__(self):
        return len(self.moments)

    def __getitems__(self, rows):
        batch = {"images": torch.from_numpy(self.moments[rows])}
        return batch if self.labels is None else batch | {"labels": self.labels[torch.from_numpy(rows)]}


@dataclass(frozen=True)
class LatentSource(DataSource):
    """Images to be encoded by an autoencoder.

    Args:
        images (`ImageSource`): the opened images, in the size in which they are encoded.
        vae (`AutoencoderKL`): the autoencoder, on the device that encodes.
        flips (`bool`): whether the mirrored images are encoded too.
    """

    images: ImageSource
    vae: AutoencoderKL
    flips: bool = False

    network_class = DDPMUNet2DModel

    def __len__(self):
        return len(self.images)

    @property
    def channels(self):
        return self.vae.config.latent_channels

    @property
    def sides(self):
        """(height, width) of the latents."""
        factor = factor_of(self.vae.config)
        return tuple(side // factor for side in self.images.form.sides)

    @property
    def kind(self):
        return f"latents of {self.channels}x{written_sides(self.sides)}, of {self.images.kind}"

    @property
    def resizing(self):
        return self.images.resizing

    @property
    def resolution(self):
        """The size of the images."""
        return self.images.resolution

    @property
    def labels(self):
        return self.images.labels

    @property
    def captions(self):
        return self.images.captions

    @property
    def num_classes(self):
        return self.images.num_classes

    @property
    def class_names(self):
        return self.images.class_names

    @property
    def value_limits(self):
        return self.images.value_limits

    @property
    def network_options(self):
        told = {} if self.value_limits is None else {"condition_value_range": list(self.value_limits)}
        return told | {
            "sample_size": config_size(size_of(*self.sides)),
            "in_channels": self.channels,
            "autoencoder_factor": factor_of(self.vae.config),
            "image_channels": self.images.channels,
        }

    @property
    def scheduler_options(self):
        """No clipping, for x_0 of latents has no bounds; and with captions the timesteps of the stock pipeline."""
        of_stock = {} if self.captions is None else {"timestep_spacing": "trailing", "steps_offset": 1}
        return {"clip_sample": False} | of_stock

    @cached_property
    def fingerprint(self):
        """A fingerprint of the images and of the autoencoder."""
        return Hasher.hash([self.images.fingerprint, self.images.form.shape, vae_fingerprint(self.vae)])

    @property
    def moments_shape(self):
        return (*((2,) if self.flips else ()), 2 * self.channels, *self.sides)

    def check_batch_fits(self, batch_size):
        check_fits_memory(
            f"a batch of {batch_size} latents takes",
            4 * batch_size * math.prod(self.moments_shape),
            "choose a smaller --resolution or --batch_size",
        )

    def resized(self, resolution):
        return replace(self, images=self.images.resized(resolution))

    def select(self, chosen):
        return replace(self, images=self.images.select(chosen))

    def load(self, memory_limit_gb, workers=None, disk_limit_gb=None, crop_seed=None):
        """The moments, encoded now unless the cache has them; processes of one machine wait for the first of them.

        The limits are those of the images while they are encoded (`load_images`).

        Raises:
            InputError: if the disk is full or read-only.
        """
        folder = Path(datasets.config.HF_DATASETS_CACHE) / "ddpm_hf" / f"latents-{self._key}"
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not folder.is_dir():
                    aside = folder.with_name(folder.name + ASIDE)
                    shutil.rmtree(aside, ignore_errors=True)
                    aside.mkdir()
                    self._encode(self.images.load(memory_limit_gb, workers, disk_limit_gb), aside)
                    os.replace(aside, folder)
        except OSError as error:
            raise cache_error(error) from error
        loaded = LatentsMapped(folder)
        _warn_of_units(loaded, self.vae)
        return loaded

    @property
    def _key(self):
        """Changes with all that the moments follow from, and with the order of the images."""
        rows = self.images.rows._fingerprint
        return Hasher.hash([self.fingerprint, rows, self.images.form, self.flips, MOMENTS])

    def _encode(self, images, folder):
        """Writes the files of a [`LatentsMapped`]."""
        shape, labels = (len(images), *self.moments_shape), []
        moments = np.lib.format.open_memmap(folder / "moments.npy", "w+", np.float32, shape)
        with tqdm(total=len(images), unit="image", desc="Encoding") as bar:
            for rows in np.array_split(np.arange(len(images)), math.ceil(len(images) / ENCODED_AT_A_TIME)):
                batch = images.__getitems__(rows)
                moments[rows] = self._moments(to_model_range(batch["images"])).cpu().numpy()
                labels.append(batch.get("labels"))
                bar.update(len(rows))
        moments.flush()
        if self.labels is not None:
            np.save(folder / "labels.npy", torch.cat(labels).numpy())

    def _moments(self, images):
        """The moments of x_0 for images in [-1, 1], and where they may be mirrored those of their mirror images."""
        seen = [images, images.flip(-1)] if self.flips else [images]
        parts = [scaled_moments(self.vae.config, moments_of(self.vae, each)) for each in seen]
        return torch.stack(parts, dim=1) if self.flips else parts[0]


def open_latents(images, vae, name, flips=False):
    """The [`LatentSource`] of opened images.

    Args:
        name (`str`): of the autoencoder, for messages.

    Raises:
        InputError: for images that the autoencoder does not take.
    """
    if not isinstance(images, ImageSource) or images.form.depth is not None:
        raise InputError(
            f"vae={name!r} encodes images of 8 bits, and the data are of another kind: leave it out, or read images "
            "of 16 bits in 8 by --no_preserve_input_precision."
        )
    if images.channels != vae.config.in_channels:
        raise InputError(
            f"vae={name!r} encodes images of {vae.config.in_channels} channel(s), and the data have "
            f"{images.channels}: give an autoencoder that was trained on images of that kind."
        )
    check_sides(vae.config, images.form.sides, f"vae={name!r}")
    return LatentSource(images, vae, flips)


def vae_fingerprint(vae):
    """A digest of all weights of an autoencoder and of the units of its latents."""
    hasher = xxhash.xxh3_128(repr([vae.config.scaling_factor, vae.config.get("shift_factor")]).encode())
    for name, weight in vae.state_dict().items():
        hasher.update(name.encode())
        hasher.update(weight.float().cpu().contiguous().numpy())
    return hasher.hexdigest()


def _warn_of_units(loaded, vae):
    """Warns if the latents of some hundred images have a standard deviation that is far from 1."""
    some = np.linspace(0, len(loaded) - 1, min(len(loaded), 500)).astype(int)
    moments = loaded.moments[some].reshape(-1, 2, vae.config.latent_channels, *loaded.moments.shape[-2:])
    means, variances = moments[:, 0].astype(np.float64), np.exp(moments[:, 1].astype(np.float64))
    std = float((means.var() + variances.mean()) ** 0.5)
    if not USUAL_STD[0] <= std <= USUAL_STD[1]:
        logger.warning(
            "The latents have a standard deviation of %.3g, and noise schedules are made for 1: the autoencoder's "
            "scaling_factor=%.4g should be %.4g for these data.",
            *(std, vae.config.scaling_factor, vae.config.scaling_factor / std),
        )
