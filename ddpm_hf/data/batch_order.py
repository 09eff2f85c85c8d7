"""The order of the data: the rows of each batch of each process, without end."""

from functools import lru_cache
from itertools import count

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ddpm_hf.errors import InputError
from ddpm_hf.interruptions import ignore_stop_signals


class EndlessBatches(Sampler):
    """The rows of one process's batches, for ever: permutation after permutation of the data, cut without gaps.

    The batches of all processes and accumulation steps lie next to each other in one sequence. So the data of an
    update depend on the product of these numbers alone, and a position in the sequence is one number: `first_batch`,
    counted in batches of this process.
    """

    def __init__(self, num_images, batch_size, seed, first_batch=0, process_index=0, num_processes=1):
        if batch_size > num_images:
            raise InputError(f"batch_size={batch_size} is larger than the data, which has {num_images} images.")
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.first_batch, self.process_index, self.num_processes = first_batch, process_index, num_processes

    def __iter__(self):
        walk = Walk(self.num_images, self.seed)
        for batch in count(self.first_batch):
            yield walk.rows((batch * self.num_processes + self.process_index) * self.batch_size, self.batch_size)


class Walk:
    """A sequence of rows without end: permutation after permutation of the data, each given by the seed."""

    def __init__(self, num_images, seed):
        self.num_images, self.seed = num_images, seed
        self._order = lru_cache(maxsize=2)(self._order_of)

    def rows(self, start, number):
        """The `number` rows from place `start` on; a row comes again if there are more than images."""
        epoch, offset = divmod(start, self.num_images)
        rows = self._order(epoch)[offset : offset + number]
        while len(rows) < number:
            epoch += 1
            rows = np.concatenate([rows, self._order(epoch)[: number - len(rows)]])
        return rows

    def _order_of(self, epoch):
        return np.random.default_rng((self.seed, epoch)).permutation(self.num_images)


def batches(images, batch_sampler, workers=0, pin_memory=False):
    """Batches of a data set that returns whole ones, in the order of `batch_sampler`, made by `workers` processes.

    Raises:
        InputError: raised by the data set in any process, passed on unchanged.
    """
    loader = DataLoader(
        _Carrying(images),
        batch_sampler=batch_sampler,
        num_workers=workers,
        collate_fn=as_it_is,
        pin_memory=pin_memory,
        worker_init_fn=ignore_stop_signals,
        # Its own generator, so that starting workers does not draw from the random state of training.
        generator=torch.Generator(),
    )
    return raising(loader)


class _Carrying(Dataset):
    """Returns an `InputError` instead of raising it, because a DataLoader would wrap it in a worker's traceback."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitems__(self, wanted):
        try:
            return self.images.__getitems__(wanted)
        except InputError as error:
            return error


def raising(batches):
    """Yields batches until one of them is a returned `InputError`, which is raised."""
    for batch in batches:
        if isinstance(batch, InputError):
            raise batch
        yield batch


def as_it_is(batch):
    return batch
