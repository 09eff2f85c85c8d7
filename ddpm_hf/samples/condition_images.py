"""Images that a network is told beside x_t, by which it upscales, colours or translates.

A condition image is concatenated to x_t at the input of the network, so that a stock U-Net with as many input channels
more holds it. It is the image of a pair, or an image in low resolution, which is made from the data by the operator
in the network's config, and which is blown up to the size of x_t.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from ddpm_hf.portable.config import own_value

# How an image becomes one of low resolution: as data are resized, or by the means of blocks.
DOWNSAMPLINGS = ("lanczos", "area")
# Networks are told 1000 times the augmentation level, since diffusers' embeddings of time are made for 0 .. 1000.
LEVEL_SCALE = 1000
# The values of a condition image that was dropped: mid-grey.
DROPPED = 0.0


class ConditionImage(NamedTuple):
    """The condition image of a network, as the keys of its config with the same names say it.

    condition_channels: its channels. low_resolution: its (height, width), None for an image of the samples' own size.
    downsampling: the filter that makes it from an image, for a low resolution. max_augmentation_level: the largest
    level of noise that it had in training (Ho et al. 2021, section 4.2); None for a network that is told no level.
    condition_dropout: whether it was dropped in training now and then, as classifier-free guidance requires.
    """

    condition_channels: int
    low_resolution: tuple[int, int] | None
    downsampling: str
    max_augmentation_level: float | None
    condition_dropout: bool

    def of_image(self, images):
        """The images (N, C, H, W) in the low resolution of this condition, in [-1, 1]."""
        if self.downsampling == "area":
            return F.interpolate(images, self.low_resolution, mode="area")
        sides = zip(images.shape[2:], self.low_resolution, strict=True)
        rows, columns = (lanczos_weights(*lengths).to(images) for lengths in sides)
        return (rows @ images @ columns.T).clamp(-1, 1)

    def factor(self, sides):
        """By how much an image of these sides is larger than its condition image, in height and in width."""
        if self.low_resolution is None:
            return 1, 1
        return tuple(side // low for side, low in zip(sides, self.low_resolution, strict=True))

    def split(self, data):
        """x_0 and its condition image from data, (N, C, H, W), in the range of the network.

        The data of a pair have the channels of x_0 and then those of the condition image.
        """
        if self.low_resolution is not None:
            return data, self.of_image(data)
        channels = data.shape[1] - self.condition_channels
        return data.split([channels, self.condition_channels], dim=1)


def lanczos_weights(length, new_length):
    """The weights of a line of pixels in a shorter one, (new_length, length), of the antialiased filter of data.

    They are those of Pillow's `LANCZOS`: sinc(u) sinc(u / 3) for |u| < 3, u in pixels of the shorter line.
    """
    scale = length / new_length
    centres = (torch.arange(new_length, dtype=torch.float64) + 0.5) * scale
    u = (torch.arange(length) + 0.5 - centres[:, None]) / scale
    weights = torch.sinc(u) * torch.sinc(u / 3) * (u.abs() < 3)
    return weights / weights.sum(1, keepdim=True)


def condition_of(config):
    """The [`ConditionImage`] of a network, or None for a network that is told no image."""
    channels = own_value(config, "condition_channels")
    if channels is None:
        return None
    low = own_value(config, "low_resolution")
    return ConditionImage(
        channels,
        low if low is None else both_sides(low),
        own_value(config, "downsampling") or DOWNSAMPLINGS[0],
        own_value(config, "max_augmentation_level"),
        bool(own_value(config, "condition_dropout")),
    )


def both_sides(size):
    """(height, width) of a size that is one number for a square, or both."""
    return (size, size) if isinstance(size, int) else tuple(size)


def check_divides(low_resolution, sides):
    """Raises ValueError for a low resolution that is not a whole fraction of the sides (height, width)."""
    low = both_sides(low_resolution)
    if not all(0 < small < side and side % small == 0 for small, side in zip(low, sides, strict=True)):
        fitting = [n for n in range(1, min(sides)) if all(side % n == 0 for side in sides)]
        raise ValueError(
            f"low_resolution={low_resolution} must divide the sides of the images, {sides[0]}x{sides[1]}, and be "
            f"smaller: choose one of {', '.join(map(str, fitting))}."
        )


def augmented(condition, level, noise):
    r""":math:`\sqrt{1 - l^2} c + l \epsilon`: a condition image with noise of the level l (Ho et al. 2021).

    Args:
        condition, noise (`torch.Tensor`): (N, C, H, W).
        level: one number, or one for each image, (N,).
    """
    level = torch.as_tensor(level, dtype=condition.dtype, device=condition.device).reshape(-1, 1, 1, 1)
    return (1 - level**2).sqrt() * condition + level * noise


def enlarged(condition, sides):
    """A condition image in the size of x_t, by bilinear interpolation."""
    if tuple(condition.shape[2:]) == tuple(sides):
        return condition
    return F.interpolate(condition, tuple(sides), mode="bilinear")


def with_levels(labels, levels):
    """What a network is told of the class and the augmentation level of each image, as its `class_labels`.

    Args:
        labels (`torch.Tensor`, *optional*): (N,), None for a network without classes.
        levels (`torch.Tensor`, *optional*): (N,), None for a network that is told no level.

    Returns:
        The labels; or 1000 levels, (N,), float; or both, (N, 2), float.
    """
    if levels is None:
        return labels
    levels = LEVEL_SCALE * levels
    return levels if labels is None else torch.stack([labels.to(levels.dtype), levels], dim=1)
