import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.pipelines.image_inputs import prepare_images
from ddpm_hf.pipelines.pipeline_inversion import GaussianDiffusionInversionPipeline


class LinearPredictor(torch.nn.Module):
    """E[eps | x_t] of data N(0, diag(variances)): linear in x_t, at each t otherwise."""

    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, config, scheduler, variances):
        super().__init__()
        self.config, self.scheduler, self.variances = config, scheduler, variances

    def forward(self, sample, timestep, class_labels=None, return_dict=False):
        alpha_bar = self.scheduler.alpha_bar(timestep)
        return ((1 - alpha_bar).sqrt() * sample / (alpha_bar * self.variances + 1 - alpha_bar),)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def inversion(unet, scheduler):
    pipeline = GaussianDiffusionInversionPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def reconstructed(pipeline, latents, labels=None):
    """The deterministic walk down, in the precision of the latents."""
    scheduler = pipeline.scheduler
    for t in scheduler.timesteps:
        output = pipeline.unet(latents, t, labels, return_dict=False)[0]
        latents = scheduler.step(output, t, latents, eta=0.0).prev_sample
    return latents


def test_components_are_shared(tiny_unet):
    pipeline = GaussianDiffusionPipeline(tiny_unet(), GaussianDiffusionScheduler())
    inverse = GaussianDiffusionInversionPipeline.from_pipe(pipeline)
    assert inverse.unet is pipeline.unet and inverse.scheduler is pipeline.scheduler


@pytest.mark.parametrize("spacing", ["leading", "trailing", "logsnr"])
def test_a_linear_predictor_is_inverted_exactly(stock_unet, spacing):
    scheduler = GaussianDiffusionScheduler(clip_sample=False, timestep_spacing=spacing)
    variances = torch.linspace(0.05, 1.0, 64, dtype=torch.float64).reshape(8, 8)
    inverse = inversion(LinearPredictor(stock_unet.config, scheduler, variances), scheduler)
    image = torch.rand(2, 1, 8, 8, generator=seeded(), dtype=torch.float64)
    latents = inverse(image, num_inference_steps=100, num_fixed_point_iterations=15).latents
    error = (reconstructed(inverse, latents) - (2 * image - 1)).abs().max()
    assert latents.dtype == torch.float64 and error < 1e-6


def test_a_linear_predictor_in_closed_form(stock_unet):
    """One pixel variance: every step down multiplies x by a known number, so x_T is x_0 divided by all of them."""
    scheduler, variance = GaussianDiffusionScheduler(clip_sample=False), 0.3
    variances = torch.full((8, 8), variance, dtype=torch.float64)
    inverse = inversion(LinearPredictor(stock_unet.config, scheduler, variances), scheduler)
    image = torch.rand(1, 1, 8, 8, generator=seeded(), dtype=torch.float64)
    latents = inverse(image, num_inference_steps=100, num_fixed_point_iterations=15).latents
    timesteps = scheduler.timesteps
    a_t, a_s = scheduler.alpha_bar(timesteps), scheduler.alpha_bar(torch.cat([timesteps[1:], torch.tensor([-1])]))
    marginal = a_t * variance + 1 - a_t
    factors = (a_s * a_t).sqrt() * variance / marginal + ((1 - a_s) * (1 - a_t)).sqrt() / marginal
    assert_close(latents, (2 * image - 1) / factors.prod(), rtol=1e-6, atol=1e-6)


def test_each_round_is_a_call_and_brings_it_nearer(stock_unet):
    scheduler, calls, errors = GaussianDiffusionScheduler(clip_sample=False), [], []
    variances = torch.linspace(0.05, 1.0, 64, dtype=torch.float64).reshape(8, 8)
    inverse = inversion(LinearPredictor(stock_unet.config, scheduler, variances), scheduler)
    inverse.unet.register_forward_pre_hook(lambda module, args: calls.append(args))
    image = torch.rand(1, 1, 8, 8, generator=seeded(), dtype=torch.float64)
    for rounds in (1, 2, 3):
        calls.clear()
        latents = inverse(image, num_inference_steps=50, num_fixed_point_iterations=rounds).latents
        assert len(calls) == 50 * rounds
        errors.append((reconstructed(inverse, latents) - (2 * image - 1)).abs().max())
    assert errors[1] < errors[0] / 3 and errors[2] < errors[1] / 3


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_network_through_the_pipelines(tiny_unet, picture, prediction_type):
    """The latents are what the main pipeline begins with; labels and guidance are those of both."""
    unet = tiny_unet(num_classes=3)
    with torch.no_grad():  # an untrained network is far from the smooth function that a trained one is
        unet.conv_out.weight.mul_(0.1)
    pipeline = GaussianDiffusionPipeline(
        unet, GaussianDiffusionScheduler(prediction_type=prediction_type, clip_sample=False)
    )
    pipeline.set_progress_bar_config(disable=True)
    inverse = GaussianDiffusionInversionPipeline.from_pipe(pipeline)
    inverse.set_progress_bar_config(disable=True)
    options = {
        "class_labels": [0, 2],
        "guidance_scale": 1.5,
        "guidance_interval": (0.1, 5.0),
        "timesteps": [300, 250, 200, 150, 100, 50, 0],
    }
    images = [picture(1), picture(2)]
    latents = inverse(images, num_fixed_point_iterations=6, **options).latents
    again = pipeline(latents=latents, eta=0.0, output_type="latent", **options).images
    assert_close(again, prepare_images(pipeline, images), rtol=0, atol=1e-3)
    alone = inverse(images[1], num_fixed_point_iterations=6, **(options | {"class_labels": 2})).latents
    assert_close(alone, latents[1:], rtol=1e-4, atol=1e-4)


def test_callback(stock_unet, picture):
    inverse, seen = inversion(stock_unet, GaussianDiffusionScheduler()), []

    def callback(pipeline, step, timestep, tensors):
        seen.append((step, int(timestep)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 3 else {}

    (latents,) = inverse(picture(), num_inference_steps=4, callback_on_step_end=callback, return_dict=False)
    assert seen == [(0, 0), (1, 250), (2, 500), (3, 750)] and (latents == 0).all()


@pytest.mark.parametrize(
    "config, arguments, message",
    [
        ({}, {"num_fixed_point_iterations": 0}, "num_fixed_point_iterations=0 must be a whole number of at least 1"),
        ({}, {"class_labels": 1}, "need a class-conditional model"),
        ({}, {"image": np.zeros((8, 8, 3))}, "3 channels and must have 1"),
        ({"solver_order": 2}, {}, "solver_order=2 uses the step before"),
        ({"variance_type": "npr"}, {}, "variance_type='npr' draws noise at eta=0 too"),
        (
            {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
            {},
            "Timestep 999 has no signal",
        ),
    ],
)
def test_bad_arguments(stock_unet, picture, config, arguments, message):
    inverse = inversion(stock_unet, GaussianDiffusionScheduler(**config))
    with pytest.raises(ValueError, match=message):
        inverse(**({"image": picture(), "num_inference_steps": 4} | arguments))
