"""Buckets by aspect ratio: which picture has which shape, and the order in which shapes and pictures come."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_hf.data import BucketedBatches, DataArguments, in_buckets, open_images
from ddpm_hf.errors import InputError
from ddpm_hf.sizes import parsed_sizes, shapes_of_side
from ddpm_hf.training.arguments import TrainingArguments

NETWORK = {"block_out_channels": (8, 16)}
SIDEWAYS = 6  # of a camera that was held upright, in EXIF


@pytest.fixture
def photos(tmp_path):
    """Eight pictures across, three upright of which one by its EXIF, and a square; the grey is the file's number."""
    folder = tmp_path / "photos"
    folder.mkdir()
    sizes = [(30, 20)] * 8 + [(20, 30)] * 2 + [(30, 20), (25, 26)]
    for number, size in enumerate(sizes):
        note = Image.Exif()
        note[0x0112] = SIDEWAYS if number == 10 else 1
        Image.new("L", size, 10 * number).save(folder / f"{number:02d}.png", exif=note)
    return folder


def opened(folder, buckets="8x12,8,12x8", config=NETWORK):
    return in_buckets(
        open_images(DataArguments(dataset=str(folder)), 8), parsed_sizes("aspect_buckets", buckets), config
    )


def test_each_picture_has_the_nearest_shape(photos, caplog):
    source = opened(photos, "12x8,8,4x32,8x12")
    assert source.bucket_of.tolist() == [0] * 8 + [1] * 3 + [2]
    assert source.shapes == [(8, 12), (12, 8), (8, 8)]
    assert "no image is nearest to 4x32, which is left out" in caplog.text
    assert source.kind == "images of 1 channel(s) in 3 shape(s): 8x12 (8), 12x8 (3), 8x8 (1)"
    assert source.network_options["sample_size"] == (8, 12)
    assert source.network_options["aspect_buckets"] == [[8, 12], [12, 8], [8, 8]]
    assert source.largest.samples.sides == (8, 12)
    assert [len(bucket) for bucket in source.select(np.array([0, 9, 10, 11])).buckets] == [1, 2, 1]


@pytest.mark.parametrize("limits", [(1,), (0, 0), (0, 0, 0), (0, 0, 0, 7)])
def test_each_shape_has_its_own_pictures_wherever_they_are_kept(photos, limits):
    data = opened(photos).load(*limits)
    assert len(data) == 12
    batches = data.by_shape(np.array([11, 8, 0, 9, 10]))
    assert [tuple(batch["images"].shape) for batch in batches] == [(1, 1, 8, 12), (3, 1, 12, 8), (1, 1, 8, 8)]
    assert [batch["images"][:, 0, 0, 0].tolist() for batch in batches] == [[0], [80, 90, 100], [110]]


def test_one_number_is_for_shapes_of_as_many_pixels(photos):
    shapes = shapes_of_side(64, 8)
    assert shapes[0] == (64, 64) and (88, 48) in shapes and (48, 88) in shapes
    assert all(side % 8 == 0 for shape in shapes for side in shape)
    assert all(0.85 < height * width / 64**2 < 1.15 for height, width in shapes)
    assert opened(photos, "16").shapes == [(14, 20), (20, 14), (16, 16)]


def test_a_damaged_picture_is_skipped_and_named_even_if_it_is_the_only_one_of_its_shape(photos, caplog):
    whole = (photos / "11.png").read_bytes()
    (photos / "11.png").write_bytes(whole[: len(whole) - 30])
    (photos / "03.png").write_bytes(b"no picture")
    data = opened(photos).load(1)
    assert list(map(len, data.parts)) == [7, 3] and len(data) == 10
    assert "There is no image of 8x8 to train on. Not one of 1 images can be read" in caplog.text
    assert re.search(r"Skipped 1 of 8 images, which cannot be read: row 3 \(.*03.png\)", caplog.text)
    assert re.search(r"row 11 \(.*11.png\)", caplog.text)
    strict = open_images(DataArguments(dataset=str(photos), strict_data=True), 8)
    with pytest.raises(InputError, match=r"cannot be read.*03.png"):
        in_buckets(strict, "8x12,8", NETWORK).load(1)


