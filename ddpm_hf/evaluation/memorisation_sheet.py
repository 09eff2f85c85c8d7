"""A picture of the samples that lie nearest to training images, each beside its nearest in pixels and in features."""

from typing import NamedTuple

from PIL import Image

from ddpm_hf.reports.report_files import MEMORISED_SAMPLES
from ddpm_hf.visualization.image_table import ImageTable, draw_image_table
from ddpm_hf.visualization.style import save_figure

ROWS, LEGIBLE_TILE = 10, 84


class Neighbour(NamedTuple):
    """The nearest training image of a sample in one space: its distance and its place."""

    distance: float
    place: int


def draw_memorisation_sheet(folder, samples, neighbours, train, title):
    """Writes `memorisation.png` into the folder: a row for each sample.

    Args:
        samples (`dict`): {place: image, uint8 array (C, H, W)} of the samples to show, in their order.
        neighbours (`dict`): {space, a short name: {place of a sample: [`Neighbour`]}}.
        train: the image set of the training images.
        title (`str`): stands above the table.
    """
    spaces = [*neighbours]
    rows = [[neighbours[space][place] for space in spaces] for place in samples]
    table = ImageTable(
        cells=[
            [[_picture(image, image)], *([_picture(train.batch([each.place])[0].numpy(), image)] for each in row)]
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
    save_figure(draw_image_table(table, LEGIBLE_TILE), folder / MEMORISED_SAMPLES)


def _picture(levels, like):
    """A PIL image of uint8 (C, H, W) in the size of another one."""
    image = Image.fromarray(
        levels.transpose(1, 2, 0).squeeze(-1) if levels.shape[0] == 1 else levels.transpose(1, 2, 0)
    )
    return image.resize(like.shape[:0:-1])
