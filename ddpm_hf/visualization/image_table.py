"""A table of images, with titles above and beside it and a caption under each cell."""

from typing import NamedTuple

import numpy as np

from ddpm_hf.visualization.images import FONT_POINTS, GAP, LINE_PIXELS, pixels_wide
from ddpm_hf.visualization.style import PIXELS_PER_INCH, new_figure

# The least distance between two cells, and the height of a caption, in pixels.
BETWEEN_CELLS, CAPTION_PIXELS = 20, 30


class ImageTable(NamedTuple):
    """What a table of images shows.

    cells: rows of cells, each a list of `PIL.Image.Image`; all cells have equally many, of one size and mode.
    row_titles, column_titles: one for each row, and one for each column.
    captions: rows of texts, one for each cell. bold: the (row, column) of the captions in bold letters.
    title: stands above the table, in one or more lines.
    """

    cells: list[list[list]]
    row_titles: list[str]
    column_titles: list[str]
    captions: list[list[str]]
    bold: set[tuple[int, int]]
    title: str


class _Layout(NamedTuple):
    """Lengths in pixels: of the margins, from one cell to the next, and of the images of a cell."""

    left: int
    top: int
    across: int
    down: int
    width: int
    height: int

    def corner(self, row, column):
        """The upper left corner (x, y) of the images of a cell."""
        beside = (self.across - BETWEEN_CELLS - self.width) // 2
        return self.left + self.across * column + beside, self.top + self.down * row


def draw_image_table(table, tile=84):
    """Draws an [`ImageTable`], each pixel of an image as a square of whole pixels.

    Args:
        tile (`int`): the least length of an image's longer side, in pixels.

    Returns:
        `matplotlib.figure.Figure`
    """
    factor = -(-tile // max(table.cells[0][0][0].size))
    images = [[_joined(cell, factor) for cell in row] for row in table.cells]
    layout = _layout(table, *images[0][0].shape[:2])
    width = max(layout.left + layout.across * len(table.column_titles), pixels_wide(table.title) + 4 * GAP)
    height = layout.top + layout.down * len(table.row_titles)
    axes = _axes_in_pixels(width, height)
    _write_titles(axes, layout, table)
    for row, of_row in enumerate(images):
        for column, pixels in enumerate(of_row):
            x, y = layout.corner(row, column)
            edges = (x, x + layout.width, y + layout.height, y)
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto", extent=edges)
            weight = "bold" if (row, column) in table.bold else "normal"
            below = y + layout.height + CAPTION_PIXELS / 2
            _write(axes, x + layout.width / 2, below, table.captions[row][column], weight=weight)
    axes.set(xlim=(0, width), ylim=(height, 0))  # y goes down, as in images
    return axes.figure


def _joined(cell, factor):
    pixels = np.concatenate([np.asarray(image) for image in cell], axis=1)
    return pixels.repeat(factor, 0).repeat(factor, 1)


def _layout(table, height, width):
    captions = max(pixels_wide(text, "bold") for row in table.captions for text in row)
    return _Layout(
        left=max(map(pixels_wide, table.row_titles)) + 4 * GAP,
        top=_high(table.title) + LINE_PIXELS + 3 * GAP,
        across=max(width, captions) + BETWEEN_CELLS,
        down=height + CAPTION_PIXELS + BETWEEN_CELLS // 2,
        width=width,
        height=height,
    )


def _high(text):
    return LINE_PIXELS * len(text.splitlines())


def _write_titles(axes, layout, table):
    _write(axes, GAP, GAP + _high(table.title) / 2, table.title, "left")
    for column, title in enumerate(table.column_titles):
        x, y = layout.corner(0, column)
        _write(axes, x + layout.width / 2, y - LINE_PIXELS / 2 - 3, title)
    for row, title in enumerate(table.row_titles):
        _write(axes, layout.left - 2 * GAP, layout.corner(row, 0)[1] + layout.height / 2, title, "right")


def _write(axes, x, y, text, alignment="center", weight="normal"):
    axes.text(x, y, text, ha=alignment, va="center", fontsize=FONT_POINTS, weight=weight)


def _axes_in_pixels(width, height):
    """Axes without a frame that fill a figure of so many pixels."""
    figure, ((axes,),) = new_figure(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH)
    figure.set_layout_engine("none")
    axes.set_position([0, 0, 1, 1])
    axes.set_axis_off()
    return axes
