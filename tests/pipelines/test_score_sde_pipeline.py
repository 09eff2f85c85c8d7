"""`ScoreSDEScheduler` in the pipeline: predictor-corrector, networks with Fourier features, saving and refusals."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, ScoreSdeVePipeline, ScoreSdeVeScheduler, UNet2DModel
from tiny_networks import TINY
from torch.testing import assert_close

from ddpm_hf import (
    DDPMUNet2DModel,
    ExactDenoiser,
    GaussianDiffusionPipeline,
    GaussianDiffusionScheduler,
    MLPDenoiser,
    ScoreSDEScheduler,
)
from ddpm_hf.evaluation.drawn_samples import draw_levels
from ddpm_hf.hub.model_folder import load_pipeline

SIZES = TINY | {"in_channels": 3, "out_channels": 3}


def fourier_unet():
    torch.manual_seed(0)
    return UNet2DModel(**SIZES, time_embedding_type="fourier").eval()


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def counted(unet):
    """The network, and a list that gets the time it is given in every call."""
    times = []
    unet.register_forward_pre_hook(lambda module, args: times.append(args[1]))
    return unet, times


def test_a_stock_ve_repository_opens_and_gives_the_images_of_the_stock_pipeline(tmp_path):
    stock = quiet(ScoreSdeVePipeline(fourier_unet(), ScoreSdeVeScheduler(20, sigma_max=10.0, correct_steps=2)))
    stock.save_pretrained(tmp_path)
    ours = quiet(load_pipeline(tmp_path))
    assert isinstance(ours.scheduler, ScoreSDEScheduler)

    _, times = counted(ours.unet)
    images = ours(2, generator=torch.Generator().manual_seed(0), num_inference_steps=20, output_type="np").images
    assert len(times) == 20 * (2 + 1)
    # The stock loop: x_T, then in each step two corrections and a prediction, one generator for all.
    theirs = stock(2, num_inference_steps=20, generator=torch.Generator().manual_seed(0), output_type="np").images
    assert_close(torch.from_numpy(images), torch.from_numpy(theirs), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("correct_first", [True, False])
def test_the_order_of_corrections(correct_first):
    unet, times = counted(UNet2DModel(**SIZES))
    scheduler = ScoreSDEScheduler(
        predictor="euler_maruyama", corrector="langevin", correct_steps=2, correct_first=correct_first
    )
    quiet(GaussianDiffusionPipeline(unet, scheduler))(num_inference_steps=25, output_type="pt")
    seen = torch.stack(times)
    expected = scheduler.network_time(scheduler.timesteps).repeat_interleave(3)
    assert_close(seen, expected if correct_first else expected[2:])


@pytest.mark.parametrize("predictor", ["euler_maruyama", "reverse_diffusion", "ancestral", "none"])
@pytest.mark.parametrize("corrector", ["langevin", "annealed_langevin", "none"])
def test_samplers_of_a_ddpm_give_the_data_of_the_exact_score(predictor, corrector):
    if predictor == corrector == "none":
        return
    chain = DDPMScheduler(clip_sample=False)
    mean, variance = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.09, 0.25]])
    denoiser = ExactDenoiser.from_gaussian_mixture(
        mean, variance, GaussianDiffusionScheduler.from_config(chain.config)
    )
    # Langevin dynamics alone takes many steps to follow the noise level.
    options, steps = ({"correct_steps": 10, "snr": 0.3}, 50) if predictor == "none" else ({}, 100)
    scheduler = ScoreSDEScheduler.from_config(chain.config, predictor=predictor, corrector=corrector, **options)
    pipeline = quiet(GaussianDiffusionPipeline(denoiser, scheduler))
    points = pipeline(
        2000, generator=torch.Generator().manual_seed(0), num_inference_steps=steps, output_type="pt"
    ).images
    assert_close(points.mean(0), mean[0], atol=0.1, rtol=0)
    assert_close(points.std(0), variance[0].sqrt(), atol=0.1, rtol=0)


def test_denoise_leaves_out_the_last_noise():
    unet, kept = UNet2DModel(**SIZES), []
    for denoise in (True, False):
        pipeline = quiet(GaussianDiffusionPipeline(unet, ScoreSDEScheduler(denoise=denoise)))
        generator = torch.Generator().manual_seed(0)
        kept.append(pipeline(generator=generator, num_inference_steps=25, output_type="latent").images)
    beta = 0.1 / 25  # of the last step
    assert_close((kept[1] - kept[0]).std().item(), beta**0.5, rtol=0.2, atol=0)


@pytest.mark.parametrize("unet", [UNet2DModel(**SIZES), DDPMUNet2DModel(**SIZES), MLPDenoiser()])
def test_a_pipeline_in_continuous_time_is_saved_and_loaded(tmp_path, unet):
    scheduler = ScoreSDEScheduler(sde="sub_vp", corrector="langevin", snr=0.1, denoise=False)
    pipeline = quiet(GaussianDiffusionPipeline(unet, scheduler))
    pipeline.save_pretrained(tmp_path)
    again = quiet(load_pipeline(tmp_path))
    names = ("sde", "corrector", "snr", "denoise")
    assert all(again.scheduler.config[name] == scheduler.config[name] for name in names)
    samples = [
        each(2, generator=torch.Generator().manual_seed(0), num_inference_steps=25, output_type="pt").images
        for each in (pipeline, again)
    ]
    assert_close(*samples, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_saved_code_samples_without_the_package(tmp_path):
    scheduler = ScoreSDEScheduler.from_config(DDPMScheduler(50, beta_end=0.2).config, corrector="langevin")
    GaussianDiffusionPipeline(UNet2DModel(**SIZES), scheduler).save_pretrained(tmp_path / "model")
    program = f"""
