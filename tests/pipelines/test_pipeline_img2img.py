import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.pipelines.image_inputs import prepare_images
from ddpm_hf.pipelines.pipeline_img2img import GaussianDiffusionImg2ImgPipeline


@pytest.fixture
def img2img(tiny_unet):
    def make(**config):
        pipeline = GaussianDiffusionPipeline(tiny_unet(num_classes=3), GaussianDiffusionScheduler(**config))
        edit = GaussianDiffusionImg2ImgPipeline.from_pipe(pipeline)
        edit.set_progress_bar_config(disable=True)
        return edit

    return make


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_components_are_shared(tiny_unet):
    pipeline = GaussianDiffusionPipeline(tiny_unet(), GaussianDiffusionScheduler())
    edit = GaussianDiffusionImg2ImgPipeline.from_pipe(pipeline)
    assert edit.unet is pipeline.unet and edit.scheduler is pipeline.scheduler


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_components_stay_in_their_precision(tiny_unet, picture, name):
    pipeline = GaussianDiffusionPipeline(tiny_unet().bfloat16(), GaussianDiffusionScheduler())
    edit = GaussianDiffusionImg2ImgPipeline.from_pipe(pipeline)
    assert pipeline.unet.dtype == torch.bfloat16
    images = edit(picture(), strength=0.5, num_inference_steps=4, generator=seeded(), output_type="pt").images
    assert pipeline.unet.dtype == torch.bfloat16
    again = GaussianDiffusionImg2ImgPipeline.from_pipe(pipeline, **{name: torch.float32})
    assert pipeline.unet.dtype == torch.float32
    exact = again(picture(), strength=0.5, num_inference_steps=4, generator=seeded(), output_type="pt").images
    assert 0 < (images - exact).abs().max() < 0.05


@pytest.mark.parametrize("spacing, solver_order", [("leading", 1), ("karras", 2)])
def test_the_last_share_of_the_steps_is_walked_from_the_noised_image(img2img, picture, spacing, solver_order):
    edit = img2img(timestep_spacing=spacing, solver_order=solver_order)
    edit.scheduler.set_timesteps(10)
    last_four = edit.scheduler.timesteps[-4:].tolist()
    x_0, noise = prepare_images(edit, picture()), torch.randn(1, 1, 8, 8, generator=seeded())
    x_t = edit.scheduler.add_noise(x_0, noise, last_four[0])
    whole = GaussianDiffusionPipeline.from_pipe(edit)
    whole.set_progress_bar_config(disable=True)
    expected = whole(latents=x_t, timesteps=last_four, eta=0.0, output_type="pt").images
    kwargs = {"strength": 0.45, "num_inference_steps": 10, "eta": 0.0, "output_type": "pt"}
    assert_close(edit(picture(), generator=seeded(), **kwargs).images, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("strength, steps", [(1.0, 5), (0.6, 3), (0.01, 1)])
def test_number_of_steps(img2img, picture, strength, steps):
    seen = []
    img2img()(
        picture(),
        strength=strength,
        num_inference_steps=5,
        callback_on_step_end=lambda p, i, t, x: seen.append(int(t)),
    )
    assert seen == [800, 600, 400, 200, 0][-steps:]


def test_images_do_not_depend_on_the_batches(img2img, picture):
    edit, images = img2img(), [picture(seed) for seed in range(3)]
    edit.unet.double()  # in float32 a batch of another size is rounded otherwise
    kwargs = {"strength": 0.5, "num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "pt"}
    together = edit(images, class_labels=[0, 1, 2], generator=[seeded(i) for i in range(3)], **kwargs).images
    for i, image in enumerate(images):
        alone = edit(image, class_labels=i, generator=seeded(i), **kwargs).images
        assert_close(alone, together[i : i + 1], rtol=0, atol=1e-5)


def test_one_image_many_seeds(img2img, picture):
    generators = [seeded(i) for i in range(3)]
    images = img2img()(picture(), generator=generators, num_inference_steps=2, output_type="np").images
    assert images.shape == (3, 8, 8, 1) and np.abs(images[0] - images[1]).max() > 1e-3


@pytest.mark.parametrize("strength", [0, -0.1, 1.5, float("nan")])
def test_bad_strength(img2img, picture, strength):
    with pytest.raises(ValueError, match=rf"strength={strength} must be in \(0, 1\]"):
        img2img()(picture(), strength=strength)


def test_numbers_of_images_that_disagree(img2img, picture):
    with pytest.raises(ValueError, match="image: 2, generator: 3"):
        img2img()([picture()] * 2, generator=[seeded()] * 3)
