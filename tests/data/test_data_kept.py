"""Images decoded once: where they are stored, and what the next run finds."""

import logging
import pickle
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_hf.data import (
    EndlessBatches,
    ImageForm,
    ImagesInMemory,
    ImagesMapped,
    ImagesOnDemand,
    batches,
    decode_all,
    decode_image,
    decoding_workers,
    images,
    load_images,
    mapped,
    open_images,
)
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.errors import InputError
from ddpm_hf.samples.value_range import SIXTEEN_BITS
from ddpm_hf.training.arguments import TrainingArguments


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of `datasets`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "ddpm_hf"


@pytest.fixture
def source(image_folder):
    return open_images(DataArguments(dataset=image_folder, class_conditional=True), 28)


@pytest.fixture
def worth_keeping(source):
    """The same, as if it took long to decode."""
    return replace(source, pixels=1e9)


@pytest.fixture
def damaged(image_folder, tmp_path):
    """Row 3 is no image, row 5 ends too early."""
    (tmp_path / "images" / "cat" / "03.png").write_bytes(b"nothing")
    path = tmp_path / "images" / "cat" / "05.png"
    path.write_bytes(path.read_bytes()[:60])
    return open_images(DataArguments(dataset=image_folder, class_conditional=True), 28)


def test_mapped_images_are_those_in_memory(source, pixels):
    kept, memory = load_images(source, 0), load_images(source, 1)
    assert isinstance(kept, ImagesMapped)
    assert isinstance(memory, ImagesInMemory)
    walks = [EndlessBatches(16, 5, seed=0), EndlessBatches(16, 5, seed=0)]
    pairs = zip(batches(kept, walks[0]), batches(memory, walks[1]), strict=True)
    for (first, second), _ in zip(pairs, range(7), strict=False):
        assert first.keys() == second.keys() == {"images", "labels"}
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert np.array_equal(kept.read()["images"].squeeze(1).numpy(), pixels)


def test_mapped_images_of_many_record_batches(source, monkeypatch):
    """Rows are found in whichever record batch they are, with several files of several such."""
    monkeypatch.setattr(mapped, "IMAGES_PER_READ", 3)
    kept = load_images(source, 0, workers=2)
    assert len(kept.blocks[0]) == 6  # 3 + 3 + 2 in each of two files
    rows = np.array([15, 0, 8, 7, 2, 3, 3])
    assert torch.equal(kept.__getitems__(rows)["images"], decode_all(source)["images"][rows])


def test_to_other_processes_go_file_names_and_no_pixels(source):
    kept = load_images(source, 0)
    rows = np.array([3, 1])
    before = kept.__getitems__(rows)["images"]
    sent = pickle.dumps(kept)
    assert before.numpy().tobytes()[:64] not in sent
    assert torch.equal(pickle.loads(sent).__getitems__(rows)["images"], before)
    for batch in batches(kept, [rows], workers=1):
        assert torch.equal(batch["images"], before)


@pytest.mark.parametrize("limit", [0, 1])
def test_what_is_decoded_once_is_not_decoded_again(worth_keeping, cache, caplog, monkeypatch, limit):
    first = load_images(worth_keeping, limit, workers=0)
    files = sorted(cache.glob("*.arrow"))
    written = [path.stat().st_mtime_ns for path in files]
    assert len(files) == 1
    monkeypatch.setattr(mapped, "decode_readable", None)  # would be called
    second = load_images(worth_keeping, limit, workers=0)
    assert [path.stat().st_mtime_ns for path in files] == written
    rows = np.arange(16)
    assert torch.equal(first.__getitems__(rows)["images"], second.__getitems__(rows)["images"])
    assert type(first) is type(second) is (ImagesInMemory if limit else ImagesMapped)


def test_another_form_or_version_is_decoded_anew(source, monkeypatch):
    names = {mapped.cache_file(source)}
    for change in ({"resolution": 4}, {"center_crop": False}, {"channels": 3}, {"depth": SIXTEEN_BITS}):
        names.add(mapped.cache_file(replace(source, form=replace(source.form, **change))))
    names.add(mapped.cache_file(replace(source, rows=source.rows.select(range(9)))))
    monkeypatch.setattr(mapped.ddpm_hf, "__version__", "another")
    names.add(mapped.cache_file(source))
    assert len(names) == 7


def test_images_that_changed_are_decoded_anew(image_folder, source, tmp_path):
    load_images(source, 0)
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(tmp_path / "images" / "cat" / "00.png")
    changed = open_images(DataArguments(dataset=image_folder), 28)
    assert (load_images(changed, 0).__getitems__(np.array([0]))["images"] == 77).all()


def test_little_is_decoded_without_the_disk(source, cache):
    assert isinstance(load_images(source, 1), ImagesInMemory)
    assert not cache.exists()


def test_damaged_images_are_counted_and_named_each_time(damaged, pixels, caplog):
    good = [i for i in range(16) if i not in (3, 5)]
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            kept = load_images(damaged, 0)
        assert len(kept) == 14
        assert np.array_equal(kept.read()["images"].squeeze(1).numpy(), pixels[good])
        assert kept.labels.tolist() == [0] * 6 + [1] * 8
        assert "Skipped 2 of 16 images" in caplog.text
        assert "03.png" in caplog.text
        assert "05.png" in caplog.text


