"""From uint8 images to what networks take, on the device where the images are."""

import torch


def to_model_range(images, random_flip=False):
    """uint8 to float32 in [-1, 1], and half of them mirrored, on the device where the images are.

    Floats are what the network takes already: points.
    """
    if images.is_floating_point():
        return images.float()
    if random_flip:  # while a pixel is one byte
        mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        images = torch.where(mirrored, images.flip(-1), images)
    return images.to(torch.float32).div_(127.5).sub_(1)
