"""A model of several shapes: trained, resumed, sampled in each, loaded by stock classes and by its own code."""

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from PIL import Image
from torch.testing import assert_close
from typer.testing import CliRunner

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, cli
from ddpm_hf.errors import InputError
from ddpm_hf.pipelines.interpolation import interpolate
from ddpm_hf.pipelines.pipeline_img2img import GaussianDiffusionImg2ImgPipeline
from ddpm_hf.pipelines.pipeline_inpaint import GaussianDiffusionInpaintPipeline
from ddpm_hf.pipelines.probability_flow import interpolate_encodings
from ddpm_hf.samples.kind import trained_shapes
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.train import choose_network

SHAPES = [(8, 12), (12, 8)]


@pytest.fixture
def photos(tmp_path):
    """Six grey pictures across of class 0, and four upright of class 1."""
    for number in range(10):
        size, name = ((20, 30), "across") if number < 6 else ((30, 20), "upright")
        path = tmp_path / "photos" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)).save(path)
    return str(tmp_path / "photos")


def run(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_model_of_two_shapes(photos, tmp_path, tiny_network):
    """A run that was resumed is that of one go; the config, the card and the last lines name the shapes."""
    flags = ["--aspect_buckets", "12x8,8x12", "--unet", tiny_network(), "--batch_size", 4, "--class_conditional"]
    flags += ["--num_samples", 4, "--sample_steps", 1]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder, steps in ((whole, 4), (cut, 2), (cut, 4)):
        printed = run("train", photos, *flags, "--max_train_steps", steps, "--output_dir", folder)
    assert "10 images of 1 channel(s) in 2 shape(s): 8x12 (6), 12x8 (4)" in printed
    assert f"ddpm-hf sample {cut} --recipe ddim-2m --steps 25 --resolution 12x8" in printed
    for name in ("unet/diffusion_pytorch_model.safetensors", "samples/step-000004.png"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    assert Image.open(whole / "samples" / "step-000004.png").size == (2 * 12 * 5, 2 * 12 * 5)
    assert "Trained on images of 8x12, 12x8 (height x width)" in (whole / "README.md").read_text(encoding="utf-8")

    pipeline = GaussianDiffusionPipeline.from_pretrained(whole)
    assert list(trained_shapes(pipeline.unet.config)) == SHAPES and pipeline.samples.sides == (8, 12)
    stock = UNet2DModel.from_pretrained(whole, subfolder="unet")
    assert list(trained_shapes(stock.config)) == SHAPES
    own_code = DiffusionPipeline.from_pretrained(whole, custom_pipeline=str(whole), trust_remote_code=True)
    how = {"class_labels": 1, "num_inference_steps": 1, "output_type": "pt", "height": 12, "width": 8}
    drawn = [each(generator=torch.Generator().manual_seed(0), **how).images for each in (pipeline, own_code)]
    assert drawn[0].shape == (1, 1, 12, 8)
    assert_close(drawn[0], drawn[1], rtol=0, atol=0)
    file = tmp_path / "upright.png"
    run(
        "sample",
        whole,
        "--resolution",
        "12x8",
        "--num_images",
        1,
        "--steps",
        1,
        "--class",
        "upright",
        "--output",
        file,
    )
    assert Image.open(file).size == (8 * 5, 12 * 5)

    more = ["train", photos, "--init_from", whole, "--class_conditional", "--batch_size", 4, "--sample_steps", 1]
    run(*more, "--aspect_buckets", "8,8x12", "--max_train_steps", 1, "--output_dir", tmp_path / "more")
    config = GaussianDiffusionPipeline.from_pretrained(tmp_path / "more").unet.config
    assert list(trained_shapes(config)) == [(8, 12), (8, 8)]


@pytest.mark.slow
def test_two_processes_have_the_same_shapes(photos, tmp_path, tiny_network, on_two_processes):
    """Their updates are those of one process that accumulates two batches."""
    flags = ["--aspect_buckets", "12x8,8x12", "--unet", tiny_network(), "--batch_size", "2", "--num_samples", "2"]
    flags += ["--sample_steps", "1", "--max_train_steps", "6", "--dataset", photos, "--output_dir"]
    on_two_processes("-m", "ddpm_hf.training.train", *flags, str(tmp_path / "two"))
    run("train", *flags, str(tmp_path / "one"), "--gradient_accumulation_steps", "2")
    weights = [GaussianDiffusionPipeline.from_pretrained(tmp_path / name).unet.state_dict() for name in ("one", "two")]
    for name, weight in weights[0].items():
        assert_close(weights[1][name], weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "buckets, unet, shapes",
    [("16", "fashion_mnist", [(12, 20), (20, 12)]), ("24x48,48x24", "small_64", [(24, 48), (48, 24)])],
)
def test_a_network_and_its_shapes_are_chosen(photos, make_accelerator, buckets, unet, shapes):
    args = TrainingArguments(dataset=photos, aspect_buckets=buckets, max_train_steps=1)
    args, source = choose_network(args, make_accelerator())
    assert (args.unet, args.resolution, source.shapes) == (unet, None, shapes)


def test_shapes_are_for_the_network(photos, make_accelerator):
    args = TrainingArguments(dataset=photos, aspect_buckets="8x12,10", max_train_steps=1)
    with pytest.raises(InputError, match="has 10x10, and the network needs sides divisible by 4: choose 8x8"):
        choose_network(args, make_accelerator())


@pytest.mark.parametrize(
    "given, message",
    [
        ({"height": 9}, "Images of 9x8 do not suit a network of 2 levels"),
        ({"height": 0, "width": 8}, "height=0 must be a whole number of at least 1"),
        ({"width": 8.5}, "width=8.5 must be a whole number"),
    ],
)
def test_sizes_that_no_sample_has(tiny_unet, given, message):
    pipeline = GaussianDiffusionPipeline(tiny_unet(), GaussianDiffusionScheduler())
    with pytest.raises(ValueError, match=message):
        pipeline(num_inference_steps=1, **given)


def test_a_size_that_was_not_trained_is_said(tiny_unet, diffusers_log):
    pipeline = GaussianDiffusionPipeline(tiny_unet(aspect_buckets=[[8, 8], [8, 12]]), GaussianDiffusionScheduler())
    assert pipeline(num_inference_steps=1, width=12).images[0].size == (12, 8)
    assert not diffusers_log.text
    assert pipeline(num_inference_steps=1, width=16).images[0].size == (16, 8)
    assert "trained at 8x8, 8x12 (height x width), and draws 8x16" in diffusers_log.text


def test_a_picture_is_edited_in_the_nearest_shape(tiny_unet):
    pipeline = GaussianDiffusionPipeline(
        tiny_unet(sample_size=[8, 12], aspect_buckets=[[8, 12], [12, 8]]), GaussianDiffusionScheduler()
    )
    upright, across = (torch.rand(1, 1, *size) for size in ((30, 20), (20, 30)))
    mask, few = torch.ones(1, 1, 30, 20), {"num_inference_steps": 1, "output_type": "pt"}
    for edited in (
        GaussianDiffusionImg2ImgPipeline.from_pipe(pipeline)(upright, **few),
        GaussianDiffusionInpaintPipeline.from_pipe(pipeline)(upright, mask, **few),
        interpolate(pipeline, upright, across, [0.5], **few),
    ):
        assert edited.images.shape == (1, 1, 12, 8)
    encoded, _ = interpolate_encodings(pipeline, across, upright, [0.5], rtol=0.1, atol=0.1)
    assert encoded[0].size == (12, 8)


def test_models_of_points_have_no_sides(tmp_path):
    from ddpm_hf.samples import kind_of

    with pytest.raises(ValueError, match="are of images, and this model makes points"):
        kind_of({"in_channels": 2}).sides_of_output(8, 8)
    latents = kind_of({"in_channels": 4, "sample_size": 8, "autoencoder_factor": 4, "image_channels": 3})
    assert latents.sides_of_output(40, None) == (10, 8)
    with pytest.raises(ValueError, match="divisible by 4"):
        latents.sides_of_output(42, None)
