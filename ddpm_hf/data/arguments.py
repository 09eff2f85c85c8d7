"""The options that choose the data: one dataclass for the training scripts and every command."""

import math
from dataclasses import dataclass, field, fields
from typing import ClassVar

from ddpm_hf.errors import InputError, refuse_empty
from ddpm_hf.places import check_data_place
from ddpm_hf.sizes import parsed_size

# The distributions of `point_clouds`: importing them would import torch, and the help of a command would wait.
POINT_CLOUD_NAMES = ("swiss_roll", "two_moons", "eight_gaussians", "checkerboard", "pinwheel")


def option(default, help, **limits):
    """A field that is an option of a command.

    Args:
        limits: further arguments of `typer.Option`, such as `min` and `max`.
    """
    return field(default=default, metadata={"help": help, **limits})


def check_data_name(name):
    """Raises InputError, with the nearest name, for a path to data that leads nowhere (`places.check_data_place`)."""
    if name not in POINT_CLOUD_NAMES:
        check_data_place(name, POINT_CLOUD_NAMES)


@dataclass
class DataArguments:
    """The options that choose the images or points, and how they become tensors."""

    title: ClassVar[str] = "Data"

    dataset: str | None = option(
        None,
        "Name on the Hub, folder of images, parquet file or folder, .npy or .npz file of arrays, or a folder of "
        "`save_to_disk`; by default the embedded Fashion-MNIST. For points also a CSV file, or one of "
        f"{', '.join(POINT_CLOUD_NAMES)}.",
    )
    dataset_config: str | None = option(None, "Configuration of a data set that has several.")
    split: str = option("train", "Split to train on; keep another one for evaluation.")
    image_column: str | None = option(None, "Column of images, or array of them, needed only if there are several.")
    condition_column: str | None = option(
        None,
        "Column of the images that the model is told, to make those of the image column from them; or a folder that "
        "has a file of the same name for each file of the data.",
    )
    label_column: str | None = option(None, "Column of class labels, needed only if there are several.")
    class_conditional: bool = option(False, "Learn the classes of the label column, for samples of a class.")
    value_column: str | None = option(
        None, "Column of numbers that the model is told, instead of classes: an age, a temperature, an angle."
    )
    value_range: str | None = option(
        None,
        "LOW,HIGH: the least and the greatest of the numbers of value_column, as 0,100; by default those of the data. "
        "A stream does not tell its own, and needs it.",
    )
    caption_column: str | None = option(
        None,
        "Column of texts, one for each image: the model learns to draw what a text says. label_dropout drops some.",
    )
    caption_template: str | None = option(
        None,
        "Captions made from columns with names in braces, as 'a photo of a {label}'; {label} is the class of the "
        "label column.",
    )
    resolution: str | None = option(
        None,
        "Side of the square images, or HEIGHTxWIDTH, as 24x40; by default the data's own if all are squares of one "
        "size, else the sample size of the network.",
    )
    center_crop: bool = option(True, "Crop what is too long; without it the whole image is squeezed into the size.")
    preserve_input_precision: bool = option(
        True,
        "Read images of 16 bits, and floats, at their full depth, which the model's samples then have; without it the "
        "upper 8 of 16 bits are read.",
    )
    point_columns: str | None = option(None, "Comma-separated columns of points; by default all but the labels.")
    num_points: int = option(5000, f"Number of points to draw from {', '.join(POINT_CLOUD_NAMES)}.")
    strict_data: bool = option(False, "Stop at an image that cannot be read, instead of skipping and counting it.")

    @classmethod
    def among(cls, options, **changes):
        """The options of this class among more options, such as those of a training run, with changes."""
        return cls(**{each.name: getattr(options, each.name) for each in fields(cls)} | changes)

    @property
    def has_captions(self):
        """Whether the images have captions: those of a column, or such as are made of columns."""
        return self.caption_column is not None or self.caption_template is not None

    def value_limits(self):
        """(least, greatest) of the numbers as `value_range` says, None without; InputError where it says none."""
        if self.value_range is None:
            return None
        if self.value_column is None:
            raise InputError(f"value_range={self.value_range!r} is of numbers: name their column with --value_column.")
        try:
            low, high = (float(part) for part in self.value_range.split(","))
        except (ValueError, AttributeError):
            low = high = math.nan
        if not -math.inf < low < high < math.inf:
            raise InputError(f"value_range={self.value_range!r} must be two numbers, the lesser first, as 0,100.")
        return low, high

    def __post_init__(self):
        for each in fields(self):
            refuse_empty(each.name, getattr(self, each.name))
        self.resolution = parsed_size("resolution", self.resolution)
        self.value_limits()
        if self.caption_column is not None and self.caption_template is not None:
            raise InputError(
                f"caption_column={self.caption_column!r} has captions, and caption_template={self.caption_template!r} "
                "makes some: give one of them."
            )
        if self.value_column is not None and self.class_conditional:
            raise InputError(
                f"value_column={self.value_column!r} does not go with class_conditional: leave one of them out."
            )
