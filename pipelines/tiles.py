"""Tiles of images that are larger than what a network was trained on, and the blending of its outputs for them."""

import math

import torch


def check_overlap(overlap):
    """Raises ValueError for a share of a tile that is not in [0, 1)."""
    if not 0 <= overlap < 1:
        raise ValueError(f"tile_overlap={overlap} must be in [0, 1): the share of a tile that overlaps the next one.")


def tiles_of(sides, tile, factors, overlap):
    """The tiles that cover an image, as slices (rows, columns), evenly spread.

    Args:
        sides, tile (`tuple[int, int]`): the height and width of the image and of each tile.
        factors (`tuple[int, int]`): the tiles begin at multiples of these.
        overlap (`float`): the least share of a tile's side that overlaps the next tile.
    """
    rows, columns = (
        [slice(first, first + length) for first in _begins(side, length, factor, overlap)]
        for side, length, factor in zip(sides, tile, factors, strict=True)
    )
    return [(row, column) for row in rows for column in columns]


def _begins(side, length, factor, overlap):
    """Where tiles of a length begin along a side."""
    room, stride = (side - length) // factor, max(1, int(length * (1 - overlap)) // factor)
    count = math.ceil(room / stride) + 1
    return [factor * round(room * place / max(1, count - 1)) for place in range(count)]


def blended(predict_tile, tiles, sides):
    """The mean of the outputs for all tiles, (B, C, H, W), each weighted by its distance from the tile's border.

    Args:
        predict_tile (`Callable`): the output (B, C, h, w) for a tile's rows and columns.
        tiles: from `tiles_of`.
        sides (`tuple[int, int]`): the height and width of the image.
    """
    total = weights = None
    for rows, columns in tiles:
        output = predict_tile(rows, columns)
        if total is None:
            window = _window(output)
            total = output.new_zeros(*output.shape[:2], *sides)
            weights = output.new_zeros(sides)
        total[..., rows, columns] += window * output
        weights[rows, columns] += window
    return total / weights


def _window(output):
    """Weights (h, w) that fall linearly from the middle of a tile to its border, and stay above 0."""
    ramps = []
    for length in output.shape[2:]:
        place = torch.arange(length, device=output.device, dtype=output.dtype)
        ramps.append(torch.minimum(place, length - 1 - place) + 1)
    return ramps[0][:, None] * ramps[1][None]
