"""Gamma equals its known value for Gaussian data with the exact predictor, however it is computed."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.utils import logging
from exact_predictor import WithOffset, exact_of_images
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.calibration import estimate_mean_square_epsilon
from ddpm_hf.calibration.mean_square_epsilon import image_timesteps

STEPS = 10
SCHEDULE = {"num_train_timesteps": STEPS, "beta_schedule": "squaredcos_cap_v2"}
# Two kinds of pixels: a background that hardly varies, and one that does.
MEAN = torch.tensor([-0.3, 0.1]).repeat_interleave(32).reshape(1, 8, 8)
VARIANCE = torch.tensor([1e-4, 0.03]).repeat_interleave(32).reshape(1, 8, 8)


def exact_gamma(scheduler):
    alpha_bar = scheduler.alpha_bar(range(STEPS)).reshape(-1, 1, 1, 1)
    return ((1 - alpha_bar) / (alpha_bar * VARIANCE + 1 - alpha_bar)).mean((1, 2, 3))


def gaussian_images(count, seed=0):
    noise = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return MEAN + VARIANCE.sqrt() * noise


def estimate(unet, images, scheduler=None, **options):
    scheduler = scheduler or GaussianDiffusionScheduler(**SCHEDULE)
    return estimate_mean_square_epsilon(unet, scheduler, images, progress_bar=False, **options)


def as_tensors(result):
    return torch.tensor(result.values).double(), torch.tensor(result.standard_errors).double()


@pytest.fixture
def images():
    return torch.randint(256, (16, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


# What it is ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
def test_gamma_of_gaussian_data_is_the_known_one(beta_schedule):
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=STEPS, beta_schedule=beta_schedule, beta_end=0.8)
    unet = exact_of_images(scheduler, MEAN, VARIANCE)
    result = estimate(unet, gaussian_images(400), scheduler, timesteps_per_image=4, batch_size=400)
    values, errors = as_tensors(result)
    assert sum(result.draws) == 400 * 4 and max(result.draws) - min(result.draws) <= 4
    off = (values - exact_gamma(scheduler)) / errors
    assert off.abs().max() < 4
    assert 0.7 < off.square().mean().sqrt() < 1.3
    # |eps_hat|^2 / d alone has an error of sqrt(2 / 64 / 160) = 0.014 where eps_hat is nearly eps
    assert errors[-2:].max() < 1e-3


def test_the_residual_is_the_rest_of_gamma_for_the_exact_predictor():
    scheduler = GaussianDiffusionScheduler(**SCHEDULE)
    result = estimate(exact_of_images(scheduler, MEAN, VARIANCE), gaussian_images(400), timesteps_per_image=4)
    residuals, errors = (torch.tensor(x).double() for x in (result.residuals, result.residual_errors))
    truth = 1 - exact_gamma(scheduler)
    assert ((residuals - truth) / errors).abs().max() < 4
    # sqrt(2 / (32 * 160)) = 0.02, in proportion to itself, as 32 pixels of 160 draws have nearly all of it; Gamma's is not
    assert (errors / truth).max() < 0.025
    assert_close(torch.tensor(result.for_optimal_variance()).double(), 1 - residuals)


def test_the_residual_has_the_errors_of_the_mean_too():
    """eps_hat = eps* + 0.5: Gamma and the residual both gain 0.25, so that 1 - Gamma is less than it was."""
    scheduler = GaussianDiffusionScheduler(**SCHEDULE)
    exact = exact_of_images(scheduler, MEAN, VARIANCE)
    images = gaussian_images(50)
    right, wrong = estimate(exact, images), estimate(WithOffset(exact, 0.5), images)
    gained = torch.tensor(wrong.residuals) - torch.tensor(right.residuals)
    assert_close(gained.mean(), torch.tensor(0.25), atol=0.02, rtol=0)


def test_a_prediction_that_is_worse_than_none_is_said_at_once(caplog):
    scheduler = GaussianDiffusionScheduler(**SCHEDULE)
    exact = exact_of_images(scheduler, MEAN, VARIANCE)
    with caplog.at_level("WARNING"):
        logging.enable_propagation()
        estimate(exact, gaussian_images(10))
        assert not caplog.records
        estimate(WithOffset(exact, 1.2), gaussian_images(10))
    assert "that of predicting none is 1. Is it trained?" in caplog.text


def test_the_standard_error_is_the_spread_of_repeated_estimates():
    scheduler = GaussianDiffusionScheduler(**SCHEDULE)
    unet, truth = exact_of_images(scheduler, MEAN, VARIANCE), exact_gamma(scheduler)
    values, errors = zip(
        *(
            as_tensors(estimate(unet, gaussian_images(20, seed), seed=seed, timesteps_per_image=5, batch_size=20))
            for seed in range(120)
        ),
        strict=True,
    )
    values, errors = torch.stack(values), torch.stack(errors)
    spread, claimed = values.std(0), errors.square().mean(0).sqrt()
    ratio = spread / claimed
    assert 0.9 < ratio.square().mean().sqrt() < 1.1  # 10 timesteps of 120 estimates each: an error of about 2%
    bias = (values.mean(0) - truth) / (spread / 120**0.5)
    assert bias.abs().max() < 4


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_x0_and_v_predictions_give_the_same(prediction_type):
    other = GaussianDiffusionScheduler(**SCHEDULE, prediction_type=prediction_type)
    epsilon = GaussianDiffusionScheduler(**SCHEDULE)
    images = gaussian_images(10)
    result = estimate(exact_of_images(other, MEAN, VARIANCE), images, other)
    expected = estimate(exact_of_images(epsilon, MEAN, VARIANCE), images, epsilon)
    assert_close(as_tensors(result), as_tensors(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("steps, per_image", [(1000, 100), (50, 25), (1000, 7), (333, 10)])
def test_timesteps_are_evenly_spread_over_each_image_and_over_all(steps, per_image):
    timesteps = image_timesteps(0, 500, per_image, steps, seed=3)
    assert timesteps.min() >= 0 and timesteps.max() < steps
    gaps = timesteps.diff(dim=1)
    assert gaps.min() >= steps // per_image and gaps.max() <= -(-steps // per_image)
    draws = torch.bincount(timesteps.flatten(), minlength=steps)
    assert (draws - 500 * per_image / steps).abs().max() <= 2.5
    assert torch.equal(image_timesteps(100, 5, per_image, steps, seed=3), timesteps[100:105])
    assert not torch.equal(image_timesteps(0, 500, per_image, steps, seed=4), timesteps)


# What must not matter ------------------------------------------------------------------------------------------------


def test_the_batches_do_not_matter(stock_unet, images):
    whole = estimate(stock_unet, images)
    for same in (estimate(stock_unet, images, batch_size=8), estimate(stock_unet, list(images.split(11)))):
        assert_close(as_tensors(same), as_tensors(whole), rtol=1e-4, atol=1e-7)
        assert same.draws == whole.draws
    assert estimate(stock_unet, images, seed=1).values != whole.values


def test_neither_clipping_nor_the_variance_nor_a_trajectory_matter(stock_unet, images):
    expected = estimate(stock_unet, images).values
    scheduler = GaussianDiffusionScheduler(
        **SCHEDULE,
        clip_sample_range=0.1,
        variance_type="analytic",
        mean_square_epsilon=[0.5] * STEPS,
        timestep_spacing="optimal",
        timestep_plans={"2": [9, 5]},
    )
    scheduler.set_timesteps(2)
    assert estimate(stock_unet, images, scheduler).values == expected
    assert scheduler.timesteps.tolist() == [9, 5]


@pytest.mark.parametrize("stock", [DDIMScheduler, DPMSolverMultistepScheduler])
def test_stock_schedulers_stand_for_the_chain_of_their_config(stock_unet, images, stock):
    assert estimate(stock_unet, images, stock(**SCHEDULE)).values == estimate(stock_unet, images).values


def test_a_variance_head_is_left_out(tiny_unet, images):
    unet = tiny_unet(variance_head="learned_range")
    with_head = estimate(unet, images, GaussianDiffusionScheduler(**SCHEDULE, variance_type="learned_range"))
    with torch.no_grad():
        unet.conv_out.weight[1:] += 1
    assert estimate(unet, images).values == with_head.values


def test_integers_and_floats_are_the_same_images(stock_unet, images):
    assert estimate(stock_unet, images).values == estimate(stock_unet, images / 127.5 - 1).values


def test_labels(tiny_unet, images):
    unet, labels = tiny_unet(num_classes=3), torch.arange(16) % 3
    whole = estimate(unet, images, class_labels=labels)
    assert_close(
        as_tensors(estimate(unet, images, class_labels=labels, batch_size=9)), as_tensors(whole), rtol=1e-4, atol=1e-7
    )
    assert whole.values != estimate(unet, images, class_labels=1).values != estimate(unet, images).values


def test_latents(stock_unet, images):
    """Images of another size and number of channels than the network's, which sees what `encode` makes of them."""
    latents = images / 127.5 - 1
    large = latents.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2).repeat(1, 3, 1, 1)
    result = estimate(stock_unet, large, encode=lambda x: x[:, :1, ::2, ::2])
    assert result.values == estimate(stock_unet, latents).values
    wide = 3 * latents
    assert estimate(stock_unet, latents, encode=lambda x: 3 * x).values != result.values
    with pytest.raises(ValueError, match=r"reach from -3 to 3"):
        estimate(stock_unet, wide)


