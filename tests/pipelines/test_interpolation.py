import math

import pytest
import torch
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.pipelines.image_inputs import prepare_images
from ddpm_hf.pipelines.interpolation import interpolate, slerp


@pytest.fixture
def pipeline(tiny_unet):
    # A network in float64: in float32 a batch of another size is rounded otherwise.
    pipeline = GaussianDiffusionPipeline(tiny_unet(num_classes=3).double(), GaussianDiffusionScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def denoised(pipeline, image, depth, steps, **kwargs):
    """The model's version of one image noised to `depth`, by the definition."""
    generator = seeded()
    x_0 = prepare_images(pipeline, image)
    x_t = pipeline.scheduler.add_noise(x_0, torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype), depth)
    pipeline.scheduler.set_timesteps(steps)
    timesteps = [depth] + [t for t in pipeline.scheduler.timesteps.tolist() if t < depth]
    return pipeline(latents=x_t, timesteps=timesteps, generator=generator, output_type="pt", **kwargs).images


@pytest.mark.parametrize("mode", ["linear", "spherical"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_ends_are_their_own_denoisings(pipeline, picture, mode, eta):
    a, b, kwargs = picture(1), picture(2), {"eta": eta, "class_labels": 1, "guidance_scale": 2.0}
    options = {"depth": 450, "mode": mode, "num_inference_steps": 8, "output_type": "pt"} | kwargs
    ends = [denoised(pipeline, image, 450, 8, **kwargs) for image in (a, b)]
    for weight, end in ((0, ends[0]), (1, ends[1])):
        assert torch.equal(interpolate(pipeline, a, b, [weight], generator=seeded(), **options).images, end)
    path = interpolate(pipeline, a, b, [0, 0.3, 1], generator=seeded(), **options).images
    assert_close(path[[0, 2]], torch.cat(ends), rtol=0, atol=1e-5)
    assert (path[1] - path[0]).abs().max() > 1e-3


def test_a_mixture_is_that_of_the_noised_images(pipeline, picture):
    """Both images have the same noise, so linear mixtures are the noised mixtures of the images."""
    a, b = picture(1), picture(2)
    mixed = 0.75 * prepare_images(pipeline, a) + 0.25 * prepare_images(pipeline, b)
    options = {"depth": 300, "num_inference_steps": 5}
    image = interpolate(pipeline, a, b, [0.25], generator=seeded(), output_type="pt", **options).images
    assert_close(image, denoised(pipeline, mixed[0] / 2 + 0.5, 300, 5), rtol=0, atol=1e-5)


def test_the_generator_is_the_only_chance(pipeline, picture):
    def path(seed):
        options = {"depth": 300, "num_inference_steps": 5, "output_type": "pt"}
        return interpolate(pipeline, picture(1), picture(2), [0.5, 0.5], generator=seeded(seed), **options).images

    assert torch.equal(path(1), path(1)) and (path(1) - path(2)).abs().max() > 1e-3
    assert_close(path(1)[0], path(1)[1])


def test_depth_is_walked_from_exactly(pipeline, picture):
    seen, kwargs = [], {"depth": 333, "num_inference_steps": 10}
    interpolate(
        pipeline, picture(1), picture(2), callback_on_step_end=lambda p, i, t, x: seen.append(int(t)), **kwargs
    )
    assert seen == [333, 300, 200, 100, 0]


def test_slerp_keeps_the_length_and_divides_the_angle():
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    for weight in (0, 0.2, 0.5, 1):
        expected = 3 * torch.tensor([math.cos(weight * math.pi / 2), math.sin(weight * math.pi / 2)])
        assert_close(slerp(a, b, weight), expected, rtol=0, atol=1e-6)
    assert_close(slerp(a, a, 0.3), a)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"weights": [0, 1.5]}, r"weights=\[0.0, 1.5\] must be one or more numbers in \[0, 1\]"),
        ({"weights": []}, r"weights=\[\] must be one or more"),
        ({"weights": [float("nan")]}, r"weights=\[nan\] must be"),
        ({"depth": 1000}, r"depth=1000 must be a timestep, a whole number in 0 \.\. 999"),
        ({"depth": -1}, "depth=-1 must be"),
        ({"depth": 0.5}, "depth=0.5 must be"),
        ({"mode": "cubic"}, "mode='cubic' is not one of 'linear', 'spherical'"),
        ({"image_b": torch.zeros(2, 1, 8, 8)}, "image_b is 2 images; it must be one"),
    ],
)
def test_bad_arguments(pipeline, picture, arguments, message):
    with pytest.raises(ValueError, match=message):
        interpolate(pipeline, **({"image_a": picture(), "image_b": picture()} | arguments))