# --- the order


def walk(number, batch_size=2, per_update=1, **more):
    return list(itertools.islice(BucketedBatches([6, 3, 0, 1], batch_size, per_update, seed=5, **more), number))


def test_each_picture_is_seen_equally_often():
    """The shape of an update has the share of its pictures, and a shape of fewer than a batch repeats them."""
    seen = Counter((batch.bucket, row) for batch in walk(3000) for row in batch.rows.tolist())
    assert len(seen) == 10 and sum(seen.values()) == 6000
    # The number of updates of a shape is binomial, with a deviation of up to 27; a row has two of six places, or more.
    assert all(abs(number - 600) < 150 for number in seen.values())
    for bucket, length in ((0, 6), (1, 3), (3, 1)):
        counts = [number for (of, _), number in seen.items() if of == bucket]
        assert len(counts) == length and max(counts) - min(counts) <= 1


def test_a_place_in_the_order_is_the_number_of_updates():
    whole = walk(60, per_update=2)
    for first in (1, 7, 29):
        rest = walk(60 - 2 * first, per_update=2, first_update=first)
        assert all(
            a.bucket == b.bucket and (a.rows == b.rows).all() for a, b in zip(rest, whole[2 * first :], strict=True)
        )


def test_processes_and_accumulation_divide_the_batches_of_an_update():
    whole, accumulated = walk(20, batch_size=4), walk(40, per_update=2)
    halves = [walk(20, rank=(process, 2)) for process in (0, 1)]
    for update, batch in enumerate(whole):
        for parts in ([half[update] for half in halves], accumulated[2 * update : 2 * update + 2]):
            assert {part.bucket for part in parts} == {batch.bucket}
            assert np.array_equal(np.concatenate([part.rows for part in parts]), batch.rows)


# --- what is refused


@pytest.mark.parametrize(
    "buckets, message",
    [
        ("9x12,8", "has 9x12, and the network needs sides divisible by 2: choose 8x12"),
        ("8x12,8x", "aspect_buckets='8x' must be a whole number, such as 32, or a height and a width"),
        ("8,8x8", "has 8x8 twice"),
        ("8x8", "aspect_buckets=8x8 is one shape: give several with commas between, or --resolution 8x8"),
        ("8x12,,8", "aspect_buckets='' is empty"),
    ],
)
def test_shapes_that_are_none(photos, buckets, message):
    with pytest.raises(InputError, match=message):
        opened(photos, buckets)


def test_batches_that_no_memory_holds(photos):
    with pytest.raises(InputError, match="a batch of 4 images of .* takes .* choose smaller --aspect_buckets"):
        opened(photos, "1000000").check_batch_fits(4)


def test_arrays_are_not_resized(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(InputError, match="these data are images of 1x8x8: leave it out"):
        opened(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "more, message",
    [
        ({"resolution": 8}, "leave out --resolution 8"),
        ({"low_resolution": 4}, "leave out --low_resolution and --condition_column"),
        ({"condition_column": "grey"}, "leave out --low_resolution and --condition_column"),
        ({"vae": "a/vae"}, "leave out --vae a/vae"),
        ({"caption_column": "text"}, "leave out the captions"),
        ({"streaming": True}, "leave out --streaming"),
        ({"sample_neighbours": True}, "leave out --sample_neighbours"),
        ({"dataset": "swiss_roll"}, "and these are points"),
    ],
)
def test_options_that_do_not_go_with_buckets(more, message):
    with pytest.raises(InputError, match=message):
        TrainingArguments(**{"dataset": "photos", "aspect_buckets": "8,8x12", "max_train_steps": 1} | more)


def test_batches_come_through_the_loader(photos):
    from ddpm_hf.data import batches

    data = opened(photos).load(1)
    order = BucketedBatches([len(part) for part in data.parts], 4, 1, seed=0)
    shapes = {tuple(batch["images"].shape) for batch in itertools.islice(batches(data, order), 40)}
    assert shapes == {(4, 1, 8, 12), (4, 1, 12, 8), (4, 1, 8, 8)}
    assert isinstance(next(iter(batches(data, order)))["images"], torch.Tensor)
