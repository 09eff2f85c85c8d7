"""A sheet of samples, each beside the training images that are nearest to it."""

from typing import NamedTuple

from PIL import Image

from ddpm_hf.visualization.image_table import ImageTable, draw_image_table

ROWS, LEGIBLE_TILE = 10, 84


class Neighbour(NamedTuple):
    """The nearest training image of a sample in one space: its distance and its place."""

    distance: float
    place: int


def neighbour_sheet(samples, neighbours, image_of, title):
    """A figure with a row for each sample: the sample, and its nearest training image in each space.

    Args:
        samples (`dict`): {place: image, uint8 array (C, H, W)} of the samples to show, in their order.
        neighbours (`dict`): {space, a short name: {place of a sample: [`Neighbour`]}}.
        image_of: a function of the place of a training image that gives it, as an array like a sample.
        title (`str`): stands above the table.
    """
    spaces = [*neighbours]
    rows = [[neighbours[space][place] for space in spaces] for place in samples]
    table = ImageTable(
        cells=[
            [[_picture(image, image)], *([_picture(image_of(each.place), image)] for each in row)]
            for image, row in zip(samples.values(), rows, strict=True)
        ],
        row_titles=[str(rank) for rank in range(1, len(rows) + 1)],
        column_titles=["sample", *(f"in {space}" for space in spaces)],
        captions=[
            [f"number {place}", *(f"{each.distance:.3g}" for each in row)]
            for place, row in zip(samples, rows, strict=True)
        ],
        bold=set(),
        title=title,
    )
    return draw_image_table(table, LEGIBLE_TILE)


def nearest_first(neighbours):
    """The places of the samples to show, those with the smallest distances, in ascending order of distance."""
    return sorted(neighbours, key=lambda place: neighbours[place].distance)[:ROWS]


def _picture(levels, like):
    """A PIL image of uint8 (C, H, W) in the size of another one."""
    image = Image.fromarray(
        levels.transpose(1, 2, 0).squeeze(-1) if levels.shape[0] == 1 else levels.transpose(1, 2, 0)
    )
    return image.resize(like.shape[:0:-1])