def test_half_precision(stock_unet, images):
    expected = as_tensors(estimate(stock_unet, images))[0]
    values = as_tensors(estimate(stock_unet.to(torch.bfloat16), images))[0]
    assert_close(values, expected, rtol=0.02, atol=1e-3)


def test_dropout_is_off_and_the_network_is_left_as_it_was(tiny_unet, images):
    unet = tiny_unet(dropout=0.5).train()
    assert estimate(unet, images).values == estimate(unet, images).values
    assert unet.training


def test_json(stock_unet, images):
    result = estimate(stock_unet, images)
    values = json.loads(result.to_json())
    assert values["values"] == result.values and len(values["standard_errors"]) == STEPS
    assert values["num_images"] == 16 and values["timesteps_per_image"] == STEPS and values["draws"] == [16] * STEPS


# Going on ------------------------------------------------------------------------------------------------------------


class CutOff(Exception):
    pass


def test_an_estimate_that_was_cut_off_goes_on(stock_unet, images, tmp_path):
    expected = estimate(stock_unet, images, batch_size=6)
    calls = []

    def count(*_):
        calls.append(1)
        if len(calls) == 25:
            raise CutOff

    hook = stock_unet.register_forward_hook(count)
    options = {"batch_size": 6, "state_file": tmp_path / "new" / "state.npz"}
    with pytest.raises(CutOff):
        estimate(stock_unet, images, **options)
    assert estimate(stock_unet, images, **options) == expected
    assert len(calls) == 25 + 10  # two of the three batches of 10 calls were done
    hook.remove()
    assert estimate(stock_unet, images, **options) == expected


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": 1}, "another seed .0 instead of 1"),
        ({"timesteps_per_image": 9}, "another timesteps_per_image"),
        ({"scheduler": GaussianDiffusionScheduler(num_train_timesteps=STEPS, beta_end=0.3)}, "another noise schedule"),
        (
            {"scheduler": GaussianDiffusionScheduler(**SCHEDULE, prediction_type="v_prediction")},
            "another prediction_type .epsilon instead of v_prediction",
        ),
        ({"batch_size": 7}, "other images, labels or batches than these .batch 1"),
        ({"images": True}, "other images, labels or batches than these .batch 2"),
        ({"network": True}, "another network"),
    ],
)
def test_a_state_of_another_estimate_is_refused(stock_unet, images, tmp_path, change, message):
    options = {"batch_size": 10, "state_file": tmp_path / "state.npz"}
    estimate(stock_unet, images, **options)
    before = options["state_file"].read_bytes()
    if change.pop("images", False):
        images[12] += 1
    if change.pop("network", False):
        torch.nn.init.normal_(stock_unet.conv_in.weight)
    with pytest.raises(ValueError, match=message):
        estimate(stock_unet, images, **(options | change))
    assert options["state_file"].read_bytes() == before


