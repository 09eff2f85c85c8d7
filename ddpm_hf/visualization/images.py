"""Images within figures."""

import numpy as np

from ddpm_hf.visualization.style import PIXELS_PER_INCH, new_figure

FONT_POINTS, LINE_PIXELS, GAP = 9, 22, 8


def show_image(axes, image):
    """Shows an image (C, H, W) in [-1, 1] without axes; a single channel is drawn in grey."""
    pixels = ((image.float() + 1) / 2).clamp(0, 1).movedim(0, -1).cpu().numpy()
    axes.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
    axes.grid(False)
    axes.set(xticks=[], yticks=[])


def draw_image_rows(rows, column_titles=(), row_titles=(), tile=84):
    """Rows of images as one picture, each pixel drawn as a square of whole pixels, with titles above and beside them.

    Args:
        rows (`list[list[PIL.Image.Image]]`): images of one size and mode, in rows of equal length.
        column_titles (`list[str]`, *optional*): one per column, or one per group of columns, which are set apart.
        row_titles (`list[str]`, *optional*): one for each row.
        tile (`int`): the least length of an image's longer side, in pixels.

    Returns:
        `matplotlib.figure.Figure`
    """
    pixels = np.concatenate([np.concatenate([np.asarray(image) for image in row], axis=1) for row in rows])
    enlarged = -(-tile // max(rows[0][0].size))
    height, width = (side * enlarged for side in pixels.shape[:2])
    left = max((pixels_wide(title) + 2 * GAP for title in row_titles), default=0)
    top = max((LINE_PIXELS * len(title.splitlines()) + GAP for title in column_titles), default=0)
    figure, ((axes,),) = new_figure((left + width) / PIXELS_PER_INCH, (top + height) / PIXELS_PER_INCH)
    figure.set_layout_engine("none")
    axes.set_position([left / (left + width), 0, width / (left + width), height / (top + height)])
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=FONT_POINTS, labeltop=True, labelbottom=False, pad=3)
    axes.set_xticks(_middles(pixels.shape[1], len(column_titles)), column_titles)
    axes.set_yticks(_middles(pixels.shape[0], len(row_titles)), row_titles)
    if 0 < len(column_titles) < len(rows[0]):
        for i in range(1, len(column_titles)):
            axes.axvline(i * pixels.shape[1] / len(column_titles) - 0.5, color="white", linewidth=5)
    return figure


def _middles(length, parts):
    return [(i + 0.5) * length / parts - 0.5 for i in range(parts)]


def pixels_wide(text, weight="normal"):
    """The width in pixels of a text of one or more lines in the letters of these figures."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(size=FONT_POINTS, weight=weight)
    points = max(TextPath((0, 0), line, prop=font).get_extents().width for line in text.splitlines())
    return round(points * PIXELS_PER_INCH / 72)
