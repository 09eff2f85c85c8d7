"""Noise that is a function of the seed and of an image's place in the data, so that batches and processes do not matter."""

import numpy as np
import torch

# Each image has its own generator; drawing the noise of several steps at once spares calls. What the noise is depends on
# this number, so it is not an option.
STEPS_PER_DRAW = 8


def image_generators(seed, first, x0):
    """One for each image, by its place in the data; the seeds are mixed, so that seed 1 is not seed 0 moved by one.

    Args:
        first (`int`): the place of the first image.
        x0 (`torch.Tensor`): the images, (B, ..), on the device of the noise.
    """
    places = range(first, first + len(x0))
    return [torch.Generator(x0.device).manual_seed(mixed_seed(seed, place)) for place in places]


def mixed_seed(seed, place):
    """A seed for each place; those of neighbours, and of places under other seeds, have nothing in common."""
    return int(np.random.SeedSequence((seed, place)).generate_state(1, np.uint64)[0] >> 1)


def noise_of_steps(generators, steps, x0):
    """Yields standard normal noise of the shape of `x0`, (B, C, H, W), `steps` times."""
    for start in range(0, steps, STEPS_PER_DRAW):
        shape = (min(STEPS_PER_DRAW, steps - start), *x0.shape[1:])
        yield from torch.stack([torch.randn(shape, generator=g, device=x0.device) for g in generators], dim=1)
