"""Decodes stored images into tensors of one size, and counts and names damaged images."""

import logging
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from accelerate.utils import get_int_from_env
from PIL import Image
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ddpm_hf.data.batch_order import batches
from ddpm_hf.data.image_headers import IMAGES_PER_READ, name_of, open_image
from ddpm_hf.data.limits import check_workers, usable_cores
from ddpm_hf.errors import InputError
from ddpm_hf.image_files import check_range, deep_values, highest_value, in_eight_bits, is_sixteen_bit
from ddpm_hf.samples.value_range import EIGHT_BIT_RANGE, Depth, to_unit_range
from ddpm_hf.sizes import sides_of_size

logger = logging.getLogger(__name__)

# Decoding fewer pixels than this is faster than starting processes or keeping the result on disk.
PIXELS_WORTH_PROCESSES = 20e6
DAMAGED_TO_NAME = 3
CENTER = (0.5, 0.5)


@dataclass(frozen=True)
class ImageForm:
    """The form of every decoded image, (channels, height, width) of the resolution, and how it is given that.

    A pair has the channels of the image and then `condition_channels`, which is None for images without one. Images
    are uint8; those with a `depth`, of 16 bits or floats, are floats in [-1, 1], and so are pairs with such an image.
    """

    channels: int
    resolution: int | str
    center_crop: bool = True
    condition_channels: int | None = None
    depth: Depth | None = None
    condition_depth: Depth | None = None

    @property
    def dtype(self):
        """The name of the type of the values."""
        return "uint8" if self.depth is None and self.condition_depth is None else "float32"

    @property
    def parts(self):
        """The form of the image and that of its condition image, each alone."""
        image = replace(self, condition_channels=None, condition_depth=None)
        return image, replace(image, channels=self.condition_channels, depth=self.condition_depth)

    @property
    def image_bytes(self):
        """Bytes of a decoded image."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def shape(self):
        return self.channels + (self.condition_channels or 0), *self.sides

    @property
    def sides(self):
        """(height, width)."""
        return sides_of_size(self.resolution)

    @property
    def float_bytes(self):
        """Bytes of an image as floats for the network."""
        return 4 * math.prod(self.shape)


def decode_image(value, form, place=CENTER):
    """One stored image in its form.

    Args:
        value: an image as stored by `datasets`, or a pair of them.
        form (`ImageForm`): without its `center_crop` the whole image is squeezed into the size.
        place (`tuple[float, float]`): position of the crop: (0, 0) is left and top, (1, 1) right and bottom.

    Raises:
        InputError: for an unsupported bit depth, and for 16 bits of which this image uses few, whatever others use.
    """
    if isinstance(value, tuple):
        decoded = [decode_image(one, part, place) for one, part in zip(value, form.parts, strict=True)]
        if form.dtype != "uint8":
            decoded = [to_unit_range(one, EIGHT_BIT_RANGE) if one.dtype == np.uint8 else one for one in decoded]
        return np.concatenate(decoded)
    if form.depth is not None:
        return _decode_deep(value, form, place)
    image = open_image(value)
    if is_sixteen_bit(image):  # asked before the pixels are loaded, which forgets it
        check_range(highest_value(image))
    image = in_eight_bits(image, "L" if form.channels == 1 else "RGB")
    return np.asarray(_sized(image, form, place)).reshape(*form.sides, form.channels).transpose(2, 0, 1)


def _decode_deep(value, form, place):
    """An image of 16 bits or of floats, as floats in [-1, 1]; 16 bits stay on the grid of their levels."""
    (low, high), levels = form.depth
    planes = np.moveaxis(deep_values(lambda: open_image(value), form.channels), -1, 0)
    if not (planes.min() >= low and planes.max() <= high):
        raise InputError(
            f"its values are from {planes.min():g} to {planes.max():g}, and the network is for the range {low:g} to "
            f"{high:g}"
        )
    sized = np.stack([_sized(Image.fromarray(plane), form, place) for plane in planes])
    sized = sized if levels is None else sized.round()
    return to_unit_range(sized.clip(low, high), form.depth.value_range)


def _sized(image, form, place):
    """A PIL image cropped and resized to the sides of the form."""
    height, width = form.sides
    size = (width, height)
    if image.size == size:
        return image
    box = _largest_box(image.size, size, place) if form.center_crop else None
    return image.resize(size, Image.Resampling.LANCZOS, box)


def _largest_box(size, wanted, place):
    """The largest part of an image of `size` with the shape of `wanted`, both (width, height).

    Returns:
        left, top, right, bottom, in whole pixels, to avoid blur.
    """
    # Products, not ratios, so that squares and whole multiples are exact.
    if size[0] * wanted[1] <= size[1] * wanted[0]:
        width, height = size[0], max(1, round(size[0] * wanted[1] / wanted[0]))
    else:
        width, height = max(1, round(size[1] * wanted[0] / wanted[1])), size[1]
    left, top = (
        round((length - part) * share) for length, part, share in zip(size, (width, height), place, strict=True)
    )
    return left, top, left + width, top + height


def decode_readable(values, form, places=None):
    """Decodes those of `values` that can be read.

    Returns:
        images (N, C, H, W), their N positions in `values`, and for the other positions the reason of failure.
    """
    images, read, damaged = [], [], {}
    for position, value in enumerate(values):
        try:
            images.append(decode_image(value, form, CENTER if places is None else places[position]))
            read.append(position)
        except Exception as error:  # PIL raises whatever its decoders raise
            stored = value[0] if isinstance(value, tuple) else value
            damaged[position] = f"({name_of(stored)}): {error}"
    return np.array(images, dtype=form.dtype).reshape(-1, *form.shape), read, damaged


class ImageReader(Dataset):
    """Decodes rows: `{"images", "labels"}` of readable images, and `"damaged"` for the others.

    Args:
        source (`ImageSource`): which images.
        crop_seed (`int`, *optional*): crops are at random places, new in each batch; centred without a seed.
    """

    def __init__(self, source, crop_seed=None):
        self.source, self.crop_seed = source, crop_seed

    def __len__(self):
        return len(self.source)

    def __getitems__(self, rows):
        source, places = self.source, None
        if self.crop_seed is not None:
            places = np.random.default_rng((self.crop_seed, *rows)).random((len(rows), 2))
        images, read, damaged = decode_readable(source.stored(rows), source.form, places)
        damaged = {
            int(rows[position]): f"row {source.number_of(rows[position])} {why}" for position, why in damaged.items()
        }
        if damaged and source.strict:
            raise_damaged(next(iter(damaged.values())))
        batch = {"images": torch.from_numpy(images)}
        if source.labels is not None:
            batch["labels"] = torch.from_numpy(source.labels[rows[read]])
        return batch | {"damaged": damaged}


class NothingReadable(InputError):
    """Not one image of a source can be read."""


def raise_damaged(which):
    raise InputError(f"An image cannot be read: {which}. Repair or remove it, or leave out --strict_data.")


def fill_gaps(batch, batch_size, damaged):
    """Fills the places of `damaged` images in a batch with readable images of the same batch."""
    readable = len(batch["images"])
    if readable == batch_size:
        return batch
    if readable == 0:
        raise InputError(f"Not one of {batch_size} images can be read: {next(iter(damaged.values()))}.")
    fill = torch.arange(batch_size) % readable
    return {name: tensor[fill] for name, tensor in batch.items()}


def decoding_workers(wanted, pixels, alone=False):
    """Number of decoding processes: as wanted, by default this process's share of the cores, if that pays.

    If it decodes `alone`, while the other processes of the machine wait, its share is all cores.
    """
    if wanted is not None:
        check_workers(wanted)
        return wanted
    processes_here = get_int_from_env(["LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"], 1)
    share = max(1, usable_cores() // (1 if alone else processes_here))
    return share if pixels > PIXELS_WORTH_PROCESSES else 0


def decode_all(source, workers=0):
    """Decodes every readable image in parallel, and warns of the others with their number and names."""
    rows = np.arange(len(source))
    parts = np.split(rows, range(IMAGES_PER_READ, len(rows), IMAGES_PER_READ))
    images = torch.empty(len(source), *source.form.shape, dtype=getattr(torch, source.form.dtype))
    labels, damaged, filled = [], {}, 0
    with tqdm(
        total=len(source), unit="image", desc="Decoding", disable=source.pixels <= PIXELS_WORTH_PROCESSES
    ) as bar:
        for batch in batches(ImageReader(source), parts, workers):
            images[filled : filled + len(batch["images"])] = batch["images"]
            filled += len(batch["images"])
            damaged |= batch["damaged"]
            labels.append(batch.get("labels"))
            bar.update(len(batch["images"]) + len(batch["damaged"]))
    report_damage(len(source), len(damaged), list(damaged.values()))
    tensors = {"images": images[:filled]}
    return tensors if source.labels is None else tensors | {"labels": torch.cat(labels)}


def report_damage(num_images, number, damaged):
    """Warns of images that cannot be read, with their number and the first names.

    Raises:
        InputError: if no image can be read.
    """
    if number == num_images:
        raise NothingReadable(f"Not one of {number} images can be read: {damaged[0]}.")
    if number:
        named = "; ".join(damaged[:DAMAGED_TO_NAME])
        logger.warning("Skipped %d of %d images, which cannot be read: %s", number, num_images, named)