import sys
sys.modules["ddpm_hf"] = None
from diffusers import DiffusionPipeline
folder = {str(tmp_path / "model")!r}
pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
assert type(pipeline.scheduler).__name__ == "ScoreSDEScheduler", pipeline.scheduler
assert pipeline(num_inference_steps=3, output_type="pt").images.shape == (1, 3, 8, 8)
"""
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_images_of_data_in_0_to_1_are_returned_as_such():
    unet = fourier_unet()
    scheduler = ScoreSDEScheduler(sde="ve", num_train_timesteps=5, centered=False, prediction_type="score")
    pipeline = quiet(GaussianDiffusionPipeline(unet, scheduler))

    def replace(pipeline, i, t, tensors):
        return {"latents": torch.full_like(tensors["latents"], 0.25)}

    images = pipeline(callback_on_step_end=replace, output_type="np").images
    assert_close(torch.from_numpy(images), torch.full((1, 8, 8, 3), 0.25))


def test_a_network_whose_time_embedding_does_not_suit_is_refused():
    with pytest.raises(ValueError, match="time_embedding_type='fourier', for noise levels sigma"):
        GaussianDiffusionPipeline(fourier_unet(), ScoreSDEScheduler(sde="vp"))
    with pytest.raises(ValueError, match="time_embedding_type='fourier', for noise levels sigma"):
        GaussianDiffusionPipeline(fourier_unet(), DDPMScheduler())
    with pytest.raises(ValueError, match="the network's time embedding is for timesteps"):
        GaussianDiffusionPipeline(UNet2DModel(**SIZES), ScoreSDEScheduler(sde="ve"))
    pipeline = GaussianDiffusionPipeline(UNet2DModel(**SIZES), ScoreSDEScheduler(sde="ve", time_input="timestep"))
    pipeline.scheduler = ScoreSDEScheduler(sde="ve")
    with pytest.raises(ValueError, match="the network's time embedding is for timesteps"):
        pipeline()


def test_images_of_a_process_in_zero_to_one_are_scored_as_they_are_seen():
    pipeline = quiet(GaussianDiffusionPipeline(fourier_unet(), ScoreSDEScheduler(sde="ve", centered=False)))
    seen = pipeline(2, generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)], num_inference_steps=4)
    scored = draw_levels(pipeline, [5, 6], 0, num_inference_steps=4)
    assert [np.asarray(image).tolist() for image in seen.images] == scored.permute(0, 2, 3, 1).tolist()
    assert len(scored.unique()) > 2
