"""Solvers fitted to a model: exact on Gaussian data, better than the usual ones on a curved density, and what is refused."""

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from torch.testing import assert_close

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.calibration import fit_solver
from ddpm_hf.calibration.solver_rows import fitted_row
from ddpm_hf.data.point_clouds import swiss_roll

PLAIN = GaussianDiffusionScheduler(clip_sample=False)


@pytest.fixture(scope="module")
def roll():
    points = swiss_roll(400, torch.Generator().manual_seed(0)).points.float()
    return ExactDenoiser.from_points((points - points.mean(0)) / points.std(0), PLAIN)


@pytest.fixture(scope="module")
def fitted(roll):
    return fit_solver(roll, PLAIN, [4, 6], num_paths=128, progress_bar=False)


def samples(network, scheduler, count, number=500):
    pipeline = GaussianDiffusionPipeline(network, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(number, 2, generator=torch.Generator().manual_seed(7))
    return pipeline(latents=noise, num_inference_steps=count, output_type="pt").images


def test_rows_by_least_squares_with_the_spread_of_the_target():
    generator = torch.Generator().manual_seed(0)
    x, x0 = torch.randn(2, 50, 3, generator=generator)
    ddim = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert_close(fitted_row([x, x0], 0.3 * x - 2 * x0, ddim), torch.tensor([0.3, -2.0]).double(), rtol=1e-4, atol=1e-5)
    # What no weights give is left out by least squares, which shrinks; the spread is given back.
    noisy = 0.3 * x + torch.randn(50, 3, generator=generator)
    row = fitted_row([x, x0], noisy, ddim)
    result = row[0] * x + row[1] * x0
    spreads = [(y - y.mean(0)).double().square().mean() for y in (result, noisy)]
    assert_close(*spreads)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_one_step_is_the_whole_flow_of_gaussian_data_of_two_variances(prediction_type):
    """The flow scales each direction by sqrt(v / (abar v + 1 - abar)); two numbers in a row are right for two directions."""
    scheduler = GaussianDiffusionScheduler(clip_sample=False, prediction_type=prediction_type)
    variance = torch.tensor([2.0, 0.1])

    class Gaussian(torch.nn.Module):
        """The exact prediction for x0 ~ N(0, diag(variance))."""

        dtype, device = torch.float32, torch.device("cpu")
        config = ExactDenoiser.from_points(torch.zeros(2, 2) + variance, scheduler).config

        def forward(self, x, t, class_labels=None, return_dict=True):
            abar = scheduler.alpha_bar(t).float()
            epsilon = (1 - abar).sqrt() * x / (abar * variance + 1 - abar)
            x0 = abar.sqrt() * variance * x / (abar * variance + 1 - abar)
            return (
                {"epsilon": epsilon, "v_prediction": abar.sqrt() * epsilon - (1 - abar).sqrt() * x0}[prediction_type],
            )

    fitted = fit_solver(Gaussian(), scheduler, [1], num_paths=64, progress_bar=False)
    fitted.set_timesteps(1)
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(3))
    x_0 = fitted.step(Gaussian()(x, 999)[0], 999, x).prev_sample
    abar = scheduler.alpha_bar(999)
    exact = x * (variance / (abar * variance + 1 - abar)).sqrt().float()
    assert_close(x_0, exact, rtol=0.01, atol=0.01)  # as exact as the fine paths, which end in one step from t = 0


def test_few_steps_are_nearer_to_the_flow_than_those_of_other_solvers(roll, fitted):
    exact = samples(roll, GaussianDiffusionScheduler.from_config(fitted.config, fitted_solvers=None), 200)
    for count in (4, 6):
        errors = {"fitted": (samples(roll, fitted, count) - exact).square().mean().sqrt()}
        for spacing in ("trailing", "logsnr", "karras"):
            second = {"timestep_spacing": spacing, "fitted_solvers": None}
            scheduler = GaussianDiffusionScheduler.from_config(fitted.config, **second)
            errors[spacing] = (samples(roll, scheduler, count) - exact).square().mean().sqrt()
        unipc = UniPCMultistepScheduler.from_config(
            PLAIN.config, timestep_spacing="trailing", final_sigmas_type="zero"
        )
        errors["unipc"] = (samples(roll, unipc, count) - exact).square().mean().sqrt()
        assert errors.pop("fitted") < 0.7 * min(errors.values()), (count, errors)


def test_the_same_seed_gives_the_same_rows(roll, fitted):
    again = fit_solver(roll, PLAIN, [4, 6], num_paths=128, progress_bar=False)
    assert again.config.fitted_solvers == fitted.config.fitted_solvers


def test_batches_of_any_size_give_solvers_of_one_quality(roll, fitted):
    exact = samples(roll, GaussianDiffusionScheduler.from_config(fitted.config, fitted_solvers=None), 200)
    again = fit_solver(roll, PLAIN, [6], num_paths=128, batch_size=50, progress_bar=False)
    errors = [(samples(roll, scheduler, 6) - exact).square().mean().sqrt() for scheduler in (fitted, again)]
    assert errors[1] < 1.5 * errors[0]


def test_classes_and_guidance(tiny_unet):
    unet = tiny_unet(num_classes=3)
    short = GaussianDiffusionScheduler(num_train_timesteps=20, beta_end=0.6)
    fitted = fit_solver(unet, short, [2], num_paths=16, guidance_scale=2.0, progress_bar=False)
    assert fitted.config.fitted_solvers["fitted_for"]["guidance_scale"] == 2.0
    pipeline = GaussianDiffusionPipeline(unet, fitted)
    pipeline.set_progress_bar_config(disable=True)
    assert len(pipeline(class_labels=[0, 2], guidance_scale=2.0, num_inference_steps=2).images) == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": [0]}, r"steps=\[0\] must be one or more numbers of network calls in 1 .. 50"),
        ({"steps": [200]}, r"steps=\[200\] must be one or more numbers of network calls in 1 .. 50"),
        ({"steps": []}, r"steps=\[\] must be one or more"),
        ({"num_paths": 4}, "num_paths=4 must be at least 16"),
        ({"guidance_scale": 2.0}, "need a class-conditional model"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan must be a finite number"),
        ({"guidance_scale": float("inf")}, "guidance_scale=inf must be a finite number"),
        ({"class_labels": [0, 1]}, "There are 2 class_labels for 96 images"),
        ({"images": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)}, "4 images are too few to fit a solver with: give at"),
        (
            {"images": torch.zeros(20, 1, 9, 9, dtype=torch.uint8)},
            r"shape \(1, 9, 9\) must be \(1, 8, 8\), as the net",
        ),
        ({"images": torch.zeros(20, 1, 8, 8)}, "uint8"),
    ],
)
def test_bad_arguments(stock_unet, options, message):
    with pytest.raises(ValueError, match=message):
        fit_solver(stock_unet, GaussianDiffusionScheduler(), **{"steps": [2], "progress_bar": False} | options)
