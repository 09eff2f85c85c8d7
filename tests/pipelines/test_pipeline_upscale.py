"""The pipeline that enlarges images, and condition images in the pipelines of samples and of editing."""

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ddpm_hf import (
    DDPMUNet2DModel,
    GaussianDiffusionPipeline,
    GaussianDiffusionScheduler,
    GaussianDiffusionUpscalePipeline,
)
from ddpm_hf.evaluation import bits_per_dim
from ddpm_hf.pipelines.pipeline_img2img import GaussianDiffusionImg2ImgPipeline
from ddpm_hf.pipelines.pipeline_inpaint import GaussianDiffusionInpaintPipeline
from ddpm_hf.pipelines.pipeline_inversion import GaussianDiffusionInversionPipeline
from ddpm_hf.pipelines.tiles import tiles_of

UPSCALER = {"in_channels": 2, "condition_channels": 1, "low_resolution": 4}
LEVELS = {"max_augmentation_level": 0.5}
STEPS = {"num_inference_steps": 3, "output_type": "pt"}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def upscaler(tiny_unet):
    def make(**options):
        pipeline = GaussianDiffusionUpscalePipeline(tiny_unet(**UPSCALER | options), GaussianDiffusionScheduler())
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return make


@pytest.fixture
def small():
    return torch.rand(2, 1, 4, 4, generator=generator())


def test_images_of_every_kind_give_the_same(upscaler, small):
    pipeline = upscaler()
    levels = (small * 255).round()
    pictures = [Image.fromarray(one[0].byte().numpy()) for one in levels]
    images = [pipeline(given, **STEPS, generator=generator()).images for given in (levels / 255, pictures)]
    assert images[0].shape == (2, 1, 8, 8)
    assert_close(images[0], images[1])
    assert_close(images[0], pipeline(levels / 255, **STEPS, generator=generator()).images)
    one_for_all = pipeline(pictures[0], batch_size=3, **STEPS, generator=generator()).images
    assert one_for_all.shape == (3, 1, 8, 8)


def test_samples_follow_their_image(upscaler, small):
    pipeline = upscaler()
    one, other = (pipeline(image, **STEPS, generator=generator()).images for image in (small, 1 - small))
    assert (one - other).abs().max() > 1e-3


@torch.no_grad()
def test_the_network_is_told_the_enlarged_image(upscaler, small):
    """A step of the base pipeline, written out."""
    pipeline = upscaler()
    x_T = torch.randn(2, 1, 8, 8, generator=generator())
    said = pipeline(small, latents=x_T, timesteps=[500], eta=0.0, output_type="latent").images
    blown_up = torch.nn.functional.interpolate(small * 2 - 1, (8, 8), mode="bilinear")
    epsilon = pipeline.unet(torch.cat([x_T, blown_up], 1), 500).sample
    a = pipeline.scheduler.alphas_cumprod[500]
    assert_close(said, ((x_T - (1 - a).sqrt() * epsilon) / a.sqrt()).clamp(-1, 1), rtol=0, atol=1e-4)


@torch.no_grad()
def test_guidance_by_the_image_and_by_the_class(upscaler, small):
    """eps_null + s (eps - eps_null), where what is dropped is the image, or with classes the class alone."""
    x, t, scale = torch.randn(2, 1, 8, 8, generator=generator()), torch.tensor(300), 3.0
    blown_up = torch.nn.functional.interpolate(small * 2 - 1, (8, 8), mode="bilinear")
    for options, labels, null in (
        ({"condition_dropout": True}, (None, None), torch.zeros_like(blown_up)),
        ({"num_classes": 3}, (torch.tensor([0, 1]), torch.tensor([3, 3])), blown_up),
    ):
        pipeline, seen = upscaler(**options), []
        kept = lambda p, i, t, tensors, seen=seen: seen.append(tensors["model_output"]) or {}  # noqa: E731
        watching = {"callback_on_step_end": kept, "callback_on_step_end_tensor_inputs": ("model_output",)}
        classes = {} if labels[0] is None else {"class_labels": labels[0]}
        pipeline(small, latents=x, timesteps=[300], guidance_scale=scale, output_type="latent", **classes, **watching)
        for_image = pipeline.unet(torch.cat([x, blown_up], 1), t, labels[0]).sample
        without = pipeline.unet(torch.cat([x, null], 1), t, labels[1]).sample
        assert_close(seen[0], without + scale * (for_image - without), rtol=1e-4, atol=1e-5)