@pytest.mark.slow
def test_two_processes_have_the_result_of_one(tmp_path, tiny_unet, images, measured_on_two_processes):
    pipeline = GaussianDiffusionPipeline(tiny_unet(), GaussianDiffusionScheduler(**SCHEDULE))
    code = f"""
from ddpm_hf.calibration import estimate_mean_square_epsilon
for _ in range(2):  # the second time from the state files
    result = estimate_mean_square_epsilon(
        unet, scheduler, images, batch_size=4, accelerator=accelerator, state_file="{tmp_path / "state.npz"}"
    )
"""
    alone = estimate(pipeline.unet, images)
    for shared in measured_on_two_processes(pipeline, images, code):
        assert shared["draws"] == alone.draws and shared["num_images"] == 16
        assert shared["values"] == pytest.approx(alone.values, rel=1e-5)
        assert shared["standard_errors"] == pytest.approx(alone.standard_errors, rel=1e-3)
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == ["state.0-of-2.npz", "state.1-of-2.npz"]


# What cannot be estimated --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x.float(), "reach from 0 to 255: give uint8"),
        (lambda x: x.repeat(1, 3, 1, 1), r"\(16, 3, 8, 8\) do not fit this network, which takes \(N, 1, 8, 8\)"),
        (lambda x: x[..., :4], r"\(16, 1, 8, 4\) do not fit this network"),
        (lambda x: x[:2], "2 images at 10 timesteps each leave timestep 0 with 2 draws, .* give about 6 images"),
        (lambda x: list(x[:2].split(1)), "leave timestep 0 with 2 draws"),
        (lambda x: x[:0], "0 images at 10 timesteps"),
        (lambda x: [], "no images"),
    ],
)
def test_images_that_do_not_fit(stock_unet, images, change, message):
    with pytest.raises(ValueError, match=message):
        estimate(stock_unet, change(images))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"timesteps_per_image": 0}, "timesteps_per_image=0 must be in 1 .. 10"),
        ({"timesteps_per_image": 11}, "timesteps_per_image=11 must be in 1 .. 10"),
        ({"class_labels": [1, 2]}, "2 class_labels for 16 images"),
        ({"scheduler": FlowMatchEulerDiscreteScheduler()}, "FlowMatchEulerDiscreteScheduler cannot be calibrated"),
    ],
)
def test_options_that_do_not_fit(stock_unet, images, options, message):
    with pytest.raises(ValueError, match=message):
        estimate(stock_unet, images, **options)


def test_a_chain_of_another_length(tiny_unet, images):
    with pytest.raises(ValueError, match="made for num_train_timesteps=500, the scheduler has 10"):
        estimate(tiny_unet(num_train_timesteps=500), images)


def test_predictions_that_are_not_finite(stock_unet, images):
    class Spoilt(torch.nn.Module):
        config, dtype, device = stock_unet.config, stock_unet.dtype, stock_unet.device

        def forward(self, sample, timestep, class_labels, return_dict):
            output = torch.zeros_like(sample)
            output[-1] = torch.where(timestep[-1] == 7, torch.nan, output[-1])
            return (output,)

    with pytest.raises(ValueError, match="for image 7 at timestep 7 is nan"):
        estimate(Spoilt(), images, batch_size=8)
