"""Training of networks that are told condition images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from typer.testing import CliRunner

from ddpm_hf import (
    GaussianDiffusionPipeline,
    GaussianDiffusionScheduler,
    GaussianDiffusionUpscalePipeline,
    cli,
)
from ddpm_hf.errors import InputError
from ddpm_hf.samples.condition_images import condition_of
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.conditions import TaughtCondition, told
from ddpm_hf.training.train import train

UPSCALER = {"in_channels": 2, "condition_channels": 1, "low_resolution": 4}
LEVELS = {"max_augmentation_level": 0.5}


@pytest.fixture
def options(tmp_path, image_folder, tiny_unet):
    pipeline = GaussianDiffusionPipeline(tiny_unet(**UPSCALER, **LEVELS), GaussianDiffusionScheduler())
    pipeline.save_pretrained(tmp_path / "upscaler")
    return {
        **{"dataset": image_folder, "init_from": str(tmp_path / "upscaler"), "output_dir": str(tmp_path / "run")},
        **{"max_train_steps": 4, "batch_size": 4, "log_every": 2, "checkpoint_every": 2, "learning_rate": 1e-2},
        **{"num_samples": 3, "sample_steps": 2, "seed": 3},
    }


def weights_of(folder):
    return GaussianDiffusionPipeline.from_pretrained(folder).unet.state_dict()


def test_a_run_of_an_upscaler_resumes_to_the_same_weights(options, tmp_path, pixels):
    whole = train(TrainingArguments(**options))
    cut = options | {"output_dir": str(tmp_path / "cut")}
    train(TrainingArguments(**cut | {"max_train_steps": 2}))
    train(TrainingArguments(**cut))
    expected, start = weights_of(whole), weights_of(options["init_from"])
    for name, weight in weights_of(cut["output_dir"]).items():
        assert torch.equal(weight, expected[name]) and not torch.equal(weight, start[name]), name
    # Each of three: the image of low resolution, the sample, and the image itself, enlarged eightfold.
    grid = np.asarray(Image.open(whole / "samples" / "step-000004.png"))
    assert grid.shape == (2 * 64, 2 * 3 * 64)
    assert_close(torch.from_numpy(grid[:64:8, 128:192:8].copy()), torch.from_numpy(pixels[0]))
    pipeline = GaussianDiffusionUpscalePipeline.from_pretrained(whole)
    assert pipeline(torch.rand(1, 1, 4, 4), 0.4, num_inference_steps=2).images[0].size == (8, 8)
    card = (whole / "README.md").read_text(encoding="utf-8")
    assert "from ddpm_hf import GaussianDiffusionUpscalePipeline" in card and "ddpm-hf upscale" in card


def test_an_upscaler_learns_from_a_stream_too(options, tmp_path):
    """From a trained network, resumed to the same weights; the pictures show what is at the beginning of the stream."""
    options |= {"streaming": True, "dataloader_workers": 0, "max_train_steps": 2, "checkpoint_every": 1}
    whole = train(TrainingArguments(**options))
    cut = options | {"output_dir": str(tmp_path / "cut")}
    train(TrainingArguments(**cut | {"max_train_steps": 1}))
    train(TrainingArguments(**cut))
    for name, weight in weights_of(cut["output_dir"]).items():
        assert torch.equal(weight, weights_of(whole)[name]), name
    assert Image.open(whole / "samples" / "step-000002.png").size == (2 * 3 * 64, 2 * 64)


def test_the_plan_of_a_run(options, capsys):
    """A trial is told condition images too; nothing is written."""
    folder = train(TrainingArguments(**options, dry_run=True, find_batch_size=True))
    assert "4 updates, 16 images" in capsys.readouterr().out and not folder.exists()


def test_from_the_options_of_a_new_network_to_an_enlarged_picture(tmp_path, image_folder, tiny_network):
    """With classes, levels and a head; drawn by the command."""
    run = tmp_path / "run"
    taught = ["--low_resolution", "4", "--max_augmentation_level", "0.5", "--class_conditional"]
    flags = ["--unet", tiny_network(), "--max_train_steps", "1", "--batch_size", "2", "--num_samples", "1"]
    args = ["train", image_folder, *taught, *flags, "--sample_steps", "1", "--output_dir", str(run)]
    trained = CliRunner().invoke(cli.app, args)
    assert trained.exit_code == 0, trained.output
    assert f"ddpm-hf upscale {run} IMAGE" in trained.output
    condition = condition_of(GaussianDiffusionPipeline.from_pretrained(run).unet.config)
    assert condition == (1, (4, 4), "lanczos", 0.5, False)
    Image.new("L", (6, 5), 100).save(tmp_path / "photo.png")
    args = ["upscale", str(run), str(tmp_path / "photo.png"), "--steps", "2", "--class", "dog", "--num_images", "2"]
    drawn = CliRunner().invoke(cli.app, [*args, "--recipe", "ddim-2m", "--output", str(tmp_path / "large.png")])
    assert drawn.exit_code == 0, drawn.output
    assert "6x5 enlarged to 12x10" in drawn.output
    assert Image.open(tmp_path / "large.png").size == (24, 10)


def test_what_the_network_is_told():
    """Nothing but x_0 where the network has no condition; else the image, with the noise of the level it is told."""
    images, labels = torch.rand(512, 1, 8, 8) * 2 - 1, torch.arange(512)
    assert told(None, "network", images, labels) == ("network", images, labels)
    seen = {}

    def network(x, t, class_labels):
        seen["condition"], seen["labels"] = x[:, 1:], class_labels
        assert torch.equal(x[:, :1], images * 2)

    condition = condition_of(UPSCALER | {"sample_size": 8} | LEVELS)
    said = TaughtCondition(condition, 0.25).tell(network, images, labels)
    assert torch.equal(said.images, images)
    said.network(images * 2, 7, said.labels)
    assert torch.equal(said.labels[:, 0], labels.float())
    levels = said.labels[:, 1] / 1000
    assert levels.min() >= 0 and levels.max() <= 0.5
    assert levels.mean().item() == pytest.approx(0.25, abs=0.03)
    dropped = (seen["condition"] == 0).all((1, 2, 3)).flatten()
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.08)
    clean = torch.nn.functional.interpolate(condition.of_image(images), (8, 8), mode="bilinear")
    error = (seen["condition"] - (1 - levels**2).sqrt().reshape(-1, 1, 1, 1) * clean).std((1, 2, 3))[~dropped]
    # Bilinear interpolation by 2 keeps 25/64 of the variance of the noise within the image.
    assert (error / levels[~dropped]).median().item() == pytest.approx(25**0.5 / 8, abs=0.06)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"low_resolution": 2}, "low_resolution=2 does not go with init_from=.* has low_resolution=.4, 4."),
        ({"max_augmentation_level": 0.3}, "max_augmentation_level=0.3 does not go with init_from=.* has .*=0.5"),
        ({"condition_dropout": 0.1}, "condition_dropout=0.1 does not go with init_from"),
        ({"init_from": None, "unet": "fashion_mnist", "low_resolution": 5}, "low_resolution=5 must divide .* 8x8"),
        ({"init_from": None, "unet": "fashion_mnist", "low_resolution": 8}, "low_resolution=8 must divide .* smaller"),
        (
            {"init_from": None, "unet": "mlp", "dataset": "swiss_roll", "low_resolution": 8},
            "is for images, and points",
        ),
    ],
)
def test_what_is_refused_before_the_work(options, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(TrainingArguments(**options | changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_augmentation_level": 0.5}, "max_augmentation_level=0.5 is about condition images"),
        ({"condition_dropout": 0.5}, "condition_dropout=0.5 is about condition images"),
        ({"low_resolution": 7, "max_augmentation_level": 1.5}, "must be greater than 0 and at most 1"),
        ({"low_resolution": 7, "max_augmentation_level": 0.0}, "must be greater than 0 and at most 1"),
        ({"low_resolution": 0}, "low_resolution=0 is not allowed: it must be at least 1"),
        ({"low_resolution": 7, "condition_dropout": 0.1, "class_conditional": True}, "is for models without classes"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(InputError, match=message):
        TrainingArguments(**options)