def test_levels_are_told_and_their_noise_drawn(upscaler, small):
    pipeline = upscaler(**LEVELS)
    run = {level: pipeline(small, level, **STEPS, generator=generator()).images for level in (0.0, 0.3)}
    assert (run[0.0] - run[0.3]).abs().max() > 1e-3
    again = pipeline(small, 0.3, **STEPS, generator=generator()).images
    assert torch.equal(again, run[0.3])
    each = [generator(seed) for seed in (5, 6)]
    both = pipeline(small, 0.3, **STEPS, generator=each).images
    second = pipeline(small[1:], 0.3, **STEPS, generator=[generator(6)]).images
    assert_close(both[1:], second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [None, 3])
def test_levels_in_half_precision(upscaler, small, tmp_path, dtype, classes):
    pipeline = upscaler(**LEVELS, num_classes=classes)
    whole = pipeline(small, 0.3, **STEPS, generator=generator()).images
    pipeline.save_pretrained(tmp_path)
    half = GaussianDiffusionUpscalePipeline.from_pretrained(tmp_path).to(dtype)
    half.set_progress_bar_config(disable=True)
    assert_close(half(small, 0.3, **STEPS, generator=generator()).images, whole, rtol=0, atol=0.1)


def test_large_images_are_drawn_in_tiles(upscaler):
    """Tiles that do not overlap are samples of their own, but for what the enlarging sees beyond their border."""
    pipeline, image = upscaler(), torch.full((1, 1, 8, 4), 0.4)
    x_T = torch.randn(1, 1, 16, 8, generator=generator())
    large = pipeline(image, latents=x_T, tile_overlap=0, eta=0.0, **STEPS).images
    for rows in (slice(0, 8), slice(8, 16)):
        alone = pipeline(image[..., :4, :], latents=x_T[..., rows, :], eta=0.0, **STEPS).images
        assert_close(large[..., rows, :], alone)
    assert pipeline(torch.rand(1, 1, 5, 7), **STEPS).images.shape == (1, 1, 10, 14)
    assert len(tiles_of((16, 8), (8, 8), (2, 2), 0.25)) == 3


def test_the_base_pipeline_takes_the_image_by_name(upscaler, small, tmp_path):
    pipeline = upscaler()
    pipeline.save_pretrained(tmp_path)
    base = GaussianDiffusionPipeline.from_pretrained(tmp_path)
    base.set_progress_bar_config(disable=True)
    expected = pipeline(small, **STEPS, generator=generator()).images
    assert_close(base(batch_size=2, condition_image=small, **STEPS, generator=generator()).images, expected)


def test_editing_with_a_condition_image(upscaler, small):
    """The image counts in each kind of editing; DDIM inversion with it leads back to the image."""
    pipeline, image, mask = upscaler(), torch.full((1, 1, 8, 8), 0.5), torch.ones(1, 1, 8, 8)
    calls = {
        GaussianDiffusionImg2ImgPipeline: {"strength": 0.5, "generator": 0},
        GaussianDiffusionInpaintPipeline: {"mask_image": mask, "jump_n_sample": 1, "generator": 0},
        GaussianDiffusionInversionPipeline: {},
    }
    for kind, call in calls.items():
        edit = kind.from_pipe(pipeline)
        edit.set_progress_bar_config(disable=True)
        drawn = []
        for told in (small[:1], small[1:]):
            seeded = {"generator": generator(), "output_type": "pt"} if "generator" in call else {}
            drawn.append(edit(image, **call | seeded, condition_image=told, num_inference_steps=3)[0])
        assert (drawn[0] - drawn[1]).abs().max() > 1e-4, kind
    steps = {"timesteps": [400, 300, 200, 100, 0]}
    x_t = edit(image, condition_image=small[1:], num_fixed_point_iterations=30, **steps).latents
    back = pipeline(small[1:], latents=x_t, eta=0.0, output_type="pt", **steps).images
    assert_close(back, image, rtol=0, atol=0.01)


