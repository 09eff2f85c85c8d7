"""From any `datasets` data set to batches of uint8 images: opened, looked at, decoded once, walked through."""

import logging
import os
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from itertools import count
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset, Sampler

from ddpm_hf.data import FASHION_MNIST
from ddpm_hf.training.errors import InputError

logger = logging.getLogger(__name__)

# Sizes and colours are read from the headers of at most this many images, evenly spread.
SURVEYED_IMAGES = 10_000
# Decoding fewer pixels than this takes less time than starting processes for it.
PIXELS_WORTH_PROCESSES = 20e6
IMAGES_PER_READ = 256
GREY_MODES = ("1", "L", "LA", "I;16", "I;16B")


# ---------------------------------------------------------------------------------------------------------------------
# Opening


def open_rows(args):
    """The rows of `args.dataset`, of whatever kind it is, with nothing decoded."""
    source = args.dataset or str(FASHION_MNIST)
    path = Path(source)
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            rows = datasets.load_from_disk(source)
            rows = rows[args.split] if isinstance(rows, datasets.DatasetDict) else rows
        elif path.is_file():
            kind = {".jsonl": "json"}.get(path.suffix, path.suffix.lstrip("."))
            rows = datasets.load_dataset(kind, data_files={args.split: source}, split=args.split)
        else:
            rows = datasets.load_dataset(source, args.dataset_config, split=args.split)
    # Each builder of `datasets` has its own errors for what it cannot read; to the user they are one.
    except Exception as error:
        raise InputError(
            f"Cannot read split {args.split!r} of dataset={source!r} ({type(error).__name__}: {error}). Give a name on the "
            "Hub, a folder of images, a parquet file or folder, or a folder written by `save_to_disk`, and a --split "
            "that it has and that is not empty."
        ) from error
    return rows


def find_image_column(features, wanted=None):
    """The column of images: the one of type `datasets.Image`, or the one of those that is `wanted`."""
    found = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    return _choose_column("image_column", wanted, found, features, "images")


def find_label_column(features, wanted=None):
    """The column of class labels: the one of type `datasets.ClassLabel`, or any column of integers that is `wanted`."""
    found = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if wanted in features and "int" in str(getattr(features[wanted], "dtype", "")):
        return wanted
    return _choose_column("label_column", wanted, found, features, "class labels")


def _choose_column(option, wanted, found, features, kind):
    described = ", ".join(f"{name} ({getattr(f, 'dtype', type(f).__name__)})" for name, f in features.items())
    if wanted is not None:
        if wanted in found:
            return wanted
        state = f"does not hold {kind}" if wanted in features else "does not exist"
        hint = f"choose {' or '.join(found)}" if found else f"none of the columns holds {kind}"
        raise InputError(f"{option}={wanted!r} {state}: {hint}. The columns are: {described}.")
    if not found:
        raise InputError(f"The data set has no column of {kind}. The columns are: {described}.")
    if len(found) > 1:
        raise InputError(f"The data set has several columns of {kind}: choose with --{option} {' or '.join(found)}.")
    return found[0]


def read_labels(rows, column):
    """All labels as int64, and the number of classes."""
    values = rows.with_format(None).select_columns(column)[:][column]
    bad = next((i for i, value in enumerate(values) if value is None or value < 0), None)
    if bad is not None:
        raise InputError(
            f"label_column={column!r} has the label {values[bad]} in row {bad}; every image needs one from 0 up."
        )
    feature = rows.features[column]
    classes = feature.num_classes if isinstance(feature, datasets.ClassLabel) else max(values) + 1
    if max(values) >= classes:
        raise InputError(f"label_column={column!r} has the label {max(values)}, but only {classes} classes.")
    return np.asarray(values, dtype=np.int64), classes


# ---------------------------------------------------------------------------------------------------------------------
# Looking


@dataclass(frozen=True)
class Survey:
    """What the headers say: how many channels keep all colours, and the common size, None where sizes differ."""

    channels: int
    size: tuple[int, int] | None
    pixels: float


