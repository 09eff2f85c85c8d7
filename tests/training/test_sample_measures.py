"""A run writes down the channels of its samples, and how far they are from held-out images."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from ddpm_hf.data import ImagesInMemory
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.distances import frechet_distance
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.pipelines.image_grids import sample_images
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.reports.loss_curve import CHANNELS_FILE, DISTANCE_FILE, read_rows
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.neighbour_sheets import TrainingNeighbours
from ddpm_hf.training.sample_measures import channel_row, channels_of_data, levels_of
from ddpm_hf.training.train import train


@pytest.fixture
def options(tmp_path, image_folder, tiny_pipeline):
    return {
        **{"dataset": image_folder, "init_from": tiny_pipeline, "output_dir": str(tmp_path / "run"), "seed": 3},
        **{"max_train_steps": 4, "batch_size": 4, "num_samples": 5, "sample_steps": 2, "sample_every": 2},
        **{"split": "train[:12]", "eval_split": "train[12:]"},
    }


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The folder of a classifier of grey images, with random weights."""
    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}
    folder = tmp_path_factory.mktemp("features")
    ResNetForImageClassification(ResNetConfig(num_channels=1, num_labels=2, **sizes)).save_pretrained(folder)
    ViTImageProcessor(do_resize=False, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder)
    return str(folder)


def final_samples(folder, number):
    pipeline = GaussianDiffusionPipeline.from_pretrained(folder)
    return sample_images(pipeline, number, seed=3, num_inference_steps=2, eta=0.0)


def test_channels_of_the_samples_stand_beside_those_of_the_data(options, pixels):
    folder = train(TrainingArguments(**options))
    rows = read_rows(folder / CHANNELS_FILE)
    assert [row["step"] for row in rows] == [2, 4]
    samples = np.stack([np.asarray(each) for each in final_samples(folder, 5)])
    assert rows[1]["channel_0_mean"] == pytest.approx(samples.mean(), abs=0.5)
    assert rows[1]["channel_0_deviation"] == pytest.approx(samples.std(), abs=0.5)
    assert rows[1]["channel_0_mean_of_data"] == pytest.approx(pixels[:12].mean(), rel=1e-6)
    assert not (folder / DISTANCE_FILE).exists()


def test_a_tint_shows_in_the_row():
    data = channels_of_data(ImagesInMemory({"images": torch.full((5, 3, 2, 2), 100, dtype=torch.uint8)}), 3)
    row = channel_row([Image.new("RGB", (2, 2), (100, 100, 160))], data)
    assert (row["channel_2_mean"], row["channel_2_mean_of_data"]) == (160, 100)
    assert (row["channel_0_mean"], row["channel_0_deviation"]) == (100, 0)
    assert levels_of([Image.new("RGB", (4, 3))]).shape == (1, 3, 3, 4)


def test_points_have_no_channels():
    assert channels_of_data(ImagesInMemory({"images": torch.zeros(5, 2)}), 2) is None


def test_a_copy_stands_first_on_the_sheet_of_neighbours(options, pixels):
    folder = train(TrainingArguments(**options, sample_neighbours=True))
    assert sorted(file.name for file in (folder / "neighbours").iterdir()) == ["step-000002.png", "step-000004.png"]
    images = ImagesInMemory({"images": torch.from_numpy(pixels[:, None])})
    samples = torch.full((3, 1, *pixels.shape[1:]), 77, dtype=torch.uint8)
    samples[1] = images.__getitems__(np.array([5]))["images"][0]
    figure = TrainingNeighbours(images, 1).sheet(samples)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts] + [
        axes.get_xlabel() for axes in figure.axes
    ]
    assert texts.index("number 1") < texts.index("number 0") and "0" in texts


def test_large_images_are_compared_in_small():
    images = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)
    images[1, :, 32:] = 255
    neighbours = TrainingNeighbours(ImagesInMemory({"images": images}), 3)
    assert neighbours.searched.shape == (2, 3 * 32 * 32)
    assert neighbours.searched.sum(1).sort().values.tolist() == [0, 3 * 32 * 16]


def test_neighbours_of_what_is_no_image_are_refused(options):
    with pytest.raises(InputError, match="draws images of 8 bits beside each other"):
        TrainingNeighbours(ImagesInMemory({"images": torch.zeros(5, 2)}), 2)
    with pytest.raises(InputError, match="sample_neighbours=True searches the training images again and again"):
        TrainingArguments(**options | {"split": "train"}, sample_neighbours=True, streaming=True)


def test_the_distance_to_held_out_images(options, classifier, pixels, capsys):
    folder = train(TrainingArguments(**options, eval_every=4, eval_steps=2, eval_features=classifier))
    (row,) = read_rows(folder / DISTANCE_FILE)
    see, held_out = load_features(classifier), torch.from_numpy(pixels[12:, None])
    samples = levels_of(final_samples(folder, len(held_out)))
    assert row["step"] == 4
    assert row["frechet_distance"] == pytest.approx(frechet_distance(see(samples), see(held_out)), rel=0.02)
    assert "a Frechet distance of" in capsys.readouterr().out + capsys.readouterr().err


def test_a_missing_network_shows_before_the_training(options, tmp_path):
    with pytest.raises(InputError, match=r"holds no config.json"):
        train(TrainingArguments(**options, eval_every=2, eval_features=str(tmp_path)))
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="eval_features='inception' has no effect without --eval_every"):
        TrainingArguments(**options, eval_features="inception")


def test_pairs_are_not_compared_with_held_out_images(options):
    more = {"eval_every": 2, "eval_split": "test", "eval_features": "inception", "condition_column": "grey"}
    with pytest.raises(InputError, match="eval_features='inception' does not compare samples of pairs"):
        TrainingArguments(**options | more)
