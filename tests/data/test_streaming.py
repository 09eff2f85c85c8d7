"""Streamed images come once per epoch, in an order that a position restores."""

import contextlib
import io
import itertools
import logging
import os
import tarfile

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_hf.data import ImageStream, count_images, open_stream
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.errors import InputError
from ddpm_hf.reports.loss_curve import read_rows
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.held_out import load_held_out
from ddpm_hf.training.train import make_scheduler, train
from ddpm_hf.training.trainer import Trainer

NUM_IMAGES = 23
SHARDS = (5, 9, 2, 7)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of `datasets`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def stored(number, size=(8, 8)):
    """An image whose pixels are its number."""
    buffer = io.BytesIO()
    Image.fromarray(np.full(size, number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shards(folder, shards=SHARDS, values=None, labels=None):
    """Parquet files of images with the pixels 0, 1, 2, ..., and the labels number % 3."""
    folder.mkdir()
    values = values or [stored(number) for number in range(sum(shards))]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=3)})
    labels = labels or [number % 3 for number in range(len(values))]
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": value, "path": None} for value in values], "label": labels}, features=features
    )
    for number, (start, length) in enumerate(zip(itertools.accumulate([0, *shards]), shards, strict=False)):
        part = rows.select(range(start, start + length))
        part.to_parquet(str(folder / f"train-{number:05d}-of-{len(shards):05d}.parquet"), batch_size=3)
    return str(folder)


def write_tars(folder, shards=SHARDS):
    folder.mkdir()
    numbers = itertools.count()
    for shard, length in enumerate(shards):
        with tarfile.open(folder / f"train-{shard:05d}.tar", "w") as archive:
            for number in itertools.islice(numbers, length):
                info, data = tarfile.TarInfo(f"{number:04d}.png"), stored(number)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return str(folder)


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / "shards")


@pytest.fixture
def source(shards):
    return opened(shards)


def opened(dataset, **options):
    return open_stream(DataArguments(dataset=dataset, **options), 28)


def stream_of(source, block_size=6, seed=0, **options):
    return ImageStream(source, block_size, seed, **options)


def numbers_of(stream, batch_size, number, **options):
    """The numbers of the images of so many batches: (number, batch_size)."""
    batches = itertools.islice(stream.batches(batch_size, **options), number)
    return np.array([batch["images"][:, 0, 0, 0].numpy() for batch in batches]).reshape(-1, batch_size)


# --- what comes


