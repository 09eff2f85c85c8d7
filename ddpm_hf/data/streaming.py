"""Images streamed from the Hub or from shards, in an order that a position of four numbers restores exactly.

The processes share the shards of one random permutation after another. Each process shuffles its rows within blocks,
with a permutation given by (seed, process, block). So the order does not depend on earlier draws, unlike the buffer of
`datasets.IterableDataset.shuffle`, which no saved state restores. One process reads and others decode, so the number
of decoding processes does not change the order.
"""

import json
import logging
import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count, islice, takewhile
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from tqdm.auto import tqdm

from ddpm_hf.data.batch_order import as_it_is, batches
from ddpm_hf.data.decoding import ImageForm, decode_readable, fill_gaps, raise_damaged, report_damage
from ddpm_hf.data.depth import depth_of
from ddpm_hf.data.fingerprint import fingerprint_of_images
from ddpm_hf.data.image_headers import IMAGES_PER_READ, survey
from ddpm_hf.data.limits import check_batch_size
from ddpm_hf.data.pairs import find_columns, stored_values
from ddpm_hf.data.sized_images import SizedImages
from ddpm_hf.data.source import form_of_conditions, resolution_of
from ddpm_hf.data.stored_rows import find_label_column, open_rows
from ddpm_hf.data.told_labels import are_within, as_numbers, check_value_column, names_of_classes
from ddpm_hf.errors import InputError
from ddpm_hf.interruptions import ignore_stop_signals
from ddpm_hf.samples.condition_values import value_limits_of

logger = logging.getLogger(__name__)

# Sizes and colours are taken from this many images at the beginning.
SURVEYED_IMAGES = 1000
# Batches of stored images that are read ahead.
BATCHES_READ_AHEAD = 16


@dataclass(frozen=True)
class StreamSource(SizedImages):
    """A data set opened as a stream and inspected, and the form of its decoded images; their number is unknown.

    `label_column` is of classes, or of numbers if there are `value_limits`, and None without both; `num_classes` and
    `class_names` are None without classes, `condition_column` without pairs. `size` and `median_side` are as in
    `Survey`. `fingerprint` covers the number of shards and the first images and labels. `known_length` is the number
    of images if the first ones are all, else None.
    """

    rows: datasets.IterableDataset
    column: str
    label_column: str | None
    num_classes: int | None
    class_names: list[str] | None
    form: ImageForm
    strict: bool
    size: tuple[int, int] | None
    median_side: int
    fingerprint: str
    known_length: int | None
    condition_column: str | None = None
    value_limits: tuple[float, float] | None = None

    def stored(self, rows):
        """The stored images, or pairs, of [`StoredRow`]s."""
        columns = [name for name in (self.column, self.condition_column) if name is not None]
        batch = {name: [row.values[name] for row in rows] for name in columns}
        return stored_values(batch, self.column, self.condition_column)

    def check_batch_fits(self, batch_size):
        super().check_batch_fits(batch_size)
        if self.known_length is not None:
            check_batch_size(batch_size, self.known_length)

    @property
    def num_shards(self):
        return self.rows.num_shards


def open_stream(args, default_resolution, config=None):
    """Opens a stream and checks it as far as its first images allow.

    Args:
        args (`DataArguments`): which data.
        default_resolution (`int`, *optional*): the resolution for images of several sizes, if `args` names none.
        config (*optional*): config of a trained network, whose depth the images then have.
    """
    rows = open_rows(args, streaming=True)
    if rows.features is None:
        raise InputError(
            f"dataset={args.dataset!r} does not say which columns it has before it is read: leave out --streaming."
        )
    column, condition_column = _find_columns(rows.features, args)
    told = _find_told(rows.features, args, config)
    images = [column] if condition_column is None else [column, condition_column]
    rows = rows.select_columns(images if told.column is None else [*images, told.column])
    for name in images:
        rows = rows.cast_column(name, datasets.Image(decode=False))
    rows = rows.with_format("arrow")
    first = _first_rows(rows, args)
    stored = {name: [row[name] for row in first] for name in images}
    seen = survey(stored[column], column)
    resolution, depth = resolution_of(args, seen, default_resolution), depth_of(seen, column, args, config)
    conditions = {} if condition_column is None else form_of_conditions(stored.get, column, condition_column, args)
    return StreamSource(
        rows=rows,
        column=column,
        label_column=told.column,
        num_classes=told.num_classes,
        class_names=told.class_names,
        form=ImageForm(seen.channels, resolution, args.center_crop, depth=depth, **conditions),
        strict=args.strict_data,
        size=seen.size,
        median_side=seen.median_side,
        fingerprint=fingerprint_of_images(chain(*stored.values()), rows.num_shards, told.first_labels(first)),
        known_length=len(first) if len(first) < SURVEYED_IMAGES else None,
        condition_column=condition_column,
        value_limits=told.value_limits,
    )


