"""Samples many images, each with its own seed, and lays them out as a grid."""

import math

import numpy as np
import torch
from diffusers.utils import make_image_grid
from PIL import Image

# Small images are enlarged to about this many pixels, each pixel drawn as a square, for large screens.
LEGIBLE_SIDE = 64


def sample_images(pipeline, num_images, seed=0, batch_size=64, **kwargs):
    """PIL images, or points (d,); sample i uses the generator with `seed + i`, whatever the batch size.

    Args:
        kwargs: arguments of the call of [`GaussianDiffusionPipeline`].
    """
    images = []
    for first in range(0, num_images, batch_size):
        seeds = range(seed + first, seed + min(first + batch_size, num_images))
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        images.extend(pipeline(batch_size=len(generators), generator=generators, **kwargs).images)
    return images


def enlargement(side):
    """The factor by which images of that side are enlarged."""
    return max(1, LEGIBLE_SIDE // side)


def image_grid(images):
    """A grid of all images, about as wide as high; images of several sizes are centred on black."""
    images, columns = _of_one_size(images), math.ceil(math.sqrt(len(images)))
    blanks = [Image.new(images[0].mode, images[0].size)] * (-len(images) % columns)
    images = [*images, *blanks]
    return image_rows([images[first : first + columns] for first in range(0, len(images), columns)])


def _of_one_size(images):
    """The images, each in the middle of a black one as wide and as high as any."""
    size = max(image.width for image in images), max(image.height for image in images)
    if all(image.size == size for image in images):
        return images
    whole = [Image.new(image.mode, size) for image in images]
    for black, image in zip(whole, images, strict=True):
        black.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return whole


def array_grid(images):
    """A grid of arrays (H, W, C), about as wide as high, as one array."""
    columns = math.ceil(math.sqrt(len(images)))
    blanks = [np.zeros_like(images[0])] * (-len(images) % columns)
    images = [*images, *blanks]
    return np.vstack([np.hstack(images[first : first + columns]) for first in range(0, len(images), columns)])


def image_rows(rows):
    """A grid of rows of images, all of one size."""
    factor = enlargement(max(rows[0][0].size))
    size = (rows[0][0].width * factor, rows[0][0].height * factor)
    enlarged = [image.resize(size, Image.Resampling.NEAREST) for row in rows for image in row]
    return make_image_grid(enlarged, len(rows), len(rows[0])).convert(rows[0][0].mode)


def side_by_side(images, factor=1):
    """PIL images of one shape beside each other, as one, with the colours of all.

    Args:
        factor (`int`): by which the largest is enlarged; the others get its size.
    """
    width, height = max(image.size for image in images)
    size, mode = (factor * width, factor * height), max((image.mode for image in images), key=len)
    same = [image.resize(size, Image.Resampling.NEAREST).convert(mode) for image in images]
    return make_image_grid(same, 1, len(same)).convert(mode)
