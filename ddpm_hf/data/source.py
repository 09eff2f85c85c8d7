"""A data set opened and looked at, with what its images are to become: all that can be wrong is found here."""

from dataclasses import dataclass, replace

import datasets
import numpy as np

from ddpm_hf.data.decoding import ImageForm
from ddpm_hf.data.opening import find_image_column, find_label_column, open_rows, read_labels
from ddpm_hf.data.survey import spread_values, survey


class SquareImages:
    """What network and scheduler are to know of images that are `channels` and `resolution` large, stored or streamed."""

    @property
    def kind(self):
        return f"images of {self.channels}x{self.resolution}x{self.resolution}"

    @property
    def network_options(self):
        return {"sample_size": self.resolution, "in_channels": self.channels}

    @property
    def scheduler_options(self):
        """The defaults are for images."""
        return {}


@dataclass(frozen=True)
class ImageSource(SquareImages):
    """A data set opened and looked at, and what its images are to become.

    `size` is as in `Survey`; `pixels` are all that there are to decode.
    """

    rows: datasets.Dataset
    column: str
    labels: np.ndarray | None
    num_classes: int | None
    channels: int
    resolution: int
    center_crop: bool
    strict: bool
    pixels: float
    size: tuple[int, int] | None

    def __len__(self):
        return len(self.rows)

    @property
    def form(self):
        return ImageForm(self.channels, self.resolution, self.center_crop)

    @property
    def decoded_bytes(self):
        return len(self) * self.channels * self.resolution**2


def open_images(args, default_resolution):
    """Everything about the data that can be wrong is found here, before the long work of decoding.

    Args:
        args (`DataArguments`): which data.
        default_resolution (`int`): for images whose sizes differ, if `args` names no resolution.
    """
    rows = open_rows(args)
    column = find_image_column(rows.features, args.image_column)
    labels, num_classes = None, None
    if args.class_conditional:
        labels, num_classes = read_labels(rows, find_label_column(rows.features, args.label_column))
    rows = rows.select_columns(column).cast_column(column, datasets.Image(decode=False))
    seen = survey(spread_values(rows, column), column)
    return ImageSource(
        rows=rows,
        column=column,
        labels=labels,
        num_classes=num_classes,
        channels=seen.channels,
        resolution=args.resolution or seen.side or default_resolution,
        center_crop=args.center_crop,
        strict=args.strict_data,
        pixels=seen.pixels_per_image * len(rows),
        size=seen.size,
    )


def draw_images(source, num_images, seed):
    """`num_images` of a source, drawn at random without repetition, in their order."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[:num_images])
    labels = None if source.labels is None else source.labels[chosen]
    return replace(source, rows=source.rows.select(chosen), labels=labels)
