"""The diffusion processes of converted checkpoints."""

import json

import numpy as np
import pytest
import torch

from ddpm_hf.converters import convert_checkpoint
from ddpm_hf.converters.options import read_options


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


def test_processes_without_a_pipeline_are_written_down(foreign, tmp_path):
    model = foreign("ncsnpp_residual")
    convert_checkpoint(model.checkpoint, model.options, tmp_path / "new")
    process = json.loads((tmp_path / "new" / "process.json").read_text(encoding="utf-8"))
    assert process["continuous"] is True and process["sigma_max"] == 50