def test_damaged_images_stop_a_strict_run(damaged):
    with pytest.raises(InputError, match="row 3 .*03.png"):
        load_images(replace(damaged, strict=True), 0)


def test_nothing_but_damage(damaged):
    with pytest.raises(InputError, match="Not one of 1 images can be read: row 0"):
        load_images(replace(damaged, rows=damaged.rows.select([3]), labels=None), 0)


# --- where there is no room


@pytest.mark.parametrize(("limit", "kind"), [(0, ImagesOnDemand), (1, ImagesInMemory)])
def test_a_disk_without_room_is_left_alone(worth_keeping, cache, caplog, monkeypatch, limit, kind):
    monkeypatch.setattr(mapped, "RESERVE_BYTES", 2**60)
    with caplog.at_level(logging.WARNING):
        assert isinstance(load_images(worth_keeping, limit, workers=0), kind)
    assert "has room for 0.0" in caplog.text
    assert "HF_DATASETS_CACHE" in caplog.text
    assert not list(cache.glob("*.arrow"))


def test_room_is_counted_with_what_is_there_already(source, monkeypatch):
    load_images(source, 0)
    monkeypatch.setattr(mapped, "RESERVE_BYTES", mapped.room_on_disk(source) + mapped.RESERVE_BYTES - 2**10)
    assert isinstance(load_images(source, 0), ImagesMapped)  # 16 images of 64 bytes fit into 2**10


def test_a_limit_of_the_disk(source):
    assert isinstance(load_images(source, 0, disk_limit_gb=1e-9), ImagesOnDemand)
    assert isinstance(load_images(source, 0, disk_limit_gb=1e-6), ImagesMapped)


def test_a_full_disk_is_said(source, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets.Dataset, "map", full)
    with pytest.raises(InputError, match="is full .*--on_disk_limit_gb 0"):
        load_images(source, 0)


# --- random crops


@pytest.mark.parametrize("place", [(0, 0), (0.5, 0.5), (0.77, 0.1), (1, 1)])
@pytest.mark.parametrize("shape", [(8, 19), (19, 8)])
def test_a_crop_alone_changes_no_pixel(tmp_path, shape, place):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    cropped = decode_image({"bytes": None, "path": str(tmp_path / "a.png")}, ImageForm(1, 8), place)[0]
    left, top = round((shape[1] - 8) * place[0]), round((shape[0] - 8) * place[1])
    assert np.array_equal(cropped, pixels[top : top + 8, left : left + 8])


def test_random_crops_are_others_in_each_batch_and_the_same_again(tmp_path):
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (8, 1))
    for i in range(4):
        Image.fromarray(ramp).save(tmp_path / f"{i}.png")
    source = open_images(DataArguments(dataset=str(tmp_path), resolution=8), 28)
    cropped = load_images(source, 1, crop_seed=0)
    rows = np.array([0, 1, 2, 3])
    first = cropped.__getitems__(rows)["images"]
    lefts = {int(left) for left in first[:, 0, 0, 0]}
    assert len(lefts) > 1  # images of a batch differ
    assert torch.equal(first, load_images(source, 1, crop_seed=0).__getitems__(rows)["images"])
    assert not torch.equal(first, cropped.__getitems__(rows[::-1].copy())["images"].flip(0))
    assert not torch.equal(first, load_images(source, 1, crop_seed=1).__getitems__(rows)["images"])
    assert (first[..., 1:].int() - first[..., :-1].int() == 4).all()  # squares, cut and not squeezed


def test_a_crop_is_either_random_or_none():
    with pytest.raises(InputError, match="random_crop=True .* center_crop=False"):
        TrainingArguments(dataset="d", max_train_steps=1, random_crop=True, center_crop=False)


# --- workers


def test_processes_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr(
        "os.sched_getaffinity", lambda process: set(range(16)), raising=False
    )  # those of a queue's job
    assert decoding_workers(None, 1e9) == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert decoding_workers(None, 1e9) == 2
    assert decoding_workers(None, 1e9, alone=True) == 16
    monkeypatch.delattr("os.sched_getaffinity")  # as on a Mac
    assert decoding_workers(None, 1e9) == 8
    assert decoding_workers(5, 1e9) == 5
    assert decoding_workers(None, 1e3) == 0


def test_who_makes_batches(source):
    memory, kept, on_demand = (load_images(source, *limits) for limits in ((1,), (0,), (0, None, 0)))
    assert [images.loading_workers(kind) for kind in (memory, kept, on_demand)] == [0, 0, 0]  # little to decode
    assert [images.loading_workers(kind, 3) for kind in (memory, kept, on_demand)] == [0, 3, 3]


def test_errors_in_workers_are_one_sentence(damaged):
    on_demand = load_images(replace(damaged, strict=True), 0, disk_limit_gb=0)
    with pytest.raises(InputError, match="^An image cannot be read: row 3") as caught:
        list(batches(on_demand, [np.arange(16)], workers=1))
    assert "Traceback" not in str(caught.value)
