"""The diffusion processes of converted checkpoints."""

import numpy as np
import pytest
import torch

from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.converters import convert_checkpoint
from ddpm_hf.converters.options import read_options
from ddpm_hf.errors import InputError


def alphas_bar(pipeline):
    return pipeline.scheduler.alpha_bar(torch.arange(len(pipeline.scheduler))).numpy()


def test_a_continuous_vp_process_has_the_noise_of_the_times_that_its_network_is_given(foreign):
    """Timestep i is fed as 999 t, and B(t) = 0.1 t + 19.9 t^2 / 2 is the integral of beta."""
    model = foreign("ddpmpp")
    t = np.arange(1000) / 999
    expected = np.exp(-(0.1 * t + 19.9 * t**2 / 2))
    pipeline = convert_checkpoint(model.checkpoint, model.options)
    assert alphas_bar(pipeline)[1:] == pytest.approx(expected[1:], rel=1e-9)
    assert expected[1] < alphas_bar(pipeline)[0] < 1
    assert pipeline.scheduler.config.clip_sample is False


def test_a_discrete_vp_process_is_that_of_ddpm(foreign):
    model = foreign("ddpmpp")
    options = read_options(model.options) | {"training.continuous": False}
    betas = np.linspace(1e-4, 0.02, 1000)
    assert alphas_bar(convert_checkpoint(model.checkpoint, options)) == pytest.approx(np.cumprod(1 - betas), rel=1e-9)


@pytest.mark.parametrize("steps", [1000, 4000])
def test_the_schedules_of_improved_diffusion(improved, steps):
    path, options = improved()
    options |= {"diffusion_steps": steps}
    linear = np.cumprod(1 - 1000 / steps * np.linspace(1e-4, 0.02, steps))
    assert alphas_bar(convert_checkpoint(path, options)) == pytest.approx(linear, rel=1e-9)
    angle = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    cosine = np.cumprod(1 - np.minimum(1 - angle[1:] / angle[:-1], 0.999))
    pipeline = convert_checkpoint(path, options | {"noise_schedule": "cosine"})
    assert alphas_bar(pipeline) == pytest.approx(cosine, rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"variance_type": "fixed_large", "prediction_type": "epsilon"}),
        ({"sigma_small": True}, {"variance_type": "fixed_small"}),
        ({"predict_xstart": True}, {"prediction_type": "sample"}),
    ],
)
def test_variances_and_predictions_of_improved_diffusion(improved, changes, expected):
    path, options = improved()
    config = convert_checkpoint(path, options | changes).scheduler.config
    assert {name: config[name] for name in expected} == expected and config.clip_sample


def test_lucidrains_has_the_tables_and_the_objective_of_its_file(foreign):
    model = foreign("lucidrains")
    table = torch.load(model.checkpoint, weights_only=True)["model"]["alphas_cumprod"]
    pipeline = convert_checkpoint(model.checkpoint, model.options)
    assert alphas_bar(pipeline) == pytest.approx(table.numpy(), rel=1e-4, abs=1e-9)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("objective", "weight", "kind"),
    [
        ("pred_noise", lambda ratio: torch.ones_like(ratio), "epsilon"),
        ("pred_x0", lambda ratio: ratio.clamp(max=5), "sample"),
        ("pred_v", lambda ratio: ratio.clamp(max=5) / (ratio + 1), "v_prediction"),
    ],
)
def test_the_objective_is_read_from_the_weights_of_the_loss(foreign, tmp_path, objective, weight, kind):
    content = torch.load(foreign("lucidrains").checkpoint, weights_only=True)
    table = content["model"]["alphas_cumprod"]
    content["model"]["loss_weight"] = weight(table / (1 - table))
    torch.save({"model": content["model"]}, tmp_path / "model.pt")
    pipeline = convert_checkpoint(tmp_path / "model.pt", {"image_size": 8})
    assert pipeline.scheduler.config.prediction_type == kind
    convert_checkpoint(tmp_path / "model.pt", {"image_size": 8, "objective": objective})


def test_a_ve_network_runs_with_the_sampler_of_its_code(foreign, tmp_path):
    model = foreign("ncsnpp_residual")
    pipeline = convert_checkpoint(model.checkpoint, model.options, tmp_path / "new")
    config = pipeline.scheduler.config
    assert (config.sde, config.sigma_min, config.sigma_max, config.num_train_timesteps) == ("ve", 0.01, 50.0, 1000)
    assert (config.prediction_type, config.corrector, config.snr) == ("score", "langevin", 0.16)
    assert config.centered is False  # data in [0, 1], which the network centres
    loaded = GaussianDiffusionPipeline.from_pretrained(tmp_path / "new")
    drawn = [
        each(num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type="latent").images
        for each in (pipeline, loaded)
    ]
    torch.testing.assert_close(*drawn, rtol=1e-5, atol=1e-5 * drawn[0].abs().max().item())


def test_a_sub_vp_network_predicts_the_noise_at_timesteps(foreign):
    model = foreign("ddpmpp")
    options = read_options(model.options) | {"training.sde": "subvpsde"}
    scheduler = convert_checkpoint(model.checkpoint, options).scheduler
    assert (scheduler.config.sde, scheduler.config.prediction_type) == ("sub_vp", "epsilon")
    assert scheduler.network_time(0.5).item() == 499.5 and scheduler.config.centered


def test_a_discrete_ve_network_is_given_the_index_of_its_level_from_the_largest(foreign, tmp_path):
    model = foreign("ddpmpp")
    options = read_options(model.options) | {"training.sde": "vesde", "training.continuous": False}
    pipeline = convert_checkpoint(model.checkpoint, options | {"data.centered": False}, tmp_path / "new")
    scheduler = GaussianDiffusionPipeline.from_pretrained(tmp_path / "new").scheduler
    assert (scheduler.config.sde, scheduler.config.prediction_type) == ("ve", "score")
    assert scheduler.network_time(scheduler.timesteps).tolist() == list(range(1000))
    images = pipeline(num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np").images
    assert np.isfinite(images).all()


def test_fourier_features_of_the_number_of_a_level_are_no_model(foreign):
    model = foreign("ncsnpp_residual")
    options = read_options(model.options) | {"training.continuous": False}
    with pytest.raises(InputError, match="numbers the noise levels, and model.embedding_type='fourier' takes sigma"):
        convert_checkpoint(model.checkpoint, options)
