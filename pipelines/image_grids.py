"""Many images of one pipeline, each of its own seed, and how they are laid out to be looked at."""

import math

import torch
from diffusers.utils import make_image_grid
from PIL import Image

# Small images are enlarged to about this many pixels, each pixel a square: people look at grids on large screens.
LEGIBLE_SIDE = 64


def sample_images(pipeline, num_images, seed=0, batch_size=64, **kwargs):
    """PIL images, or points (d,); sample i is that of the generator `seed + i`, however the images are split into batches.

    Args:
        kwargs: those of the call of [`GaussianDiffusionPipeline`].
    """
    images = []
    for first in range(0, num_images, batch_size):
        seeds = range(seed + first, seed + min(first + batch_size, num_images))
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        images.extend(pipeline(batch_size=len(generators), generator=generators, **kwargs).images)
    return images


def enlargement(side):
    """How many times as large images of that side are shown."""
    return max(1, LEGIBLE_SIDE // side)


def image_grid(images):
    """One image of all, in rows, about as wide as high."""
    columns = math.ceil(math.sqrt(len(images)))
    blanks = [Image.new(images[0].mode, images[0].size)] * (-len(images) % columns)
    images = [*images, *blanks]
    return image_rows([images[first : first + columns] for first in range(0, len(images), columns)])


def image_rows(rows):
    """One image of rows of images, all of one size."""
    factor = enlargement(max(rows[0][0].size))
    size = (rows[0][0].width * factor, rows[0][0].height * factor)
    enlarged = [image.resize(size, Image.Resampling.NEAREST) for row in rows for image in row]
    return make_image_grid(enlarged, len(rows), len(rows[0])).convert(rows[0][0].mode)
