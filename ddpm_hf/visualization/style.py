"""The style of all figures.

A white background keeps figures readable on light and dark pages, and letters stay legible where a page shows a figure
of 8 inches at half of its 1200 pixels.
"""

from io import BytesIO

PIXELS_PER_INCH = 150


def new_figure(width, height, rows=1, columns=1, **kwargs):
    """An empty figure of width x height inches, and its axes as an array (rows, columns).

    It belongs to no window and no global state; saving draws it.

    Args:
        kwargs: arguments of `Figure.subplots`, such as `sharex`.
    """
    from matplotlib.figure import Figure  # takes a second to import, and most commands draw nothing

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    for one in axes.flat:
        one.grid(alpha=0.3, which="both")
        one.set_axisbelow(True)
    return figure, axes


def label_in_full(axis):
    """Labels a logarithmic axis, as 0.5 or 20, wherever its data are; matplotlib may label no value at all.

    The axis has its data already: over less than a factor of 10 values even in themselves are labelled, over more 1, 2
    and 5 times the powers of 10.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(MaxNLocator(6) if high < 10 * low else LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def save_figure(figure, path):
    """Write the figure in the format of the suffix of `path`: .png, .svg, .pdf.

    The same figure gives the same bytes: SVG files carry no date, and their parts have fixed names.
    """
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "ddpm_hf"}):
        metadata = {"Date": None} if str(path).lower().endswith(".svg") else {}
        figure.savefig(path, dpi=PIXELS_PER_INCH, metadata=metadata)


def to_image(figure):
    """The figure as a PIL image, for a frame of an animation."""
    from PIL import Image

    file = BytesIO()
    figure.savefig(file, dpi=PIXELS_PER_INCH)
    return Image.open(file).convert("RGB")


def plane(axes, limit):
    """Sets up axes for points in the plane: equal scales, within [-limit, limit]."""
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")


def scatter(axes, points, **kwargs):
    """Draws points (N, 2); more points are drawn smaller."""
    size = min(12.0, max(0.5, 3000 / len(points)))
    axes.scatter(*points.T, s=size, linewidths=0, **{"alpha": 0.6} | kwargs)