def survey(rows, column):
    """Reads the headers of (at most `SURVEYED_IMAGES`) images."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SURVEYED_IMAGES)).astype(int))
    modes, sizes = set(), Counter()
    for start in range(0, len(chosen), IMAGES_PER_READ):
        for value in rows[chosen[start : start + IMAGES_PER_READ]][column]:
            try:
                image = _open_image(value)
            except Exception:  # PIL has many; what they are is reported where the image is decoded
                continue
            modes.add(image.mode)
            sizes[image.size] += 1
    if not sizes:
        raise InputError(f"None of the images in column {column!r} can be read: the first {len(chosen)} were tried.")
    mean_pixels = sum(w * h * n for (w, h), n in sizes.items()) / sizes.total()
    return Survey(
        channels=1 if modes <= set(GREY_MODES) else 3,
        size=next(iter(sizes)) if len(sizes) == 1 else None,
        pixels=mean_pixels * len(rows),
    )


def _open_image(value):
    """The image with its header read and its pixels not; `value` is what `datasets` stores for an image."""
    return Image.open(BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"])


@dataclass(frozen=True)
class ImageSource:
    """A data set opened and looked at, and what its images are to become; `size` and `pixels` are as in `Survey`."""

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
    seen = survey(rows, column)
    own_size = seen.size[0] if seen.size and seen.size[0] == seen.size[1] else None
    return ImageSource(
        rows=rows,
        column=column,
        labels=labels,
        num_classes=num_classes,
        channels=seen.channels,
        resolution=args.resolution or own_size or default_resolution,
        center_crop=args.center_crop,
        strict=args.strict_data,
        pixels=seen.pixels,
        size=seen.size,
    )


def draw_images(source, num_images, seed):
    """`num_images` of a source, drawn at random without repetition, in their order."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[:num_images])
    labels = None if source.labels is None else source.labels[chosen]
    return replace(source, rows=source.rows.select(chosen), labels=labels)


# ---------------------------------------------------------------------------------------------------------------------
# Decoding


