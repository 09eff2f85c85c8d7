"""Buckets by aspect ratio: photographs of many shapes, each trained on in the nearest of a few.

All images of a batch have one shape. The shape of an update is drawn with the share of its images, so that on average
each image is seen equally often, and all processes and accumulation steps of an update have the same.
"""

import logging
from dataclasses import dataclass, fields, replace
from itertools import count

import numpy as np
from diffusers.training_utils import find_nearest_bucket
from torch.utils.data import Sampler
from tqdm.auto import tqdm

from ddpm_hf.data.batch_order import Walk
from ddpm_hf.data.decoding import NothingReadable
from ddpm_hf.data.image_headers import IMAGES_PER_READ, displayed_size, open_image
from ddpm_hf.data.images import BucketedData, OfBucket
from ddpm_hf.data.source import ImageSource
from ddpm_hf.errors import InputError
from ddpm_hf.limits import check_fits_memory
from ddpm_hf.sizes import shapes_of_side, sides_of_size, size_of, sizes_of, written_sides

logger = logging.getLogger(__name__)

# The stream of random numbers that shapes are drawn from, beside those of the epochs of a seed.
SHAPES_OF_UPDATES = 2**31
# Earlier draws are counted so many at a time when a run is continued.
DRAWS_AT_A_TIME = 2**16


def in_buckets(source, aspect_buckets, config):
    """The images of a source in buckets.

    Args:
        source (`ImageSource`): the opened images, in any size.
        aspect_buckets (`str`): the shapes, or the side of a square of about as many pixels (`sizes.parsed_sizes`).
        config: the config of the network, whose levels but one halve the sides.

    Raises:
        InputError: for data that are no stored pictures, and for shapes that the network cannot halve.
    """
    if not isinstance(source, ImageSource):
        raise InputError(
            f"aspect_buckets={aspect_buckets} is for pictures of several shapes, and these data are {source.kind}: "
            "leave it out."
        )
    sizes, factor = sizes_of(aspect_buckets), 2 ** (len(config["block_out_channels"]) - 1)
    is_side = len(sizes) == 1 and isinstance(sizes[0], int)
    shapes = shapes_of_side(sizes[0], factor) if is_side else [sides_of_size(size) for size in sizes]
    _check_shapes(shapes, aspect_buckets, factor)
    nearest = _nearest_shapes(source, shapes)
    counts = np.bincount(nearest[nearest >= 0], minlength=len(shapes))
    order = [number for number in np.argsort(-counts, kind="stable") if counts[number]]
    if not is_side and len(order) < len(shapes):
        empty = ", ".join(written_sides(shape) for shape, number in zip(shapes, counts, strict=True) if not number)
        logger.warning("aspect_buckets=%s: no image is nearest to %s, which is left out.", aspect_buckets, empty)
    # An image whose header cannot be read counts among the most, and is reported when it is decoded.
    place = {number: place for place, number in enumerate(order)} | {-1: 0}
    bucket_of = np.array([place[number] for number in nearest.tolist()])
    sizes = tuple(size_of(*shapes[number]) for number in order)
    return BucketedImages(**_fields_of(source), bucket_of=bucket_of, sizes=sizes).resized(sizes[0])


def _fields_of(source):
    return {each.name: getattr(source, each.name) for each in fields(ImageSource)}


def _check_shapes(shapes, aspect_buckets, factor):
    """Raises InputError for a shape whose sides the network cannot halve as often as it does."""
    for shape in shapes:
        if any(side % factor for side in shape):
            nearest = written_sides([max(factor, round(side / factor) * factor) for side in shape])
            raise InputError(
                f"aspect_buckets={aspect_buckets} has {written_sides(shape)}, and the network needs sides divisible "
                f"by {factor}: choose {nearest}."
            )


def _nearest_shapes(source, shapes):
    """The number of the nearest shape of each image, int64 (N,); -1 for an image whose header cannot be read."""
    nearest = np.full(len(source), -1)
    with tqdm(total=len(source), unit="image", desc="Sorting by shape", delay=2) as bar:
        for start in range(0, len(source), IMAGES_PER_READ):
            rows = range(start, min(start + IMAGES_PER_READ, len(source)))
            for row, value in zip(rows, source.stored(rows), strict=True):
                try:
                    width, height = displayed_size(open_image(value))
                except Exception:  # PIL has many kinds; decoding the image reports them
                    continue
                nearest[row] = find_nearest_bucket(height, width, shapes)
            bar.update(len(rows))
    return nearest


