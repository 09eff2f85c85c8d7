"""Samples as a likelihood needs them: images on the grid of the levels that the data can take, points as they are."""

from ddpm_hf.models.network_config import is_of_points

# How far from a level of the grid a float image may be, in levels: rounding of float32 on a fine grid.
GRID_TOLERANCE = 0.01
EIGHT_BITS = 256


def levels_of(config, levels=None):
    """The number of values that the samples of a network can take: `levels`, or 256 for images; None for points.

    Args:
        config: of the network.
    """
    if not is_of_points(config):
        return levels or EIGHT_BITS
    if levels is not None:
        raise ValueError(f"levels={levels} are of images; points are continuous: leave it out.")
    return None


def numbered(batches):
    """(place of the batch's first image in the data, batch) for each batch; an error if there is none."""
    first = 0
    for batch in batches:
        yield first, batch
        first += len(batch)
    if first == 0:
        raise ValueError("There are no images to evaluate.")


def check_quantized(images, channels, levels, first=0):
    """Raises ValueError for images that are not (N, channels, H, W), or have a value off the grid of `levels`.

    Without `levels` they are points, and must be (N, channels) and finite.

    Args:
        images (`torch.Tensor`): levels 0 .. levels - 1 as integers, or floats in [-1, 1].
        first (`int`): the number of the first image, for the message.
    """
    if levels is None:
        return _check_points(images, channels, first)
    if images.ndim != 4 or images.shape[1] != channels:
        raise ValueError(
            f"Images of shape {tuple(images.shape)} must be (N, {channels}, height, width) for this network."
        )
    codes = _codes(images, levels)
    off_grid = (codes - codes.round()).abs() > GRID_TOLERANCE
    outside = (codes < -GRID_TOLERANCE) | (codes > levels - 1 + GRID_TOLERANCE) | codes.isnan()
    bad = (off_grid | outside).flatten(1)
    if not bad.any():
        return
    image = bad.any(1).nonzero()[0].item()
    value = images[image].flatten()[bad[image]][0].item()
    if images.is_floating_point():
        raise ValueError(
            f"Image {first + image} has the value {value:.6g}: images must be in [-1, 1], on the grid of levels={levels}, "
            f"2 k / {levels - 1} - 1 for whole k. Pass uint8 images, or the `levels` that the data was quantised to."
        )
    raise ValueError(f"Image {first + image} has the level {value}: levels={levels} are 0 .. {levels - 1}.")


def _check_points(points, channels, first):
    if points.ndim != 2 or points.shape[1] != channels:
        raise ValueError(f"Points of shape {tuple(points.shape)} must be (N, {channels}) for this network.")
    bad = (~points.isfinite()).any(1)
    if bad.any():
        raise ValueError(f"Point {first + bad.nonzero()[0].item()} has a value that is not finite.")


def levels_to_model_range(images, levels):
    """Images of either kind as float32 in [-1, 1], exactly on the grid; points as float32."""
    if levels is None:
        return images.float()
    return _codes(images, levels).round_().mul_(2 / (levels - 1)).sub_(1)


def _codes(images, levels):
    """Levels 0 .. levels - 1, as floats that are not rounded."""
    return (images.float() + 1) * ((levels - 1) / 2) if images.is_floating_point() else images.float()