def _find_columns(features, args):
    """As `pairs.find_columns`, of a stream, whose files cannot be looked up by their names."""
    folder = args.condition_column
    if folder is not None and folder not in features and Path(folder).is_dir():
        raise InputError(
            f"condition_column={folder!r} is a folder, in which a stream does not look up files by their names: name "
            "a column of images, or leave out --streaming."
        )
    return find_columns(features, args)


class ToldColumn(NamedTuple):
    """The column of what a model is told of each image: of classes, or of numbers within `value_limits`, or None."""

    column: str | None = None
    num_classes: int | None = None
    class_names: list[str] | None = None
    value_limits: tuple[float, float] | None = None

    def first_labels(self, first):
        """What the first rows have in the column, with a stand-in for what is missing; None without a column."""
        missing = -1 if self.value_limits is None else math.nan
        told = None if self.column is None else [row[self.column] for row in first]
        return None if told is None else [missing if value is None else value for value in told]


def _find_told(features, args, config):
    """The [`ToldColumn`] of the options; InputError where the stream does not tell what its labels are."""
    if args.value_column is not None:
        check_value_column(features, args.value_column)
        trained = None if config is None else value_limits_of(config)
        return ToldColumn(args.value_column, value_limits=trained or args.value_limits())
    if not args.class_conditional:
        return ToldColumn()
    column = find_label_column(features, args.label_column)
    feature = features[column]
    if not isinstance(feature, datasets.ClassLabel):
        raise InputError(
            f"label_column={column!r} holds integers, and a stream does not tell how many classes they are of: give "
            "the column the type ClassLabel, or leave out --streaming."
        )
    return ToldColumn(column, feature.num_classes, names_of_classes(feature))


def _first_rows(rows, args):
    try:
        first = [row for table in rows.take(SURVEYED_IMAGES).iter(IMAGES_PER_READ) for row in table.to_pylist()]
    except Exception as error:  # each reader of `datasets` has its own
        raise InputError(
            f"The first images of split {args.split!r} of dataset={args.dataset!r} cannot be read "
            f"({type(error).__name__}: {error})."
        ) from error
    if not first:
        raise InputError(
            f"Split {args.split!r} of dataset={args.dataset!r} has no images: choose another with --split."
        )
    return first


class Position(NamedTuple):
    """The position of one process in its stream, within a block of rows.

    Args:
        turn (`int`), row (`int`): turn and row of the first row of the block; turns count the shards read so far.
        block (`int`): number of the block.
        used (`int`): images of the block already returned.
    """

    turn: int
    row: int
    block: int
    used: int


class StoredRow(NamedTuple):
    """A stored row with its place: the turn of its shard, the shard, and the number of the row in the shard."""

    turn: int
    shard: int
    row: int
    values: dict


class Rank(NamedTuple):
    """One process of a run, counted from 0, and the number of all."""

    process_index: int
    num_processes: int


ALONE = Rank(0, 1)


