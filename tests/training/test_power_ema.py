"""Averages whose length is chosen after training, against integrals and direct sums."""

import math
import resource
from collections import namedtuple

import numpy as np
import pytest
import torch

from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.errors import InputError
from ddpm_hf.files import aside_name
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.power_ema import (
    PowerEMA,
    gamma_of_std,
    list_snapshots,
    profile_products,
    reconstruct_average,
    reconstruction_weights,
    save_reconstructed,
    save_snapshots,
)
from ddpm_hf.training.run_folder import check_room
from ddpm_hf.training.train import train


def std_of_gamma(gamma):
    return math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3))


def long_average(trajectory, gamma, steps=None):
    """The integral for theta constant in each update: theta_i has the weight (i^(gamma + 1) - (i - 1)^(gamma + 1)) / t^..."""
    t = len(trajectory) if steps is None else steps
    edges = (np.arange(t + 1) / t) ** (gamma + 1)
    return np.diff(edges) @ trajectory[:t]


@pytest.fixture
def trajectory():
    """Three parameters over 400 updates: a decay, an oscillation, and a random walk; (400, 3), float64."""
    t = np.arange(1, 401)
    walk = np.random.default_rng(0).normal(size=400).cumsum() / 20
    return np.stack([5 + np.exp(-t / 50), np.sin(t / 40), walk], axis=1)


def test_gamma_is_the_inverse_of_the_relative_standard_deviation():
    for gamma in (0.01, 1.0, 6.94, 16.97, 900.0):
        assert gamma_of_std(std_of_gamma(gamma)) == pytest.approx(gamma, rel=1e-9)
    # The values of the paper.
    assert gamma_of_std(0.05) == pytest.approx(16.97, abs=0.005)
    assert gamma_of_std(0.10) == pytest.approx(6.94, abs=0.005)


@pytest.mark.parametrize("std", [0.02, 0.05, 0.1, 0.25])
def test_the_profile_has_that_standard_deviation(std):
    gamma = gamma_of_std(std)
    tau = (np.arange(200_000) + 0.5) / 200_000
    density = (gamma + 1) * tau**gamma
    mean = (density * tau).mean()
    assert math.sqrt((density * (tau - mean) ** 2).mean()) == pytest.approx(std, rel=1e-4)


def test_the_average_is_the_long_sum(trajectory):
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    ema = PowerEMA([parameter], [0.05, 0.1, 0.25])
    for t, value in enumerate(trajectory, 1):
        parameter.data.copy_(torch.from_numpy(value))
        ema.step([parameter])
        if t in (1, 2, 17, 400):
            for average in (ema, *ema.others):
                expected = long_average(trajectory, gamma_of_std(average.std), t)
                np.testing.assert_allclose(average.shadow_params[0].numpy(), expected, rtol=1e-12, atol=1e-13)


def test_profile_products_are_the_integrals():
    tau = (np.arange(400_000) + 0.5) / 400_000 * 100
    steps, gammas = np.array([20, 50, 100, 100]), np.array([7.0, 17.0, 7.0, 3.5])
    profiles = [np.where(tau <= t, (g + 1) * (tau / t) ** g / t, 0) for t, g in zip(steps, gammas, strict=True)]
    integrals = [[(p * q).mean() * 100 for q in profiles] for p in profiles]
    np.testing.assert_allclose(profile_products(steps, gammas, steps, gammas), integrals, rtol=1e-4)


@pytest.fixture
def snapshots(tmp_path, trajectory):
    """A folder with snapshots of two averages every 25 updates."""
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    ema = PowerEMA([parameter], [0.05, 0.10])
    for t, value in enumerate(trajectory, 1):
        parameter.data.copy_(torch.from_numpy(value))
        ema.step([parameter])
        if t % 25 == 0:
            save_snapshots(ema, ["theta"], tmp_path)
    return tmp_path


@pytest.mark.parametrize("step", [None, 200])
@pytest.mark.parametrize("std", [0.04, 0.07, 0.1, 0.15, 0.2])
def test_any_length_comes_out_as_exact_as_theory_says(snapshots, trajectory, std, step):
    weights, share_left = reconstruct_average(snapshots, std, step)
    t = step or 400
    gamma = gamma_of_std(std)
    error = np.abs(weights["theta"].numpy() - long_average(trajectory[:t], gamma))
    norm_of_profile = math.sqrt(profile_products([t], [gamma], [t], [gamma])[0, 0])
    # Cauchy and Schwarz; and the result is float32.
    moved = trajectory[:t] - trajectory[:t].mean(0)
    bound = share_left * norm_of_profile * np.sqrt((moved**2).sum(0)) + 1e-6 * np.abs(trajectory).max(0)
    assert (error <= bound).all()
    assert share_left < (1e-6 if std == 0.1 else 0.1)
    assert (error < 0.02).all()


def test_lengths_are_as_exact_as_they_were_given(tmp_path):
    """Though the names of the files have three digits."""
    save_snapshots(PowerEMA([torch.nn.Parameter(torch.ones(3))], [0.0014, 0.0754]), ["theta"], tmp_path)
    assert [std for _, std, _ in list_snapshots(tmp_path)] == [0.0014, 0.0754]


