"""The probability flow: exact encoding and decoding against closed forms, and the verbs."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from typer.testing import CliRunner

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler, ScoreSDEScheduler, cli
from ddpm_hf.ode_solver import OdeOptions
from ddpm_hf.pipelines.probability_flow import decode, encode, follow_flow, interpolate_encodings, sample_by_flow

MEAN, VARIANCE = 0.3, 0.04


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def flow_of_a_normal(scheduler, x, start, end):
    """The closed form: x(t) - a mean is multiplied by the ratio of the standard deviations of x(t)."""
    signal, sigma = scheduler.process.levels(torch.tensor([start, end], dtype=torch.float64))
    std = (signal**2 * VARIANCE + sigma**2).sqrt()
    return signal[1] * MEAN + std[1] / std[0] * (x - signal[0] * MEAN)


@pytest.mark.parametrize("options", [{"sde": "vp"}, {"sde": "sub_vp"}, {"sde": "ve"}, {"beta_schedule": "linear"}])
def test_the_flow_of_normal_data_is_the_closed_form(options):
    scheduler = ScoreSDEScheduler(**options)
    # The drift of a chain bends at every timestep.
    tolerance, close = (1e-7, 1e-4) if "beta_schedule" in options else (1e-9, 1e-6)

    def score(x, t):
        signal, sigma = scheduler.process.levels(t)
        return (signal[:, None] * MEAN - x) / (signal**2 * VARIANCE + sigma**2)[:, None]

    eps = scheduler.sampling_eps
    x = torch.tensor([[0.5, -2.0], [0.3, 1.0]], dtype=torch.float64)
    up = follow_flow(score, scheduler, x, eps, 1.0, OdeOptions(tolerance, tolerance))
    assert_close(up.samples, flow_of_a_normal(scheduler, x, eps, 1.0), rtol=close, atol=close)
    down = follow_flow(score, scheduler, up.samples, 1.0, eps, OdeOptions(tolerance, tolerance))
    assert_close(down.samples, x, rtol=close, atol=close)


@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_the_published_flow_of_a_mixture(reference, name):
    from toy_densities import toy_score

    arrays = reference("predictor_corrector")
    scheduler = ScoreSDEScheduler(sde=name.replace("subvp", "sub_vp"))
    score = toy_score(arrays, "gmm")
    found = follow_flow(
        lambda x, t: score(x, *scheduler.process.levels(t)),
        scheduler,
        arrays[f"ode/{name}/gmm/z"],
        1.0,
        arrays[f"ode/{name}/gmm/eps"].item(),
        OdeOptions(1e-9, 1e-9),
    )
    assert_close(found.samples, arrays[f"ode/{name}/gmm/denoise0/tol1e-09/x"], rtol=1e-6, atol=1e-7)


@pytest.fixture
def exact_pipeline():
    """An exact model of grey images: normal pixels."""
    chain = GaussianDiffusionScheduler(clip_sample=False)
    means = torch.full((1, 1, 8, 8), 0.1)
    return GaussianDiffusionPipeline(
        ExactDenoiser.from_gaussian_mixture(means, torch.full_like(means, 0.1), chain), chain
    )


def test_an_image_comes_back_from_its_encoding(exact_pipeline, picture):
    pipeline = exact_pipeline
    given = picture()
    latents, calls = encode(pipeline, given)
    (again,), more_calls = decode(pipeline, latents, denoise=False)
    error = np.abs(np.asarray(again, dtype=float) - np.asarray(given, dtype=float))
    assert error.mean() < 0.5
    assert calls > 6
    assert more_calls > 6


def test_interpolation_of_encodings_begins_and_ends_with_the_images(exact_pipeline, picture):
    pipeline = exact_pipeline
    images, _ = interpolate_encodings(pipeline, picture(0), picture(1), (0, 0.5, 1), rtol=1e-4, atol=1e-4)
    for found, given in ((images[0], picture(0)), (images[2], picture(1))):
        assert np.abs(np.asarray(found, dtype=float) - np.asarray(given, dtype=float)).mean() < 1
    with pytest.raises(ValueError, match="must be one or more numbers"):
        interpolate_encodings(pipeline, picture(0), picture(1), (2,))
    with pytest.raises(ValueError, match="image_a is 2 images; it must be one"):
        interpolate_encodings(pipeline, [picture(0), picture(2)], picture(1))


def test_samples_of_the_exact_model_follow_its_distribution():
    chain = GaussianDiffusionScheduler(clip_sample=False)
    mean, variance = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.09, 0.25]])
    denoiser = ExactDenoiser.from_gaussian_mixture(mean, variance, chain)
    points, calls = sample_by_flow(GaussianDiffusionPipeline(denoiser, chain), 2000, batch_size=1000)
    points = torch.from_numpy(np.stack(points))
    assert_close(points.mean(0), mean[0], atol=0.05, rtol=0)
    assert_close(points.std(0), variance[0].sqrt(), atol=0.05, rtol=0)
    assert 40 < calls < 400


# The verbs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path, exact_pipeline):
    exact_pipeline.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_sample_ode_says_its_calls(tmp_path, model):
    options = ["--ode", "--rtol", "1e-3", "--num_images", 2, "--device", "cpu"]
    result = run("sample", model, *options, "--output", tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    assert "network calls at rtol 0.001" in result.output
    assert Image.open(tmp_path / "a.png").size == (128, 64)


def test_interpolate_ode(tmp_path, model, picture):
    for seed in (0, 1):
        picture(seed).save(tmp_path / f"{seed}.png")
    images = [tmp_path / "0.png", tmp_path / "1.png"]
    result = run("interpolate", model, *images, "--ode", "--num", 3, "--output", tmp_path / "strip.png")
    assert result.exit_code == 0, result.output
    assert "network calls" in result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ode", "--steps", "10"], "leave out --steps"),
        (["--ode", "--eta", "0", "--recipe", "ddim"], "leave out --recipe and --eta"),
        (["--rtol", "1e-3"], "give --ode too"),
        (["--ode", "--rtol", "-1"], "rtol=-1.0 must be greater than 0"),
    ],
)
def test_options_that_do_not_go_with_the_flow(tmp_path, model, options, words):
    result = run("sample", model, *options, "--output", tmp_path / "a.png", "--device", "cpu")
    assert result.exit_code != 0
    assert words in str(result.exception) + result.output


@pytest.mark.parametrize(
    "told", [{"num_classes": 3}, {"condition_value_range": (0, 2), "condition_value_absent": -1000.0}]
)
def test_guided_samples_of_a_batch_are_those_drawn_alone(tiny_unet, told):
    pipeline = GaussianDiffusionPipeline(tiny_unet(**told), GaussianDiffusionScheduler(num_train_timesteps=20))
    options = {"class_labels": 1, "guidance_scale": 2.0, "output_type": "pt", "rtol": 1e-3, "atol": 1e-3}
    together, _ = sample_by_flow(pipeline, 2, batch_size=2, **options)
    alone, _ = sample_by_flow(pipeline, 2, batch_size=1, **options)
    assert_close(torch.stack(together), torch.stack(alone), rtol=0, atol=0.02)