class RowStream(IterableDataset):
    """An endless stream of batches of stored rows for one process, each with the `Position` after it.

    Each row comes once in each epoch of all processes. Processes take turns with the shards; if there are more
    processes than shards, each process reads all shards and keeps its part of the rows.
    """

    def __init__(self, source, batch_size, block_size, seed, rank=ALONE, position=None):
        self.source, self.batch_size, self.block_size, self.seed = source, batch_size, block_size, seed
        self.process_index, self.num_processes = process_index, num_processes = rank
        share_rows = source.num_shards < num_processes
        self.row_step, self.first_row = (num_processes, process_index) if share_rows else (1, 0)
        self.turn_step, first_turn = (1, 0) if share_rows else (num_processes, process_index)
        self.position = position or Position(first_turn, row=0, block=0, used=0)

    def __iter__(self):
        batch = []
        try:
            for row, position in self._shuffled():
                batch.append(row)
                if len(batch) == self.batch_size:
                    yield batch, position
                    batch = []
        except InputError as error:  # returned; `raising` raises it in the main process
            yield error

    def first_epoch(self):
        """The rows of one epoch from the position on, shard after shard, without shuffling."""
        return takewhile(lambda row: row is not None, self._rows(self.position.turn, self.position.row))

    def _shuffled(self):
        """Rows in the order of their blocks' permutations, with the position after each.

        The next block is read row by row while a block is returned, so that there is no pause between blocks.
        """
        rows = self._rows(self.position.turn, self.position.row)
        block, used = _read_on([], rows, self.block_size), self.position.used
        for number in count(self.position.block):
            present = [row for row in block if row is not None]
            order = np.random.default_rng((self.seed, self.process_index, number)).permutation(len(present))
            following = []
            for given, index in enumerate(order[used:], used + 1):
                _read_on(following, rows, given)
                yield present[index], Position(present[0].turn, present[0].row, number, given)
            block, used = _read_on(following, rows, self.block_size), 0

    def _rows(self, first_turn, first_row):
        """This process's rows from a given one on, for ever, with None at the end of each epoch.

        Raises:
            InputError: if this process gets no rows, as it would search for ever.
        """
        order, num_shards = lru_cache(maxsize=1)(self._order), self.source.num_shards
        has_rows = False
        for turn in count(first_turn, self.turn_step):
            epoch, place = divmod(turn, num_shards)
            shard = int(order(epoch)[place])
            for row, values in self._shard(shard, first_row):
                if row % self.row_step == self.first_row:
                    has_rows = True
                    yield StoredRow(turn, shard, row, values)
            first_row = 0
            if (turn + self.turn_step) // num_shards != epoch:
                # If processes take turns with the shards, the next epoch brings other shards.
                if self.row_step > 1 and not has_rows:
                    raise InputError(
                        f"Process {self.process_index} (counted from 0) of {self.num_processes} gets no images of the "
                        f"stream: none of its {num_shards} shard(s) has more than {self.first_row}. Start fewer "
                        "processes, or leave out --streaming."
                    )
                yield None

    def _order(self, epoch):
        return np.random.default_rng((self.seed, epoch)).permutation(self.source.num_shards)

    def _shard(self, shard, first_row):
        """The rows of one shard from a given one on, with their numbers."""
        num_shards = self.source.num_shards
        rows = self.source.rows.shard(num_shards=num_shards, index=shard)
        rows = rows.skip(first_row) if first_row else rows
        number = first_row
        try:
            for table in rows.iter(IMAGES_PER_READ):
                for values in table.to_pylist():
                    yield number, values
                    number += 1
        except Exception as error:  # each reader of `datasets` has its own
            raise InputError(
                f"Shard {shard} (counted from 0) of {num_shards} cannot be read from row {number} on "
                f"({type(error).__name__}: {error}): repair it, and run the same command again to go on from the last "
                "checkpoint."
            ) from error


def _read_on(block, rows, size):
    """Adds rows to the block until it has `size` rows, or ends with None at the end of an epoch."""
    while len(block) < size and not (block and block[-1] is None):
        block.append(next(rows))
    return block


class RowDecoder(Dataset):
    """Decodes batches of a `RowStream`, filling gaps, into `{"images", "labels", "damaged", "position"}`."""

    def __init__(self, source, crop_seed=None):
        self.source, self.crop_seed = source, crop_seed

    def __getitems__(self, wanted):
        if isinstance(wanted, InputError):
            return wanted
        (rows, position), places = wanted, None
        if self.crop_seed is not None:
            places = np.random.default_rng((self.crop_seed, *position)).random((len(rows), 2))
        batch, damaged = self.decode(rows, places)
        return fill_gaps(batch, len(rows), list(damaged.values())) | {"damaged": damaged, "position": position}

    def decode(self, rows, places=None):
        """The images of the readable rows, and for the others the reason of failure, by name."""
        source = self.source
        images, read, damaged = decode_readable(source.stored(rows), source.form, places)
        if source.value_limits is not None:
            images, read = self._with_numbers(rows, images, read, damaged)
        damaged = {_name(rows[number]): why for number, why in damaged.items()}
        if damaged and source.strict:
            raise_damaged(" ".join(next(iter(damaged.items()))))
        batch = {"images": torch.from_numpy(images)}
        if source.label_column is not None:
            batch["labels"] = self._labels([rows[number] for number in read])
        return batch, damaged

    def _with_numbers(self, rows, images, read, damaged):
        """The images, and their places, whose number is there; the others are put among the `damaged`."""
        column, limits = self.source.label_column, self.source.value_limits
        values = [rows[place].values[column] for place in read]
        kept = are_within(as_numbers(values), limits)
        reason = "has {}, and the numbers that are told are from {:g} to {:g}"
        for place, value, is_kept in zip(read, values, kept, strict=True):
            if not is_kept:
                damaged[place] = f"{column!r} {reason.format(value, *limits)}"
        return images[kept], [place for place in read if place not in damaged]

    def _labels(self, rows):
        if self.source.value_limits is not None:
            return torch.from_numpy(as_numbers([row.values[self.source.label_column] for row in rows]))
        return torch.tensor([self._label(row) for row in rows], dtype=torch.int64)

    def _label(self, row):
        column, label = self.source.label_column, row.values[self.source.label_column]
        if label is None or not 0 <= label < self.source.num_classes:
            raise InputError(
                f"label_column={column!r} has the label {label} in {_name(row)}; every image needs one from 0 to "
                f"{self.source.num_classes - 1}."
            )
        return label