@dataclass(frozen=True)
class BucketedImages(ImageSource):
    """Images of which each has one of several sizes; by itself the source has all of them in the first.

    Args:
        bucket_of (`np.ndarray`): the number of each image's size, (N,).
        sizes (`tuple`): the sizes, that of the most images first.
    """

    bucket_of: np.ndarray | None = None
    sizes: tuple = ()

    @property
    def shapes(self):
        """(height, width) of each size."""
        return [sides_of_size(size) for size in self.sizes]

    @property
    def buckets(self):
        """The source of each size, an [`ImageSource`]."""
        parts = (self.select(np.flatnonzero(self.bucket_of == number)) for number in range(len(self.sizes)))
        return [ImageSource(**_fields_of(part)).resized(size) for part, size in zip(parts, self.sizes, strict=True)]

    def select(self, chosen):
        return replace(super().select(chosen), bucket_of=self.bucket_of[chosen])

    @property
    def kind(self):
        numbers = np.bincount(self.bucket_of, minlength=len(self.sizes))
        shapes = ", ".join(f"{written_sides(shape)} ({n})" for shape, n in zip(self.shapes, numbers, strict=True))
        return f"images of {self.channels} channel(s) in {len(self.sizes)} shape(s): {shapes}"

    @property
    def resizing(self):
        return None

    @property
    def network_options(self):
        return super().network_options | {"aspect_buckets": [list(shape) for shape in self.shapes]}

    @property
    def largest(self):
        return self.resized(max(self.sizes, key=lambda size: np.prod(sides_of_size(size))))

    def check_batch_fits(self, batch_size):
        check_fits_memory(
            f"aspect_buckets: a batch of {batch_size} images of {written_sides(self.largest.form.sides)} takes",
            batch_size * self.largest.form.float_bytes,
            "choose smaller --aspect_buckets or a smaller --batch_size",
        )

    def load(self, memory_limit_gb, workers=None, disk_limit_gb=None, crop_seed=None):
        """The data set of all sizes, each of which has its share of the limits of `load_images`.

        A size none of whose images can be read is left out with a warning.
        """
        parts, unreadable, sources = [], None, self.buckets
        total = sum(source.decoded_bytes for source in sources)
        for source in sources:
            share = source.decoded_bytes / total
            disk = None if disk_limit_gb is None else disk_limit_gb * share
            try:
                parts.append(source.load(memory_limit_gb * share, workers, disk, crop_seed))
            except NothingReadable as error:
                unreadable = error
                logger.warning("There is no image of %s to train on. %s", written_sides(source.form.sides), error)
        if not parts:
            raise unreadable
        return BucketedData(parts)


class BucketedBatches(Sampler):
    """The batches of one process, for ever, as [`OfBucket`]: those of an update have one size, drawn at random.

    The size of update u is drawn from the seed and u, with the share of its images. Within a size the rows follow each
    other as in `EndlessBatches`, so that a position is one number, `first_update`.

    Args:
        lengths (`list[int]`): number of images of each size.
        batches_per_update (`int`): batches of this process that make an update.
        first_update (`int`): how many updates were made before.
        rank: the number of this process, and of all.
    """

    def __init__(self, lengths, batch_size, batches_per_update, seed, first_update=0, rank=(0, 1)):
        self.lengths, self.batch_size, self.batches_per_update = lengths, batch_size, batches_per_update
        self.seed, self.first_update, self.rank = seed, first_update, rank

    def __iter__(self):
        process, num_processes = self.rank
        walks = [Walk(length, self.seed) if length else None for length in self.lengths]
        done, draws = self._begin()
        for _ in count():
            bucket = int(self._drawn(draws, 1)[0])
            for step in range(self.batches_per_update):
                batch = done[bucket] * self.batches_per_update + step
                start = (batch * num_processes + process) * self.batch_size
                yield OfBucket(bucket, walks[bucket].rows(start, self.batch_size))
            done[bucket] += 1

    def _begin(self):
        """How many of the updates before had each size, and the generator after their draws."""
        draws = np.random.default_rng((self.seed, SHAPES_OF_UPDATES))
        done = np.zeros(len(self.lengths), dtype=int)
        for start in range(0, self.first_update, DRAWS_AT_A_TIME):
            drawn = self._drawn(draws, min(DRAWS_AT_A_TIME, self.first_update - start))
            done += np.bincount(drawn, minlength=len(done))
        return done.tolist(), draws

    def _drawn(self, draws, number):
        ends = np.cumsum(self.lengths)
        return np.searchsorted(ends, draws.random(number) * ends[-1], side="right")