def test_a_network_that_ignores_its_image_has_the_likelihood_of_one_without(tiny_unet):
    plain = tiny_unet()
    told = DDPMUNet2DModel.from_config(dict(plain.config), **UPSCALER)
    weights = plain.state_dict()
    first = weights["conv_in.weight"]
    told.load_state_dict(weights | {"conv_in.weight": torch.cat([first, torch.zeros_like(first)], 1)})
    images = torch.randint(256, (3, 1, 8, 8), generator=generator(), dtype=torch.uint8)
    measured = [
        bits_per_dim(unet, GaussianDiffusionScheduler(), images, num_inference_steps=4, progress_bar=False).per_image
        for unet in (plain, told)
    ]
    assert measured[1] == pytest.approx(measured[0])


@pytest.mark.parametrize(
    "options, call, message",
    [
        ({}, {"image": torch.rand(1, 3, 4, 4)}, "has 3 channels and must have 1"),
        ({}, {"image": torch.rand(1, 1, 3, 4)}, "image is of 3x4 .* at least 4x4"),
        ({}, {"image": [torch.rand(1, 4, 4), torch.rand(1, 5, 4)]}, "image is of 4x4, 5x4 .* of one size"),
        ({}, {"image": torch.rand(1, 1, 4, 4) * 255}, r"must be floats in \[0, 1\]"),
        ({}, {"augmentation_level": 0.1}, "augmentation_level=0.1 is for a model that was trained with noise"),
        (LEVELS, {"augmentation_level": 0.6}, r"augmentation_level=0.6 must be in \[0, 0.5\]"),
        (LEVELS, {"augmentation_level": -0.1}, r"augmentation_level=-0.1 must be in \[0, 0.5\]"),
        (LEVELS, {"augmentation_level": float("nan")}, r"augmentation_level=nan must be in \[0, 0.5\]"),
        ({}, {"guidance_scale": 2.0}, "trained with --condition_dropout"),
        ({}, {"tile_overlap": 1.0}, "tile_overlap=1.0"),
        ({}, {"batch_size": 3, "image": torch.rand(2, 1, 4, 4)}, "must agree"),
        ({}, {"latents": torch.zeros(1, 1, 16, 16)}, "condition_image is of 4x4 .* must be of 8x8"),
    ],
)
def test_what_is_refused(upscaler, options, call, message):
    with pytest.raises(ValueError, match=message):
        upscaler(**options)(**{"image": torch.rand(1, 1, 4, 4)} | STEPS | call)


def test_a_model_without_its_image_and_an_image_without_its_model(upscaler, tiny_unet, small):
    told, plain = upscaler(), GaussianDiffusionPipeline(tiny_unet(), GaussianDiffusionScheduler())
    with pytest.raises(ValueError, match="This model needs a condition image: it enlarges images"):
        GaussianDiffusionPipeline.from_pipe(told)(num_inference_steps=1)
    with pytest.raises(ValueError, match="condition_image is for a model that was trained with condition images"):
        plain(condition_image=small, num_inference_steps=1)
    with pytest.raises(ValueError, match="This model enlarges no images: train one"):
        GaussianDiffusionUpscalePipeline.from_pipe(plain)(small)
