"""The verb `convert`, and the other verbs on what it writes."""

import json

import pytest
import torch
from diffusers import DDPMPipeline, DiffusionPipeline
from huggingface_hub import ModelCard
from PIL import Image
from typer.testing import CliRunner

from ddpm_hf import (
    ADMUNet2DModel,
    GaussianDiffusionPipeline,
    GaussianDiffusionUpscalePipeline,
    NoisyImageClassifier,
    cli,
)
from ddpm_hf.converters import convert_checkpoint
from ddpm_hf.errors import InputError
from ddpm_hf.hub.export import export_stock
from ddpm_hf.hub.model_folder import check_model_folder


def run(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def images(tmp_path):
    """A folder of small grey images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(64):
        Image.new("L", (8, 8), 4 * number).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def converted(improved, tmp_path):
    """A folder of a network that only ours can run, with its checkpoint."""
    path, options = improved(num_heads=2)
    convert_checkpoint(path, options, tmp_path / "converted")
    return tmp_path / "converted"


def test_a_checkpoint_becomes_a_folder_with_a_card(improved, images, tmp_path):
    path, options = improved(num_heads=2)
    (tmp_path / "flags.json").write_text(json.dumps(options | {"num_heads": 4}), encoding="utf-8")
    output = run(
        *("convert", path, "--options", tmp_path / "flags.json", "--options", "--num_heads 2"),
        *("--output-dir", tmp_path / "new", "--check_images", images),
    ).output
    assert f"The GaussianDiffusionPipeline is in {tmp_path / 'new'}" in output
    assert "the mean square error of its predicted noise at half noise" in output
    pipeline = GaussianDiffusionPipeline.from_pretrained(tmp_path / "new")
    assert type(pipeline.unet) is ADMUNet2DModel and pipeline.unet.config.num_attention_heads == 2
    report = json.loads((tmp_path / "new" / "conversion.json").read_text(encoding="utf-8"))
    assert report["checkpoint"] == "model.pt" and report["check"]["number"] == 32
    card = ModelCard.load(tmp_path / "new" / "README.md").text
    assert "## Where it comes from" in card and "`model.pt`" in card and report["check"]["text"] in card
    check_model_folder(tmp_path / "new")


def test_without_images_it_looks_at_samples(improved, tmp_path):
    path, _ = improved()
    flags = "--image_size 8 --num_heads 1 --noise_schedule linear --diffusion_steps 1000"
    output = run("convert", path, "--options", flags, "--steps", 2, "--output_dir", tmp_path / "new").output
    assert "Neighbouring pixels of 16 samples have a correlation of" in output
    assert "Neighbouring pixels" in (tmp_path / "new" / "README.md").read_text(encoding="utf-8")


def test_a_classifier_and_an_upsampler(foreign, tmp_path):
    model = foreign("guided_classifier")
    output = run(
        "convert", model.checkpoint, "--options", model.options, "--output_dir", tmp_path / "classifier"
    ).output
    assert "The NoisyImageClassifier is in" in output
    assert NoisyImageClassifier.from_pretrained(tmp_path / "classifier").config.num_classes == 10
    model = foreign("guided_sr")
    output = run(
        "convert", model.checkpoint, "--options", model.options, "--output_dir", tmp_path / "upsampler"
    ).output
    assert "The GaussianDiffusionUpscalePipeline is in" in output
    pipeline = GaussianDiffusionUpscalePipeline.from_pretrained(tmp_path / "upsampler")
    assert pipeline.scheduler.config.variance_type == "learned_range"
    drawn = pipeline(image=Image.new("RGB", (8, 8)), class_labels=3, num_inference_steps=2).images
    assert drawn[0].size == (16, 16)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--options", "--num_heads 2"], "do not tell image_size"),
        (["--options", "guided_imagnet64"], "did you mean 'guided_imagenet64'"),
        (["--check_images", "no/such/folder"], "There is no folder or file no/such/folder"),
        (["--check_images", "here", "--no_check"], "There is no folder or file|leave --no_check out"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(improved, tmp_path, arguments, said):
    path, _ = improved()
    with pytest.raises(InputError, match=said):
        run("convert", path, "--output_dir", tmp_path / "new", *arguments)
    assert not (tmp_path / "new").exists()


def test_a_wrong_check_writes_nothing(improved, tmp_path):
    path, options = improved()
    (tmp_path / "empty").mkdir()
    (tmp_path / "flags.json").write_text(json.dumps(options), encoding="utf-8")
    with pytest.raises((InputError, ValueError)):
        run(
            *("convert", path, "--options", tmp_path / "flags.json"),
            *("--check_images", tmp_path / "empty", "--output_dir", tmp_path / "new"),
        )
    assert not (tmp_path / "new").exists()


def test_sampling_and_export_take_the_folder(converted, tmp_path):
    recipe = ("--recipe", "ddim-2m@logsnr", "--steps", 3)
    for name, options in (("plain", ("--steps", 2)), ("second", recipe)):
        output = ("--output", tmp_path / f"{name}.png", "--device", "cpu")
        run("sample", converted, "--num_images", 2, *options, *output)
        assert (tmp_path / f"{name}.png").is_file()
    run("export", converted, "--output_dir", tmp_path / "exported")
    assert type(GaussianDiffusionPipeline.from_pretrained(tmp_path / "exported").unet) is ADMUNet2DModel


@pytest.mark.slow
def test_measuring_takes_the_folder(converted, images, tmp_path):
    data = ("--dataset", images, "--split", "train", "--device", "cpu")
    run("evaluate", converted, "--steps", 4, "--output", tmp_path / "bpd", *data)
    assert (tmp_path / "bpd" / "bpd.json").is_file()
    run("calibrate", converted, "--num_images", 60, "--output_dir", tmp_path / "calibrated", *data)
    again = GaussianDiffusionPipeline.from_pretrained(tmp_path / "calibrated")
    assert type(again.unet) is ADMUNet2DModel and again.scheduler.config.mean_square_epsilon is not None


def test_stock_classes_refuse_what_they_would_run_wrongly(converted, tmp_path):
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(converted)
    with pytest.raises(InputError, match="has a ADMUNet2DModel, which no stock pipeline samples"):
        export_stock(converted, tmp_path / "stock")


def test_stock_classes_run_what_they_hold(improved, written, tmp_path):
    path, options = improved(num_heads=1)
    convert_checkpoint(path, options, tmp_path / "new")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "new")
    assert type(pipeline) is DDPMPipeline
    x = torch.ones(1, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(pipeline.unet(x, 5).sample, written(1)(x, 5).sample)
