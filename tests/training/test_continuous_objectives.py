"""Training in continuous time: losses against the published code, their distribution of times, and whole runs."""

import pytest
import torch
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionPipeline, ScoreSDEScheduler
from ddpm_hf.errors import InputError
from ddpm_hf.schedulers.scheduling_edm import EDMScheduler
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.continuous_objectives import (
    make_continuous_objective,
    score_matching_losses,
    shares_of,
    times_of,
)
from ddpm_hf.training.train import train

SDES = {"vp": "vp", "subvp": "sub_vp", "ve": "ve"}
CLOSE = {"rtol": 1e-6, "atol": 1e-9}


def scheduler_of(reference, name):
    arrays = reference("score_sde")
    keys = [key for key in ("beta_min", "beta_max", "sigma_min", "sigma_max") if f"{name}/{key}" in arrays.keys]
    options = {key: arrays[f"{name}/{key}"].item() for key in keys}
    return arrays, ScoreSDEScheduler(sde=SDES[name], prediction_type="score", **options)


@pytest.mark.parametrize("weighting", [0, 1])
@pytest.mark.parametrize("name", SDES)
def test_score_matching_is_the_published_loss(reference, name, weighting):
    arrays, scheduler = scheduler_of(reference, name)
    key = f"{name}/loss"
    t, noise, score = (arrays[f"{key}/{part}"] for part in ("t", "noise", "score"))
    assert_close(scheduler.add_noise(arrays[f"{key}/x0"], noise, t), arrays[f"{key}/x_t"], **CLOSE)
    losses = score_matching_losses(scheduler, score, noise, t, bool(weighting))
    assert_close(losses, arrays[f"{key}/likelihood_weighting{weighting}/reduce_mean1"], **CLOSE)


def test_the_discrete_levels_of_ncsn(reference):
    """Label 0 is the largest noise, where ours is the last timestep."""
    arrays, scheduler = scheduler_of(reference, "ve")
    key = "ve/loss_discrete"
    timesteps = 999 - arrays[f"{key}/labels"]
    t = times_of(timesteps, 1000, 1e-5, discrete_levels=True)
    noise, output = arrays[f"{key}/noise"], arrays[f"{key}/model_output"]
    x_t = scheduler.add_noise(arrays[f"{key}/x0"], noise, t)
    assert_close(x_t, arrays[f"{key}/x_t"], rtol=1e-4, atol=1e-6)  # the lowest level is at 1e-5, not at 0
    losses = score_matching_losses(scheduler, output, noise, t)
    assert_close(losses, arrays[f"{key}/reduce_mean1"], rtol=1e-3, atol=0)


def test_times_are_uniform_and_each_timestep_has_its_share():
    torch.manual_seed(0)
    i = torch.arange(100).repeat(200)
    t = times_of(i, 100, 1e-5)
    assert 1e-5 <= t.min() < 1e-3
    assert 0.999 < t.max() <= 1
    assert_close((t * 100).floor().clamp(max=99), i.double(), rtol=0, atol=1)
    assert_close(t.mean().item(), 0.5, rtol=0, atol=1e-3)
    shares = shares_of(i, 100)
    assert_close(shares.sort().values, (torch.arange(20000) + 0.5).double() / 20000, rtol=0, atol=2e-3)


def test_edm_s_weight_makes_the_loss_of_a_network_that_knows_nothing_one():
    """F = 0 predicts c_skip x; with Var[x0] = sigma_data^2 its weighted error is 1 at every noise level."""
    scheduler = EDMScheduler()
    objective = make_continuous_objective(scheduler)
    torch.manual_seed(0)
    images = 0.5 * torch.randn(4000, 1, 4, 4)

    def nothing(x, t, labels, return_dict):
        return (torch.zeros_like(x),)

    losses = objective(nothing, images, torch.randint(1000, (4000,)))
    assert_close(losses.mean().item(), 1.0, rtol=0.03, atol=0)


# Runs ----------------------------------------------------------------------------------------------------------------


def arguments(tmp_path, **options):
    given = {"max_train_steps": 3, "batch_size": 8, "sample_every": 0, "checkpoint_every": 0, "sample_steps": 25}
    given |= {"num_samples": 4, "output_dir": str(tmp_path / "model"), "log_every": 1}
    return TrainingArguments(**given | options)


@pytest.mark.parametrize("process", ["vp", "sub_vp", "ve", "edm"])
def test_points_are_trained_in_continuous_time_and_sampled(tmp_path, process):
    folder = train(arguments(tmp_path, process=process, dataset="swiss_roll", unet="mlp", num_points=64))
    pipeline = GaussianDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    scheduler = pipeline.scheduler
    if process == "edm":
        assert isinstance(scheduler, EDMScheduler)
        assert scheduler.config.sigma_data == 1.0
    else:
        assert scheduler.config.sde == process
        assert not scheduler.reads_sigma
    points = pipeline(5, num_inference_steps=25).images
    assert points.shape == (5, 2)


@pytest.mark.parametrize("process", ["vp", "ve", "edm"])
def test_images_are_trained_in_continuous_time(tmp_path, tiny_network, image_folder, process):
    options = {"dataset": image_folder, "unet": tiny_network(), "num_samples": 1}
    folder = train(arguments(tmp_path, process=process, **options))
    pipeline = GaussianDiffusionPipeline.from_pretrained(folder)
    if process == "ve":
        # As in a ScoreSdeVe repository.
        assert pipeline.unet.config.time_embedding_type == "fourier"
        assert pipeline.scheduler.reads_sigma
        assert not pipeline.scheduler.config.centered
    assert (folder / "samples").is_dir()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"process": "vp", "objective": "vlb"}, "denoising score matching alone"),
        ({"process": "ve", "variance_head": "learned_range"}, "denoising score matching alone"),
        ({"process": "sub_vp", "beta_end": 0.03}, "has no chain of betas"),
        ({"process": "vp", "eval_every": 10, "eval_split": "test"}, "evaluate --metrics nll"),
        ({"process": "edm", "likelihood_weighting": True}, "are of vp, sub_vp and ve"),
        ({"process": "vp", "sigma_max": 10.0}, "sigma_max=10.0 is of ve and edm"),
        ({"process": "ve", "sigma_data": 1.0}, "sigma_data=1.0 is of edm"),
        ({"process": "langevin"}, "process='langevin'"),
    ],
)
def test_options_that_do_not_go_with_the_process(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        arguments(tmp_path, unet="fashion_mnist", **options)


def test_a_process_that_cannot_be_sampled_is_refused_before_the_training(tmp_path):
    with pytest.raises(InputError, match="steps are too few for beta_max=20"):
        train(arguments(tmp_path, process="vp", unet="fashion_mnist", sample_steps=10))
