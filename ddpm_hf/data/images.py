"""Data sets that give whole batches of a source's images: from memory, from a memory map, or decoded on demand."""

import logging
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from ddpm_hf.data.decoding import (
    PIXELS_WORTH_PROCESSES,
    ImageReader,
    decode_all,
    decoding_workers,
    fill_gaps,
)
from ddpm_hf.data.mapped import ImagesMapped, cache_file, decode_to_disk, room_on_disk

logger = logging.getLogger(__name__)


class ImagesInMemory(Dataset):
    """All images in one uint8 tensor (N, C, H, W): a batch is one `index_select`."""

    def __init__(self, tensors):
        self.tensors = tensors

    def __len__(self):
        return len(self.tensors["images"])

    def __getitems__(self, indices):
        indices = torch.from_numpy(indices)
        return {name: tensor.index_select(0, indices) for name, tensor in self.tensors.items()}


class ImagesOnDemand(Dataset):
    """Images decoded batch by batch, for data that fit neither into memory nor onto the disk.

    Args:
        source (`ImageSource`): which images.
        crop_seed (`int`, *optional*): as in `ImageReader`.
    """

    def __init__(self, source, crop_seed=None):
        self.reader = ImageReader(source, crop_seed)
        self.damaged = set()

    def __len__(self):
        return len(self.reader)

    def __getitems__(self, indices):
        batch = self.reader.__getitems__(indices)
        damaged = batch.pop("damaged")
        for index in damaged.keys() - self.damaged:
            self.damaged.add(index)
            logger.warning("An image cannot be read, others stand in for it (%s)", damaged[index])
        return fill_gaps(batch, len(indices), damaged)


class OfBucket(NamedTuple):
    """Rows of the images of one size, by the number of the size."""

    bucket: int
    rows: np.ndarray


class BucketedData(Dataset):
    """The data sets of images of one size each, from which a batch is asked for by an [`OfBucket`]."""

    def __init__(self, parts):
        self.parts = parts

    def __len__(self):
        return sum(map(len, self.parts))

    def __getitems__(self, wanted):
        return self.parts[wanted.bucket].__getitems__(wanted.rows)

    def by_shape(self, rows):
        """The batches that have these rows, counted through all sizes, each batch of one size."""
        starts = np.cumsum([0, *map(len, self.parts)])
        rows = np.sort(rows)
        within = [rows[(rows >= start) & (rows < end)] - start for start, end in pairwise(starts)]
        return [part.__getitems__(chosen) for part, chosen in zip(self.parts, within, strict=True) if len(chosen)]


def load_images(source, memory_limit_gb, workers=None, disk_limit_gb=None, crop_seed=None):
    """The images where they fit: in memory, else on the disk; else decoded when they are needed.

    Images that take long to decode are decoded once, into the cache of `datasets`, even if memory holds them.

    Args:
        source (`ImageSource`): what to load.
        memory_limit_gb (`float`): memory for decoded images.
        workers (`int`, *optional*): processes that decode now.
        disk_limit_gb (`float`, *optional*): disk space for decoded images; by default the free space.
        crop_seed (`int`, *optional*): crops are at random places, new each time, and so decoded on demand.
    """
    if crop_seed is not None:
        return ImagesOnDemand(source, crop_seed)
    in_memory = source.decoded_bytes <= memory_limit_gb * 2**30
    is_decoded_at_once = in_memory and source.pixels <= PIXELS_WORTH_PROCESSES
    if not is_decoded_at_once and _fits_on_disk(source, disk_limit_gb):
        mapped = decode_to_disk(source, decoding_workers(workers, source.pixels, alone=True))
        return ImagesInMemory(mapped.read()) if in_memory else mapped
    if not in_memory:
        return ImagesOnDemand(source)
    return ImagesInMemory(decode_all(source, decoding_workers(workers, source.pixels)))


def _fits_on_disk(source, limit_gb):
    if limit_gb is not None and source.decoded_bytes > limit_gb * 2**30:
        return False
    room = room_on_disk(source)
    if source.decoded_bytes > room:
        logger.warning(
            "The decoded images would take %.1f GB of the disk of %s, which has room for %.1f: they are not kept "
            "there, and decoding them again takes longer. Make room, or lead datasets to another disk with "
            "HF_DATASETS_CACHE.",
            source.decoded_bytes / 1e9,
            cache_file(source).parent,
            max(room, 0) / 1e9,
        )
        return False
    return True


def loading_workers(images, wanted=None):
    """Number of processes that make batches: none for memory; for a memory map only if `wanted`, for slow disks."""
    if isinstance(images, BucketedData):
        return max(loading_workers(part, wanted) for part in images.parts)
    if isinstance(images, ImagesOnDemand):
        return decoding_workers(wanted, images.reader.source.pixels)
    return wanted or 0 if isinstance(images, ImagesMapped) else 0
