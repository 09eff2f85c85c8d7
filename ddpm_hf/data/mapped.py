"""Images decoded once into Arrow files, which `datasets` caches, and read by memory map."""

import shutil
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets.fingerprint import Hasher
from filelock import FileLock
from torch.utils.data import Dataset

import ddpm_hf
from ddpm_hf.data.decoding import DAMAGED_TO_NAME, ImageForm, ImageReader, decode_readable, report_damage
from ddpm_hf.data.image_headers import IMAGES_PER_READ
from ddpm_hf.data.pairs import stored_values
from ddpm_hf.data.reading_problems import cache_error

# Disk space that decoded images leave free, for checkpoints and other programs.
RESERVE_BYTES = 2 * 2**30
# Version of the conversion from images to pixels; since this one, each 16-bit image must use its range.
PIXELS = 3


class ImagesMapped(Dataset):
    """Images in memory-mapped Arrow files; a batch is copied out of the pages that hold it.

    The operating system manages the pages: all processes of a machine share them, and memory keeps as many as fit.

    Args:
        decoded (`datasets.Dataset`): the result of `decode_to_disk`.
        labels (`torch.Tensor`, *optional*): the labels of its rows.
        form ([`ImageForm`]): the form of the images.
    """

    def __init__(self, decoded, labels, form):
        self.decoded, self.labels, self.shape, self.dtype = decoded, labels, form.shape, form.dtype

    def __len__(self):
        return len(self.decoded)

    @cached_property
    def blocks(self):
        """The record batches of the files as unread arrays (n, C, H, W), and the first row of each."""
        chunks = self.decoded.data.column("pixels").chunks
        arrays = [chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, *self.shape) for chunk in chunks]
        return arrays, np.cumsum([0, *map(len, arrays)])

    def __getstate__(self):
        # Other processes receive the paths of the files, not their content.
        return {name: value for name, value in self.__dict__.items() if name != "blocks"}

    def __getitems__(self, rows):
        arrays, starts = self.blocks
        images = np.empty((len(rows), *self.shape), dtype=self.dtype)
        holding = np.searchsorted(starts, rows, side="right") - 1
        for position, (block, row) in enumerate(zip(holding, rows - starts[holding], strict=True)):
            images[position] = arrays[block][row]
        batch = {"images": torch.from_numpy(images)}
        return batch if self.labels is None else batch | {"labels": self.labels[torch.from_numpy(rows)]}

    def read(self):
        """All images and labels, as tensors in memory."""
        arrays, starts = self.blocks
        images = torch.empty(len(self), *self.shape, dtype=getattr(torch, self.dtype))
        for array, start in zip(arrays, starts, strict=False):
            images.numpy()[start : start + len(array)] = array
        return {"images": images} if self.labels is None else {"images": images, "labels": self.labels}


def decode_to_disk(source, workers=0):
    """Decodes every readable image of an `ImageSource` in parallel into the cache of `datasets`, unless it is there.

    Processes of one machine that need the same images wait for the first of them.

    Raises:
        InputError: if no image can be read, if `strict` data has a damaged image, or if the disk is full or read-only.
    """
    path = cache_file(source)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            decoded = source.rows.map(
                _decode_table,
                batched=True,
                batch_size=IMAGES_PER_READ,
                with_indices=True,
                fn_kwargs={"columns": (source.column, source.condition_column), "form": source.form},
                remove_columns=source.rows.column_names,
                features=_features(source.form),
                num_proc=workers or None,
                cache_file_name=str(path),
                new_fingerprint=_fingerprint(source),
                desc="Decoding",
            )
    except OSError as error:
        raise cache_error(error, " Or decode on demand with --on_disk_limit_gb 0.") from error
    rows = np.concatenate([np.empty(0, np.int64), *(c.to_numpy() for c in decoded.data.column("row").chunks)])
    _check_damage(source, rows)
    labels = None if source.labels is None else torch.from_numpy(source.labels[rows])
    return ImagesMapped(decoded, labels, source.form)


def room_on_disk(source):
    """Bytes that the decoded images may take in the cache of `datasets`, including images that are there already."""
    path = cache_file(source)
    existing = next(folder for folder in path.parents if folder.exists())
    cached = sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}*.arrow"))
    return shutil.disk_usage(existing).free - RESERVE_BYTES + cached


def cache_file(source):
    """The path of the decoded images: named as in `datasets`, but in its cache, not beside the user's files."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "ddpm_hf" / f"cache-{_fingerprint(source)}.arrow"


def _fingerprint(source):
    """A key that changes with the rows, the form of the images, and the versions of the decoding code."""
    return Hasher.hash([source.rows._fingerprint, asdict(source.form), ddpm_hf.__version__, PIXELS])


def _features(form):
    pixels = datasets.Sequence(datasets.Value(form.dtype), length=int(np.prod(form.shape)))
    return datasets.Features({"pixels": pixels, "row": datasets.Value("int64")})


def _decode_table(batch, rows, columns, form: ImageForm):
    images, read, _ = decode_readable(stored_values(batch, *columns), form)
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(images.reshape(-1)), int(np.prod(form.shape)))
    return pa.table({"pixels": pixels, "row": pa.array(np.array(rows, dtype=np.int64)[read])})


def _check_damage(source, rows):
    """Reports damaged images: the cache holds only readable rows, so the others are read again for their errors."""
    missing = np.setdiff1d(np.arange(len(source)), rows)
    named = ImageReader(source).__getitems__(missing[:DAMAGED_TO_NAME])["damaged"] if len(missing) else {}
    report_damage(len(source), len(missing), list(named.values()))
