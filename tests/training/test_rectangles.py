"""A model of images that are not square: trained, resumed, sampled, edited, scored, and loaded again."""

from io import BytesIO

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from typer.testing import CliRunner

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionUpscalePipeline, cli
from ddpm_hf.data import DataArguments, open_images, open_stream
from ddpm_hf.data.decoding import ImageForm, decode_image
from ddpm_hf.errors import InputError
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.train import train


@pytest.fixture
def wide(tmp_path):
    """Grey pictures of 40x24 (width x height)."""
    folder = tmp_path / "wide"
    folder.mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return str(folder)


def run(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


FLAGS = ["--unet", "fashion_mnist", "--resolution", "24x40", "--batch_size", "4", "--num_samples", "1"]


def test_a_model_of_24x40(tmp_path, wide):
    whole, cut, picture = tmp_path / "whole", tmp_path / "cut", f"{wide}/0.png"
    for folder, steps in ((whole, 2), (cut, 1), (cut, 2)):
        length = ["--max_train_steps", steps, "--sample_steps", "1", "--output_dir", folder]
        printed = run("train", wide, *FLAGS, *length)
        assert "8 images of 1x24x40" in printed and "resized" not in printed
    pipelines = [GaussianDiffusionPipeline.from_pretrained(folder) for folder in (whole, cut)]
    weights = [pipeline.unet.state_dict() for pipeline in pipelines]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    assert "resolution: 24x40" in (whole / "training_args.yaml").read_text(encoding="utf-8")
    assert DiffusionPipeline.from_pretrained(whole)(num_inference_steps=1).images[0].size == (40, 24)
    run("sample", whole, "--num_images", 1, "--steps", 1, "--output", tmp_path / "sample.png")
    run("edit", whole, picture, "--strength", "0.5", "--steps", 2, "--output", tmp_path / "edit.png")
    for name in ("sample", "edit"):
        assert Image.open(tmp_path / f"{name}.png").size == (40, 24)
    scores = ["--dataset", wide, "--num_images", 2, "--steps", 1, "--split", "train", "--output", tmp_path / "scores"]
    assert "bits/dim" in run("evaluate", whole, *scores)


def test_an_upscaler_of_6x10_to_24x40(tmp_path, wide):
    folder = tmp_path / "upscaler"
    length = ["--max_train_steps", 1, "--sample_steps", "1", "--output_dir", folder]
    run("train", wide, *FLAGS, "--low_resolution", "6x10", *length)
    pipeline = GaussianDiffusionUpscalePipeline.from_pretrained(folder)
    assert pipeline(torch.rand(1, 1, 6, 10), num_inference_steps=1).images[0].size == (40, 24)
    assert pipeline(torch.rand(1, 1, 6, 14), num_inference_steps=1).images[0].size == (56, 24)
    message = "low_resolution=.5, 10. must divide the sides of the images, 24x40"
    wanted = {"dataset": wide, "unet": "fashion_mnist", "resolution": "24x40", "low_resolution": "5x10"}
    with pytest.raises(InputError, match=message):
        train(TrainingArguments(**wanted, max_train_steps=1, batch_size=4, output_dir=str(tmp_path / "other")))


@pytest.mark.parametrize("opened", [open_images, open_stream])
def test_data_are_read_as_rectangles(wide, opened):
    source = opened(DataArguments(dataset=wide, resolution="12x20"), None)
    assert source.samples.shape == (1, 12, 20)
    assert source.resizing == "images of 24x40 are resized to 12x20"


@pytest.mark.parametrize(
    "size, resolution, box",
    [
        ((40, 24), "12x20", (0, 0, 40, 24)),
        ((40, 24), 8, (8, 0, 32, 24)),
        ((40, 40), "12x20", (0, 8, 40, 32)),
        ((24, 40), "12x20", (0, 13, 24, 27)),
        ((7, 5), 4, (1, 0, 6, 5)),
        ((50, 3), "40x1", (24, 0, 25, 3)),
    ],
)
def test_the_largest_part_of_the_shape_is_cut_out(size, resolution, box):
    """The centre of the picture, by the same resizing of Pillow."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8))
    height, width = (resolution, resolution) if isinstance(resolution, int) else map(int, resolution.split("x"))
    expected = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS, box))
    file = BytesIO()
    picture.save(file, "png")
    decoded = decode_image({"bytes": file.getvalue()}, ImageForm(1, resolution))
    assert decoded.shape == (1, height, width)
    assert abs(decoded[0].astype(int) - expected).max() <= 1
    squeezed = decode_image({"bytes": file.getvalue()}, ImageForm(1, resolution, center_crop=False))
    assert (squeezed[0] == np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))).all()