def decode_image(value, channels, resolution, center_crop=True):
    """One stored image as uint8 (channels, resolution, resolution)."""
    image = ImageOps.exif_transpose(_open_image(value))
    if image.mode.startswith("I;16"):  # `convert` would clip 16 bits to 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("L" if channels == 1 else "RGB")
    size = (resolution, resolution)
    if image.size != size:
        fit = ImageOps.fit if center_crop else Image.Image.resize
        image = fit(image, size, Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(resolution, resolution, channels).transpose(2, 0, 1)


class ImageReader(Dataset):
    """Decodes rows: `{"images", "labels", "rows"}` of those that can be read, `"damaged"` for the others."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitems__(self, indices):
        source = self.source
        images, read, damaged = [], [], {}
        for index, value in zip(indices, source.rows[indices][source.column], strict=True):
            try:
                images.append(decode_image(value, source.channels, source.resolution, source.center_crop))
                read.append(int(index))
            except Exception as error:  # PIL raises whatever its decoders raise
                name = (value or {}).get("path") or "no name"
                damaged[int(index)] = f"row {index} ({name}): {error}"
        if damaged and source.strict:
            raise InputError(
                f"An image cannot be read: {next(iter(damaged.values()))}. Mend or remove it, or leave out --strict_data."
            )
        shape = (-1, source.channels, source.resolution, source.resolution)
        batch = {"images": torch.from_numpy(np.array(images, dtype=np.uint8).reshape(shape))}
        if source.labels is not None:
            batch["labels"] = torch.from_numpy(source.labels[read])
        return batch | {"damaged": damaged}


class ImagesInMemory(Dataset):
    """All images in one uint8 tensor (N, C, H, W): a batch is one `index_select`."""

    def __init__(self, tensors):
        self.tensors = tensors

    def __len__(self):
        return len(self.tensors["images"])

    def __getitems__(self, indices):
        indices = torch.from_numpy(indices)
        return {name: tensor.index_select(0, indices) for name, tensor in self.tensors.items()}


class ImagesOnDemand(Dataset):
    """Images decoded when their batch is: for data that memory does not hold."""

    def __init__(self, source):
        self.reader = ImageReader(source)
        self.damaged = set()

    def __len__(self):
        return len(self.reader)

    def __getitems__(self, indices):
        batch = self.reader.__getitems__(indices)
        damaged = batch.pop("damaged")
        for index in damaged.keys() - self.damaged:
            self.damaged.add(index)
            logger.warning("An image cannot be read, others stand in for it (%s)", damaged[index])
        readable = len(batch["images"])
        if readable == 0:
            raise InputError(f"Not one of {len(indices)} images can be read: {next(iter(damaged.values()))}.")
        # Batches stay whole: readable images of the same batch fill the gaps.
        fill = torch.arange(len(indices)) % readable
        return {name: tensor[fill] for name, tensor in batch.items()} if damaged else batch


def load_images(source, memory_limit_gb, workers=None):
    """The images, decoded now if they fit into memory and when they are needed otherwise."""
    if source.decoded_bytes > memory_limit_gb * 2**30:
        return ImagesOnDemand(source)
    workers = decoding_workers(workers, source.pixels)
    return ImagesInMemory(decode_all(source, workers))


def decoding_workers(wanted, pixels):
    if wanted is not None:
        return wanted
    return os.cpu_count() if pixels > PIXELS_WORTH_PROCESSES else 0


def decode_all(source, workers=0):
    """Every readable image, decoded in parallel, and a warning that counts and names the others."""
    rows = np.arange(len(source))
    parts = np.split(rows, range(IMAGES_PER_READ, len(rows), IMAGES_PER_READ))
    images = torch.empty(len(source), source.channels, source.resolution, source.resolution, dtype=torch.uint8)
    labels, damaged, filled = [], {}, 0
    for batch in batches(ImageReader(source), parts, workers):
        images[filled : filled + len(batch["images"])] = batch["images"]
        filled += len(batch["images"])
        damaged |= batch["damaged"]
        labels.append(batch.get("labels"))
    if filled == 0:
        raise InputError(f"Not one of {len(source)} images can be read: {next(iter(damaged.values()))}.")
    if damaged:
        first = "; ".join(list(damaged.values())[:3])
        logger.warning("Skipped %d of %d images, which cannot be read: %s", len(damaged), len(source), first)
    tensors = {"images": images[:filled]}
    return tensors if source.labels is None else tensors | {"labels": torch.cat(labels)}


# ---------------------------------------------------------------------------------------------------------------------
# Walking


class EndlessBatches(Sampler):
    """Rows for each batch of one process, for ever: permutation after permutation of the data, cut without a gap.

    The batches of all processes and accumulation steps lie side by side on one walk, so what an update sees depends
    on their product alone, and a place on the walk is a number: `first_batch`, counted in batches of this process.
    """

    def __init__(self, num_images, batch_size, seed, first_batch=0, process_index=0, num_processes=1):
        if batch_size > num_images:
            raise InputError(f"batch_size={batch_size} is larger than the data, which has {num_images} images.")
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.first_batch, self.process_index, self.num_processes = first_batch, process_index, num_processes

    def __iter__(self):
        order = lru_cache(maxsize=2)(self._order)
        for batch in count(self.first_batch):
            start = (batch * self.num_processes + self.process_index) * self.batch_size
            epoch, offset = divmod(start, self.num_images)
            rows = order(epoch)[offset : offset + self.batch_size]
            missing = self.batch_size - len(rows)
            yield np.concatenate([rows, order(epoch + 1)[:missing]]) if missing else rows

    def _order(self, epoch):
        return np.random.default_rng((self.seed, epoch)).permutation(self.num_images)


def batches(images, batch_sampler, workers=0, pin_memory=False):
    """A DataLoader over a data set that gives whole batches."""
    return DataLoader(
        images,
        batch_sampler=batch_sampler,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        # Its own, so that starting workers never draws from the random state of the training.
        generator=torch.Generator(),
    )


def _as_it_is(batch):
    return batch


def to_model_range(images, random_flip=False):
    """uint8 to float32 in [-1, 1], and half of them mirrored, on the device where the images are."""
    images = images.to(torch.float32).div_(127.5).sub_(1)
    if random_flip:
        mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        images = torch.where(mirrored, images.flip(-1), images)
    return images
