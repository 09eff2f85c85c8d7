"""Noise as a function of the seed and of an image's place in the data, the same for all batches and processes."""

import numpy as np
import torch

# Each image has its own generator. Drawing the noise of several steps at once saves calls; the noise depends on their
# number, so it is not an option.
STEPS_PER_DRAW = 8


def image_generators(seed, first, x0):
    """A generator for each image, from the seed and its place in the data.

    The two are mixed, so that seed 1 does not give the noise of seed 0 to the next place.

    Args:
        first (`int`): the place of the first image.
        x0 (`torch.Tensor`): the images, (B, ..), on the device of the noise.
    """
    places = range(first, first + len(x0))
    return [torch.Generator(x0.device).manual_seed(mixed_seed(seed, place)) for place in places]


def mixed_seed(seed, place):
    """A seed for each place, unrelated to the seeds of its neighbours and of other `seed`s."""
    return int(np.random.SeedSequence((seed, place)).generate_state(1, np.uint64)[0] >> 1)


def noise_of_steps(generators, steps, x0):
    """Yields standard normal noise of the shape of `x0`, (B, C, H, W), `steps` times."""
    for start in range(0, steps, STEPS_PER_DRAW):
        shape = (min(STEPS_PER_DRAW, steps - start), *x0.shape[1:])
        yield from torch.stack([torch.randn(shape, generator=g, device=x0.device) for g in generators], dim=1)