def test_a_snapshot_that_is_cut_short_is_none(tmp_path):
    """A full disk gives an error, and a kill leaves the file that was being written."""
    ema = PowerEMA([torch.nn.Parameter(torch.ones(10_000))], [0.05])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(InputError, match=r"Cannot write .*step-000000_std-0\.050\.safetensors .*make room"):
            save_snapshots(ema, ["theta"], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "ema_snapshots").iterdir()) == []
    save_snapshots(ema, ["theta"], tmp_path)
    (_, _, path), *_ = list_snapshots(tmp_path)
    path.rename(path.with_name(aside_name(path.name)))
    assert list_snapshots(tmp_path) == []


def test_what_was_kept_is_the_answer_itself():
    steps, stds = [100, 100, 200, 200], [0.05, 0.1, 0.05, 0.1]
    weights, share_left = reconstruction_weights(steps, stds, 200, 0.1)
    np.testing.assert_allclose(weights, [0, 0, 0, 1], atol=1e-9)
    assert share_left < 1e-6


def test_more_snapshots_leave_less(trajectory):
    left = [
        reconstruction_weights(np.repeat(np.arange(n, 401, n), 2), [0.05, 0.1] * (400 // n), 400, 0.07)[1]
        for n in (200, 100, 50, 25)
    ]
    assert left == sorted(left, reverse=True) and left[-1] < left[0] / 2


@pytest.fixture
def options(tmp_path, image_folder, tiny_pipeline):
    return {
        **{"dataset": image_folder, "init_from": tiny_pipeline, "output_dir": str(tmp_path / "run"), "ema": "power"},
        **{"max_train_steps": 5, "batch_size": 4, "num_samples": 1, "sample_steps": 2, "checkpoint_every": 2},
        **{"learning_rate": 1e-2, "ema_snapshot_every": 2},
    }


def test_a_run_in_two_parts_and_what_is_made_of_it_afterwards(options, tmp_path):
    straight = train(TrainingArguments(**options))
    parts = options | {"output_dir": str(tmp_path / "parts")}
    train(TrainingArguments(**parts | {"max_train_steps": 4}))
    folder = train(TrainingArguments(**parts))
    for std in ("0.050", "0.100"):
        name = f"ema_snapshots/step-000005_std-{std}.safetensors"
        assert (folder / name).read_bytes() == (straight / name).read_bytes()
    found = list_snapshots(folder)
    assert [(step, std) for step, std, _ in found] == [(s, std) for s in (2, 4, 5) for std in (0.05, 0.1)]
    with_first = GaussianDiffusionPipeline.from_pretrained(folder).unet.state_dict()
    weights, _ = reconstruct_average(folder, 0.05)
    assert with_first.keys() == weights.keys()
    assert all(torch.allclose(with_first[name], weights[name], atol=1e-6) for name in weights)
    share_left = save_reconstructed(folder, 0.2, tmp_path / "longer")
    assert 0 < share_left < 1
    longer = GaussianDiffusionPipeline.from_pretrained(tmp_path / "longer")
    assert longer(batch_size=1, num_inference_steps=2).images[0].size == (8, 8)
    assert not torch.allclose(longer.unet.conv_in.weight, with_first["conv_in.weight"], atol=1e-6)


def test_the_disk_is_to_have_room_for_all_averages(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: namedtuple("Usage", "free")(63e6))
    four_mb = torch.nn.Linear(1000, 1000, bias=False)
    given = {"output_dir": str(tmp_path), "max_train_steps": 1, "checkpoints_limit": 1}
    check_room(TrainingArguments(**given), four_mb)
    # In each of two checkpoints the weights, three averages and two means of Adam; the pipeline; and three snapshots.
    with pytest.raises(
        InputError, match=r"has 63 MB of free disk, and the run needs 64 MB \(2 checkpoint\(s\) of 24 MB"
    ):
        check_room(TrainingArguments(**given, ema="power", ema_stds="0.05,0.10,0.20"), four_mb)


def test_what_cannot_be_reconstructed_is_refused(snapshots, tmp_path):
    with pytest.raises(InputError, match=r"std=0.3 is not allowed: it must be between 0 and 0.289"):
        reconstruct_average(snapshots, 0.3)
    with pytest.raises(InputError, match=r"step=30 is not one of the steps of the snapshots in .*: 25, 50, 75"):
        reconstruct_average(snapshots, 0.1, 30)
    with pytest.raises(InputError, match="has no snapshots of averages in ema_snapshots"):
        reconstruct_average(snapshots / "elsewhere", 0.1)
    with pytest.raises(InputError, match="holds no pipeline: a run writes it at its end"):
        save_reconstructed(snapshots, 0.1, tmp_path / "new")
    with pytest.raises(InputError, match="is not empty"):
        save_reconstructed(snapshots, 0.1, snapshots / "ema_snapshots")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.05;0.1", "must be numbers with commas between"),
        ("0.05,0.5", "has 0.5: each must be from 0.001 to 0.28"),
        ("0.05,0.0501", "has two that agree to 0.001"),
    ],
)
def test_lengths_that_are_none_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        TrainingArguments(max_train_steps=1, ema="power", ema_stds=text)