def _name(row):
    return f"row {row.row} of shard {row.shard}"


def decode_first(source, num_images, seed):
    """Decodes the first images of a stream whose shards are ordered by `seed`, with the result of `decode_all`.

    Args:
        source (`StreamSource`): which stream.
        num_images (`int`): number of stored images to read, or all if there are fewer.

    Raises:
        InputError: if none of them can be read.
    """
    rows = islice(RowStream(source, batch_size=1, block_size=1, seed=seed).first_epoch(), num_images)
    decoder, decoded, damaged, number = RowDecoder(source), [], {}, 0
    with tqdm(total=num_images, unit="image", desc="Reading", delay=2) as bar:
        while part := list(islice(rows, IMAGES_PER_READ)):
            batch, why = decoder.decode(part)
            decoded.append(batch)
            damaged |= {name: f"{name} {reason}" for name, reason in why.items()}
            number += len(part)
            bar.update(len(part))
    report_damage(number, len(damaged), list(damaged.values()))
    return {name: torch.cat([batch[name] for batch in decoded]) for name in decoded[0]}


class ImageStream:
    """The images of a stream for one process of a run, and the position of that process.

    Args:
        source (`StreamSource`): which images.
        block_size (`int`): number of images shuffled together; twice as many stored images are kept in memory.
        seed (`int`): seed of the order.
        crop_seed (`int`, *optional*): crops are at random places, new in each batch; centred without a seed.
        process_index (`int`), num_processes (`int`): this process, and their number in the run.
    """

    def __init__(self, source, block_size, seed, crop_seed=None, process_index=0, num_processes=1):
        self.source, self.block_size, self.seed, self.crop_seed = source, block_size, seed, crop_seed
        self.process_index, self.num_processes = process_index, num_processes
        self.position = None
        self.damaged = set()

    def batches(self, batch_size, workers=0, pin_memory=False):
        """Endless batches from the position on; the position follows the last batch returned."""
        rank = Rank(self.process_index, self.num_processes)
        stream = RowStream(self.source, batch_size, self.block_size, self.seed, rank, self.position)
        rows = DataLoader(
            stream,
            batch_size=None,
            num_workers=1 if workers else 0,
            prefetch_factor=BATCHES_READ_AHEAD if workers else None,
            collate_fn=as_it_is,
            worker_init_fn=ignore_stop_signals,
            generator=torch.Generator(),
        )
        for batch in batches(RowDecoder(self.source, self.crop_seed), rows, workers, pin_memory):
            self._report(batch.pop("damaged"))
            self.position = batch.pop("position")
            yield batch

    def _report(self, damaged):
        for name in damaged.keys() - self.damaged:
            self.damaged.add(name)
            logger.warning(
                "An image cannot be read, others stand in for it (%s %s); there are %d such so far",
                *(name, damaged[name], len(self.damaged)),
            )

    def save_position(self, folder):
        """Writes the position of this process into its own file."""
        state = {"num_shards": self.source.num_shards, "num_processes": self.num_processes, "position": self.position}
        _position_file(folder, self.process_index).write_text(json.dumps(state) + "\n", encoding="utf-8")

    def load_position(self, folder):
        """Restores the position of this process.

        Raises:
            InputError: if the stream differs from the one that was saved.
        """
        state = json.loads(_position_file(folder, 0).read_text(encoding="utf-8"))
        if state["num_shards"] != self.source.num_shards:
            raise InputError(
                f"The checkpoint was made with {state['num_shards']} shards, and the data has "
                f"{self.source.num_shards} now, so that their order would be another: restore the data, or choose "
                "another output_dir."
            )
        if state["num_processes"] != self.num_processes:
            raise InputError(
                f"The checkpoint has the places in the stream of {state['num_processes']} processes, and these are "
                f"{self.num_processes}: continue with as many; their number may change only without --streaming."
            )
        state = json.loads(_position_file(folder, self.process_index).read_text(encoding="utf-8"))
        self.position = None if state["position"] is None else Position(*state["position"])


def _position_file(folder, process_index):
    return Path(folder) / f"stream_position_{process_index}.json"


def keep_in_checkpoints(stream, accelerator):
    """Each process saves its position in the checkpoints of `accelerator`.

    The main process does not save it for all: gathering while files are written would wait for processes that may
    fail.
    """
    accelerator.register_save_state_pre_hook(lambda models, weights, folder: stream.save_position(folder))


def count_images(data):
    """Number of images of a source, or loaded from one; None for a stream, whose number is unknown."""
    return None if isinstance(data, (StreamSource, ImageStream)) else len(data)


def describe_data(data, kind):
    """A description such as "6000 images of 1x28x28"; loaded data count readable images only."""
    number = count_images(data)
    return f"a stream of {kind}" if number is None else f"{number} {kind}"
