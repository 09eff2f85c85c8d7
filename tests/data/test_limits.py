"""Requests that exceed this machine are refused before the work, with their size."""

import logging

import datasets
import psutil
import pytest
from PIL import Image

from ddpm_hf.data import DataArguments, decoding_workers, open_images, open_points, open_stream
from ddpm_hf.data.limits import check_workers
from ddpm_hf.errors import InputError
from ddpm_hf.limits import check_fits_memory
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.train import train


def test_all_of_the_memory_is_the_limit():
    memory = psutil.virtual_memory().total
    check_fits_memory("it takes", memory, "less")
    with pytest.raises(InputError, match=r"it takes [\d,]+ GiB of memory, and this machine has [\d,]+ GiB: less\."):
        check_fits_memory("it takes", memory + 1, "less")


@pytest.mark.parametrize("open_data", [open_images, open_stream])
def test_resolutions(image_folder, open_data, caplog):
    with pytest.raises(
        InputError, match=r"resolution=1000000: an image .* takes 3,725 GiB .*the longest side .* is 8\)"
    ):
        open_data(DataArguments(dataset=image_folder, resolution=10**6), 28)
    with caplog.at_level(logging.WARNING):
        open_data(DataArguments(dataset=image_folder, resolution=32), 28)
        assert not caplog.text
        open_data(DataArguments(dataset=image_folder, resolution=33), 28)
    assert "resolution=33 enlarges the images, whose longest side is 8, more than 4 times" in caplog.text


def test_a_batch_of_large_images(image_folder, tmp_path):
    """Each fits, and a batch does not."""
    options = {"dataset": image_folder, "max_train_steps": 1, "output_dir": str(tmp_path / "run")}
    with pytest.raises(InputError, match="resolution=2000: a batch of 1000000 images takes .* --batch_size"):
        train(TrainingArguments(**options, resolution=2000, batch_size=10**6))
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_network_does_not_hold(image_folder, tmp_path):
    """The images of a batch fit, and those that the first layer makes of them do not."""
    options = {"dataset": image_folder, "max_train_steps": 1, "output_dir": str(tmp_path / "run"), "unet": "images_64"}
    batch_size = psutil.virtual_memory().total // (4 * 8 * 8 * 64)
    with pytest.raises(InputError, match=f"batch_size={batch_size}: a batch takes at least .* --find_batch_size"):
        train(TrainingArguments(**options, batch_size=batch_size))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_batch_of_more_images_than_there_are(image_folder, tmp_path, tiny_pipeline, streaming):
    """A stream went round and round its 16 images for a single update."""
    options = {"dataset": image_folder, "max_train_steps": 1, "init_from": tiny_pipeline, "streaming": streaming}
    with pytest.raises(InputError, match="batch_size=1000 is larger than the data set, which has 16 images"):
        train(TrainingArguments(**options, batch_size=1000, output_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_points():
    with pytest.raises(InputError, match="num_points=1000000000000 take 74,506 GiB .* ask for fewer points"):
        open_points(DataArguments(dataset="two_moons", num_points=10**12))


def test_workers(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(32)), raising=False)
    check_workers(128)
    for ask in (
        check_workers,
        lambda wanted: decoding_workers(wanted, 1e9),
        lambda wanted: TrainingArguments(max_train_steps=1, dataloader_workers=wanted),
    ):
        with pytest.raises(InputError, match=r"dataloader_workers=100000 .* 32 core\(s\): give at most 128"):
            ask(100_000)


def test_labels_that_make_more_classes_than_images(tmp_path):
    rows = {"image": [Image.new("L", (8, 8))] * 2, "kind": [0, 10**9]}
    features = datasets.Features({"image": datasets.Image(), "kind": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "data.parquet"))
    args = DataArguments(dataset=str(tmp_path / "data.parquet"), class_conditional=True, label_column="kind")
    with pytest.raises(InputError, match="the label 1000000000, which would make 1000000001 classes of 2 images"):
        open_images(args, 28)
