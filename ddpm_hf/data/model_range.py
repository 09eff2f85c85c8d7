"""Converts uint8 images to the range of networks and back, on their own device."""

import torch


def to_model_range(images, random_flip=False):
    """uint8 to float32 in [-1, 1], with a random half mirrored if `random_flip`, on the device of the images.

    Floats are in the range already: points, or images from arrays.
    """
    if random_flip and images.ndim == 4:  # now, while a pixel may take one byte
        mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        images = torch.where(mirrored, images.flip(-1), images)
    if images.is_floating_point():
        return images.float()
    return images.to(torch.float32).div_(127.5).sub_(1)


def to_levels(images):
    """Samples of a network, clamped to [-1, 1], to the nearest levels in uint8."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
