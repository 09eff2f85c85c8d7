"""Data for a trained network are resized to its size, and networks of non-square images are refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from diffusers.configuration_utils import FrozenDict
from PIL import Image

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, NoisyImageClassifier
from ddpm_hf.data import DataArguments, open_images, sized_for_network
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.run import load_data
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.classifier_arguments import ClassifierArguments
from ddpm_hf.training.train import open_data, train
from ddpm_hf.training.train_classifier import train_classifier

SQUARE = DataArguments(dataset="d")


@pytest.fixture
def larger_images(tmp_path):
    """A folder of sixteen grey images of 12x12, of two classes."""
    for i in range(16):
        path = tmp_path / "larger" / ("cat" if i < 8 else "dog") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (12, 12), dtype=np.uint8)).save(path)
    return str(tmp_path / "larger")


@pytest.fixture
def model(tmp_path, tiny_unet):
    """model(**config): the folder of a tiny pipeline."""

    def make(**config):
        folder = tmp_path / "model"
        GaussianDiffusionPipeline(unet=tiny_unet(**config), scheduler=GaussianDiffusionScheduler()).save_pretrained(
            folder
        )
        return str(folder)

    return make


def test_the_network_says_the_size():
    assert sized_for_network(SQUARE, {"in_channels": 1, "sample_size": 8}, "m").resolution == 8
    assert sized_for_network(SQUARE, {"in_channels": 1, "sample_size": [8, 8]}, "m").resolution == 8
    assert sized_for_network(SQUARE, {"in_channels": 1, "sample_size": None}, "m") == SQUARE
    assert sized_for_network(replace(SQUARE, resolution=8), {"in_channels": 1, "sample_size": 8}, "m").resolution == 8
    with pytest.raises(InputError, match="resolution=16 does not go with m, whose network is for images of 8x8"):
        sized_for_network(replace(SQUARE, resolution=16), {"in_channels": 1, "sample_size": 8}, "m")
    wide = {"in_channels": 1, "sample_size": (32, 48)}
    assert sized_for_network(SQUARE, wide, "m").resolution == "32x48"
    assert sized_for_network(replace(SQUARE, resolution="32x48"), wide, "m").resolution == "32x48"
    with pytest.raises(InputError, match="resolution=48x32 does not go with m, whose network is for images of 32x48"):
        sized_for_network(replace(SQUARE, resolution="48x32"), wide, "m")


@pytest.mark.parametrize("streaming", [False, True])
def test_training_from_a_network_keeps_its_size(model, larger_images, streaming):
    """A network for 8x8 was trained on the 12x12 of the data, and on 28x28 if their sizes differed."""
    options = {
        "init_from": model(),
        "dataset": larger_images,
        "streaming": streaming,
        "max_train_steps": 1,
        "batch_size": 4,
    }
    assert open_data(TrainingArguments(**options)).resolution == 8
    with pytest.raises(InputError, match="resolution=12 does not go with init_from=.*model"):
        open_data(TrainingArguments(**options, resolution=12))


def test_the_whole_run_says_so(model, larger_images, tmp_path, capsys):
    options = {"max_train_steps": 1, "batch_size": 4, "num_samples": 1, "sample_steps": 2, "checkpoint_every": 0}
    for sample_size in (8, None):
        start, out = model(sample_size=sample_size), str(tmp_path / f"run_{sample_size}")
        folder = train(TrainingArguments(init_from=start, dataset=larger_images, output_dir=out, **options))
        side = sample_size or 12  # a network that takes any size is trained at that of the data, and samples have it
        assert GaussianDiffusionPipeline.from_pretrained(folder).unet.config.sample_size == side
        said = capsys.readouterr().out
        assert f"images of 1x{side}x{side}" in said
        assert ("images of 12x12 are resized to 8x8, the size of the model's" in said) == (sample_size == 8)


def test_several_sizes_need_one(model, larger_images):
    Image.new("L", (9, 9)).save(f"{larger_images}/cat/99.png")
    options = {"init_from": model(sample_size=None), "dataset": larger_images, "max_train_steps": 1}
    with pytest.raises(InputError, match="several sizes, or are not square, .* choose one with --resolution"):
        open_data(TrainingArguments(**options))
    assert open_data(TrainingArguments(**options, resolution=10)).resolution == 10


def test_data_become_as_wide_and_high_as_the_network(model, image_folder, tmp_path):
    """Training, a classifier and a calibration of a model of 8x16, and what evaluate and compare read."""
    start, out = model(sample_size=(8, 16)), tmp_path / "out"
    options = {"dataset": image_folder, "max_train_steps": 1, "batch_size": 4}
    small = {"num_samples": 1, "sample_steps": 1}
    folder = train(TrainingArguments(init_from=start, output_dir=str(out / "model"), **options, **small))
    assert GaussianDiffusionPipeline.from_pretrained(folder).samples.shape == (1, 8, 16)
    labelled = {"eval_split": "train[:75%]", "split": "train[25%:]", "output_dir": str(out / "classifier")}
    size = NoisyImageClassifier.from_pretrained(
        train_classifier(ClassifierArguments(model=start, width=8, **labelled, **options)) / "classifier"
    ).config.sample_size
    assert tuple(size) == (8, 16)
    images, _ = load_data(DataArguments(dataset=image_folder), {"in_channels": 1, "sample_size": (8, 16)})
    assert images.shape == (16, 1, 8, 16)


def test_a_classifier_is_for_one_size(model, image_folder, tmp_path):
    options = {"dataset": image_folder, "output_dir": str(tmp_path / "out"), "max_train_steps": 1}
    with pytest.raises(InputError, match="any size, and a classifier is for one"):
        train_classifier(ClassifierArguments(model=model(sample_size=None), eval_split="train[:50%]", **options))


def test_measuring_keeps_the_size_of_the_network(larger_images):
    data = DataArguments(dataset=larger_images)
    images, labels = load_data(data, FrozenDict(in_channels=1, sample_size=[8, 8]))
    assert images.shape == (16, 1, 8, 8) and labels is None
    images, _ = load_data(data, FrozenDict(in_channels=1, sample_size=None))
    assert images.shape == (16, 1, 12, 12)


def test_a_network_without_options_is_named(model, larger_images):
    start = model()
    Path(start, "unet", "config.json").write_text("[8, 8]", encoding="utf-8")
    with pytest.raises(InputError, match=r"init_from=.*model': its unet/config.json holds no options"):
        open_data(TrainingArguments(init_from=start, dataset=larger_images, max_train_steps=1))


def test_a_new_network_has_the_size_of_the_data(larger_images):
    args = TrainingArguments(dataset=larger_images, max_train_steps=1)
    assert open_data(args).resolution == open_images(args, None).resolution == 12


def test_points_have_no_size():
    with pytest.raises(InputError, match="m makes points, which have no size: give a model of images"):
        sized_for_network(SQUARE, {"in_channels": 2}, "m")
