"""Pairs of images and columns of numbers, streamed: read, checked, and trained on."""

import datasets
import numpy as np
import pytest
import torch

from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.data import DataArguments, ImageStream, open_stream
from ddpm_hf.errors import InputError
from ddpm_hf.samples.condition_images import condition_of
from ddpm_hf.samples.condition_values import value_limits_of
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.train import train

NUMBER = 20


def write(folder, sizes=None, **changes):
    """Two shards of grey images whose pixels are their number, each with an image of twice that, and its age."""
    sizes = sizes or [(8, 8)] * NUMBER
    columns = {
        "image": [np.full((8, 8), number, dtype=np.uint8) for number in range(NUMBER)],
        "double": [np.full(size, 2 * number, dtype=np.uint8) for number, size in enumerate(sizes)],
        "age": [float(number) for number in range(NUMBER)],
    } | changes
    types = {"image": datasets.Image(), "double": datasets.Image(), "age": datasets.Value("float64")}
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(types))
    folder.mkdir()
    for shard in range(2):
        rows.shard(2, shard, contiguous=True).to_parquet(str(folder / f"train-{shard:05d}-of-00002.parquet"))
    return str(folder)


TOLD = {"image_column": "image", "condition_column": "double", "value_column": "age", "value_range": "0,50"}


def test_each_image_comes_with_its_condition_and_its_number(tmp_path):
    source = open_stream(DataArguments(dataset=write(tmp_path / "d"), **TOLD), None)
    assert source.samples.data_channels == 2 and source.channels == 1 and source.value_limits == (0, 50)
    assert source.network_options["condition_value_range"] == [0, 50]
    seen = [next(ImageStream(source, 4, seed).batches(5)) for seed in range(3)]
    for batch in seen:
        image, double = batch["images"][:, 0, 0, 0].float(), batch["images"][:, 1, 0, 0].float()
        assert batch["labels"].dtype == torch.float32
        assert torch.equal(double, 2 * image) and torch.equal(batch["labels"], image)
    other = write(tmp_path / "e", double=[np.zeros((8, 8), np.uint8)] * NUMBER)
    assert open_stream(DataArguments(dataset=other, **TOLD), None).fingerprint != source.fingerprint
    trained = open_stream(DataArguments(dataset=other, **TOLD), None, {"condition_value_range": [-5, 5]})
    assert trained.value_limits == (-5, 5)


def test_what_is_missing_is_left_out_and_named(tmp_path, caplog):
    age = [float(number) for number in range(NUMBER)]
    age[3], age[12], age[15] = None, 51.0, float("nan")
    double = [None if number == 5 else np.zeros((8, 8), np.uint8) for number in range(NUMBER)]
    source = open_stream(DataArguments(dataset=write(tmp_path / "d", age=age, double=double), **TOLD), None)
    stream = iter(ImageStream(source, NUMBER, 0).batches(NUMBER))
    seen = {number for _ in range(3) for number in next(stream)["labels"].tolist()}
    assert seen == set(range(NUMBER)) - {3, 5, 12, 15}
    assert "row 2 of shard 1 'age' has 51.0, and the numbers that are told are from 0 to 50" in caplog.text
    assert "row 3 of shard 0 'age' has None" in caplog.text and "there are 4 such so far" in caplog.text


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"value_column": "weight"}, "value_column='weight' does not exist"),
        ({"value_column": "image"}, "value_column='image' does not hold numbers"),
        ({"condition_column": "half"}, "condition_column='half' does not exist: choose image or double"),
        ({"condition_column": "FOLDER"}, "in which a stream does not look up files by their names: name a column"),
        ({}, "The images of a pair must be of one size, and there are 8x8 in 'image' .* and 4x4 in 'double'"),
    ],
)
def test_columns_that_are_not_what_they_should_be(tmp_path, changes, message):
    data = write(tmp_path / "d", sizes=[(8, 8)] * 7 + [(4, 4)] * (NUMBER - 7))
    changes = {name: str(tmp_path) if value == "FOLDER" else value for name, value in changes.items()}
    with pytest.raises(InputError, match=message):
        open_stream(DataArguments(dataset=data, **TOLD | changes), None)


def test_a_run_on_streamed_pairs_with_numbers(tmp_path, tiny_network):
    """Resumed in the middle it is that of one go; the network keeps what it is told."""
    flags = {"dataset": write(tmp_path / "d"), "streaming": True, "unet": tiny_network(), "batch_size": 4, **TOLD}
    few = {"num_samples": 2, "sample_steps": 1, "shuffle_buffer": 6, "condition_dropout": 0.5}
    for name, steps in (("whole", 6), ("cut", 2), ("cut", 6)):
        train(TrainingArguments(**flags, **few, max_train_steps=steps, output_dir=str(tmp_path / name)))
    whole, cut = (GaussianDiffusionPipeline.from_pretrained(tmp_path / name).unet for name in ("whole", "cut"))
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), cut.parameters(), strict=True))
    assert condition_of(whole.config) == (1, None, "lanczos", None, True) and value_limits_of(whole.config) == (0, 50)
    more = flags | {"unet": None, "init_from": str(tmp_path / "whole"), "value_range": "0,60"}
    with pytest.raises(InputError, match="value_range=0,60 does not go with .* taught numbers from 0 to 50"):
        train(TrainingArguments(**more, max_train_steps=1, output_dir=str(tmp_path / "more")))