@pytest.mark.parametrize("write", [write_shards, write_tars])
@pytest.mark.parametrize("block_size", [1, 6, 100])
def test_each_epoch_sees_every_image_once(tmp_path, write, block_size):
    source = opened(write(tmp_path / "data"))
    assert (source.num_shards, source.channels, source.resolution) == (4, 1, 8)
    epochs = numbers_of(stream_of(source, block_size), 1, 3 * NUM_IMAGES).reshape(3, NUM_IMAGES)
    assert (np.sort(epochs) == np.arange(NUM_IMAGES)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("num_processes", [2, 3, 5])
def test_processes_share_each_epoch(source, num_processes):
    """Also more of them than shards, and shards that do not divide by them."""
    seen = [[], [], []]
    for process in range(num_processes):
        stream = stream_of(source, process_index=process, num_processes=num_processes)
        for batch in stream.batches(1):
            epoch = stream.position.turn // source.num_shards
            if epoch == len(seen):
                break
            seen[epoch].append(int(batch["images"][0, 0, 0, 0]))
    for numbers in seen:
        assert sorted(numbers) == list(range(NUM_IMAGES))


def test_blocks_are_shuffled(source):
    alone = numbers_of(stream_of(source, block_size=1), 1, NUM_IMAGES).ravel()
    mixed = numbers_of(stream_of(source, block_size=NUM_IMAGES), 1, NUM_IMAGES).ravel()
    assert (np.diff(alone) == 1).sum() >= NUM_IMAGES - len(SHARDS)  # shards in another order, rows in theirs
    assert (np.diff(mixed) == 1).sum() < NUM_IMAGES / 3
    other = numbers_of(stream_of(source, block_size=NUM_IMAGES, seed=1), 1, NUM_IMAGES).ravel()
    assert not np.array_equal(mixed, other)


def test_labels_come_with_their_images(shards):
    source = opened(shards, class_conditional=True)
    assert source.num_classes == 3
    for batch in itertools.islice(stream_of(source).batches(4), 9):
        assert torch.equal(batch["images"][:, 0, 0, 0] % 3, batch["labels"])


def test_a_stream_does_not_know_how_many_images_it_has(source):
    assert count_images(source) is count_images(stream_of(source)) is None


# --- positions


@pytest.mark.parametrize(("write", "num_processes"), [(write_shards, 1), (write_tars, 1), (write_shards, 2)])
def test_a_position_restores_the_order(tmp_path, write, num_processes):
    """At the beginning, in the middle of blocks, in a second epoch; for every process."""
    source = opened(write(tmp_path / "data"))
    for process in range(num_processes):
        options = {"process_index": process, "num_processes": num_processes, "block_size": 7}
        whole = numbers_of(stream_of(source, **options), 4, 12)
        for cut in (0, 1, 5, 6, 11):
            stopped, resumed = stream_of(source, **options), stream_of(source, **options)
            first = numbers_of(stopped, 4, cut)
            stream_of(source, num_processes=num_processes).save_position(tmp_path)  # the first is always asked
            stopped.save_position(tmp_path)
            resumed.load_position(tmp_path)
            assert np.array_equal(np.concatenate([first, numbers_of(resumed, 4, 12 - cut)]), whole)


def test_each_process_takes_its_own_position(source, tmp_path):
    streams = [stream_of(source, process_index=index, num_processes=2) for index in range(2)]
    for index, stream in enumerate(streams):
        numbers_of(stream, 2, 2 + index)
        stream.save_position(tmp_path)
    for index, stream in enumerate(streams):
        again = stream_of(source, process_index=index, num_processes=2)
        again.load_position(tmp_path)
        assert again.position == stream.position
    assert streams[0].position != streams[1].position


def test_workers_change_nothing(source):
    """One reads and two decode, ahead of what is taken; the position is that of what was taken."""
    alone, helped = stream_of(source), stream_of(source)
    assert np.array_equal(numbers_of(alone, 4, 8), numbers_of(helped, 4, 8, workers=2))
    assert alone.position == helped.position


def test_batches_of_another_size_go_on(source, tmp_path):
    """The order is the same with half the batch_size and twice the accumulation."""
    stopped, resumed = stream_of(source), stream_of(source)
    numbers_of(stopped, 4, 3)
    stopped.save_position(tmp_path)
    resumed.load_position(tmp_path)
    assert np.array_equal(numbers_of(resumed, 2, 6).reshape(3, 4), numbers_of(stream_of(source), 4, 6)[3:])


def test_data_that_shrank_and_other_processes_are_refused(source, tmp_path):
    stream_of(source).save_position(tmp_path)
    with pytest.raises(InputError, match="places in the stream of 1 processes, and these are 2"):
        stream_of(source, num_processes=2).load_position(tmp_path)
    shrunk = opened(write_shards(tmp_path / "shrunk", SHARDS[:3]))
    with pytest.raises(InputError, match="made with 4 shards, and the data has 3 now"):
        stream_of(shrunk).load_position(tmp_path)


def test_a_process_without_images_says_so(tmp_path):
    source = opened(write_shards(tmp_path / "few", (2,)))
    assert sorted(numbers_of(stream_of(source, process_index=1, num_processes=3), 1, 2).ravel()) == [1, 1]
    with pytest.raises(
        InputError, match=r"Process 2 .* of 3 gets no images .* 1 shard\(s\) has more than 2\. Start fewer"
    ):
        numbers_of(stream_of(source, process_index=2, num_processes=3), 1, 1)


# --- what cannot be read


def test_damaged_images_are_counted_and_named(tmp_path, caplog):
    values = [stored(number) for number in range(NUM_IMAGES)]
    values[6] = b"nothing"
    source = opened(write_shards(tmp_path / "damaged", values=values))
    with caplog.at_level(logging.WARNING):
        numbers = numbers_of(stream_of(source), 4, 2 * NUM_IMAGES // 4)
    assert numbers.shape == (2 * NUM_IMAGES // 4, 4)  # batches are whole
    assert set(numbers.ravel()) >= set(range(NUM_IMAGES)) - {6} - set(numbers[-1])
    assert 6 not in numbers
    assert caplog.text.count("row 1 of shard 1") == 1
    assert "1 such so far" in caplog.text
    strict = opened(str(tmp_path / "damaged"), strict_data=True)
    with pytest.raises(InputError, match="row 1 of shard 1"):
        numbers_of(stream_of(strict), 4, NUM_IMAGES)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_shard_is_named(tmp_path, workers):
    folder = write_shards(tmp_path / "shards")
    source = opened(folder)
    for path in sorted((tmp_path / "shards").iterdir())[1:]:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(
        InputError, match=r"^Shard [123] \(counted from 0\) of 4 cannot be read from row 0 on"
    ) as caught:
        numbers_of(stream_of(source), 1, NUM_IMAGES, workers=workers)
    assert "Traceback" not in str(caught.value)
    path = sorted((tmp_path / "shards").iterdir())[0]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="dataset=.*shards"):
        opened(folder)


def test_a_split_without_images(tmp_path):
    (tmp_path / "empty").mkdir()
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": []}, features=features).to_parquet(str(tmp_path / "empty/train.parquet"))
    with pytest.raises(InputError, match="Split 'train' of dataset=.* has no images"):
        opened(str(tmp_path / "empty"))
    with pytest.raises(InputError, match="Cannot read split 'test'"):
        opened(str(tmp_path / "empty"), split="test")


def test_bad_labels_are_named(tmp_path):
    labels = [0] * NUM_IMAGES
    labels[15] = -1
    source = opened(write_shards(tmp_path / "labels", labels=labels), class_conditional=True)
    with pytest.raises(InputError, match="label -1 in row 1 of shard 2"):
        numbers_of(stream_of(source), 1, NUM_IMAGES)


def test_what_a_stream_cannot_tell(tmp_path, shards):
    features = datasets.Features({"image": datasets.Image(), "kind": datasets.Value("int64")})
    rows = datasets.Dataset.from_dict({"image": [{"bytes": stored(0), "path": None}], "kind": [0]}, features=features)
    rows.to_parquet(str(tmp_path / "kinds.parquet"))
    with pytest.raises(InputError, match="label_column='kind' holds integers.*ClassLabel"):
        opened(str(tmp_path / "kinds.parquet"), class_conditional=True, label_column="kind")
    rows.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(InputError, match="save_to_disk.*leave out --streaming"):
        opened(str(tmp_path / "saved"))


def test_options_that_do_not_go_together():
    def make(**options):
        return TrainingArguments(**{"dataset": "d", "streaming": True, "max_train_steps": 5} | options)

    with pytest.raises(InputError, match="num_epochs=2 cannot be counted with streaming.*--max_train_steps"):
        make(max_train_steps=None, num_epochs=2.0)
    with pytest.raises(InputError, match="in_memory_limit_gb=1 has no effect with streaming"):
        make(in_memory_limit_gb=1.0)
    with pytest.raises(InputError, match="on_disk_limit_gb=0 has no effect with streaming"):
        make(on_disk_limit_gb=0.0)
    with pytest.raises(InputError, match="shuffle_buffer=5 has no effect without streaming"):
        make(streaming=False, shuffle_buffer=5)
    with pytest.raises(InputError, match="shuffle_buffer=0 is not allowed"):
        make(shuffle_buffer=0)
    with pytest.raises(InputError, match="streaming is for images"):
        make(unet="mlp")


# --- sizes and crops


def test_sizes_that_differ_are_cropped_to_one(tmp_path):
    values = [stored(number, (8, 8 + number % 3)) for number in range(NUM_IMAGES)]
    source = opened(write_shards(tmp_path / "sizes", values=values))
    assert source.resolution == 28
    source = opened(str(tmp_path / "sizes"), resolution=8)
    assert sorted(numbers_of(stream_of(source), 1, NUM_IMAGES).ravel()) == list(range(NUM_IMAGES))


def test_random_crops_are_restored_too(tmp_path):
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (8, 1))
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    source = opened(write_shards(tmp_path / "ramps", values=[buffer.getvalue()] * NUM_IMAGES), resolution=8)
    whole = numbers_of(stream_of(source, crop_seed=0), 4, 8)
    assert len(np.unique(whole)) > 8
    stopped, resumed = stream_of(source, crop_seed=0), stream_of(source, crop_seed=0)
    numbers_of(stopped, 4, 3)
    stopped.save_position(tmp_path)
    resumed.load_position(tmp_path)
    assert np.array_equal(numbers_of(resumed, 4, 5), whole[3:])


# --- runs


@pytest.fixture
def options(shards, tiny_pipeline, tmp_path):
    return {
        **{"dataset": shards, "streaming": True, "shuffle_buffer": 6, "init_from": tiny_pipeline, "batch_size": 4},
        **{"log_every": 2, "checkpoint_every": 3, "learning_rate": 1e-2, "num_samples": 2, "sample_steps": 2},
        **{"sample_every": 0, "output_dir": str(tmp_path / "run"), "dataloader_workers": 0, "max_train_steps": 9},
    }


@pytest.fixture
def start(options, tmp_path, source, make_accelerator, tiny_unet):
    """start(name, after): a trainer that has resumed what the folder `name` holds, and has trained on so many batches."""

    def start(name, after=None):
        args = TrainingArguments(**options | {"output_dir": str(tmp_path / name)})
        (tmp_path / name).mkdir(exist_ok=True)
        stream = InterruptedStream(source, args.shuffle_buffer, args.seed)
        stream.after = after
        torch.manual_seed(0)
        trainer = Trainer(args, make_accelerator(), tiny_unet(), make_scheduler(args), stream, args.max_train_steps)
        trainer.resume()
        with contextlib.suppress(KeyboardInterrupt):
            trainer.fit()
        return trainer

    return start


class InterruptedStream(ImageStream):
    def batches(self, *args):
        yield from itertools.islice(super().batches(*args), self.after)
        raise KeyboardInterrupt


def weights_of(trainer):
    return [*trainer.parameters, *trainer.ema.shadow_params]


def test_a_streaming_run_goes_on_where_it_was(start):
    """Interrupted in the middle of a block and after the end of an epoch, it equals the uninterrupted one bit by bit."""
    whole = start("whole")
    for after in (5, 4, None):  # from the checkpoints of updates 3 and 6
        parts = start("parts", after)
    assert whole.progress.step == parts.progress.step == 9
    assert whole.images.position == parts.images.position
    for first, second in zip(weights_of(whole), weights_of(parts), strict=True):
        assert torch.equal(first, second)
    assert whole.images.position.turn >= len(SHARDS)


def test_a_plan_of_a_stream(options, capsys):
    train(TrainingArguments(**options, dry_run=True))
    printed = capsys.readouterr().out
    assert "a stream of images of 1x8x8" in printed
    assert "passes over the data" not in printed
    assert not os.path.exists(options["output_dir"])


def test_held_out_images_are_streamed_too(options, tmp_path, source, make_accelerator):
    """The first ones, from shards in an order by the seed, without those that are damaged; and nothing is prepared."""
    values = [stored(100 + number) for number in range(9)]
    values[4] = b"nothing"
    write_shards(tmp_path / "test", (4, 5), values)
    for path in sorted((tmp_path / "test").iterdir()):
        path.rename(tmp_path / "shards" / path.name.replace("train", "test"))
    options |= {"eval_split": "test", "eval_every": 2, "eval_steps": 2, "max_train_steps": 2}
    given = TrainingArguments(**options, num_eval_images=6, class_conditional=True)
    held_out = load_held_out(given, opened(options["dataset"], class_conditional=True), make_accelerator())
    numbers = held_out["images"][:, 0, 0, 0] - 100
    assert numbers.tolist() in ([0, 1, 2, 3, 5], [5, 6, 7, 8, 0])
    assert torch.equal(held_out["labels"], numbers.long() % 3)
    folder = train(TrainingArguments(**options))
    assert len(read_rows(folder / "bits_per_dim.csv")) == 1
    assert not list(tmp_path.rglob("*.arrow"))


@pytest.mark.slow
def test_two_processes_go_on_where_they_were(options, tmp_path, on_two_processes):
    flags = [f"--{name}={value}" for name, value in options.items() if name not in ("output_dir", "max_train_steps")]
    for name, lengths in (("whole", [9]), ("parts", [4, 9])):
        for steps in lengths:
            run = [f"--output_dir={tmp_path / name}", f"--max_train_steps={steps}"]
            on_two_processes("-m", "ddpm_hf.training.train", *flags, *run)
    network = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "whole" / network).read_bytes() == (tmp_path / "parts" / network).read_bytes()
