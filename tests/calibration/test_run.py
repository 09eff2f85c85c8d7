"""A model folder and data in, a new model folder out."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, DiffusionPipeline

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.calibration.run import STATE_FILE, calibrate
from ddpm_hf.evaluation.run import load_data
from ddpm_hf.training.arguments import DataArguments
from ddpm_hf.training.errors import InputError

SCHEDULE = {"num_train_timesteps": 10, "beta_end": 0.8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Thirty grey images of 8x8 with labels, as a parquet file."""
    rng = np.random.default_rng(0)
    rows = {"image": list(rng.integers(0, 256, (30, 8, 8), dtype=np.uint8)), "label": [i % 3 for i in range(30)]}
    features = Features({"image": Image(), "label": Value("int64")})
    path = tmp_path_factory.mktemp("data") / "images.parquet"
    Dataset.from_dict(rows, features=features).to_parquet(path)
    return DataArguments(dataset=str(path), label_column="label")


@pytest.fixture
def stock_model(stock_unet, tmp_path):
    DDPMPipeline(stock_unet, DDPMScheduler(**SCHEDULE)).save_pretrained(tmp_path / "stock")
    return tmp_path / "stock"


def run(model, output, data, **options):
    return calibrate(model, output, data, num_images=12, batch_size=8, device="cpu", **options)


def test_a_stock_model(stock_model, data, tmp_path, capsys):
    run(stock_model, tmp_path / "new", data)
    printed = capsys.readouterr().out
    assert "12 images: about 0:00:" in printed and "12 to 12 draws" in printed and "analytic" in printed
    assert not (tmp_path / "new" / STATE_FILE).exists()

    pipeline = GaussianDiffusionPipeline.from_pretrained(tmp_path / "new")
    config = pipeline.scheduler.config
    assert config.variance_type == "analytic" and config.eta == 1 and config.clip_variance_pixels == 2
    report = json.loads((tmp_path / "new" / "calibration.json").read_text())["mean_square_epsilon"]
    assert config.mean_square_epsilon == report["values"] and len(report["standard_errors"]) == 10
    assert (tmp_path / "new" / "calibration.png").read_bytes().startswith(b"\x89PNG")

    before, after = (DDPMPipeline.from_pretrained(folder) for folder in (stock_model, tmp_path / "new"))
    weights = after.unet.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in before.unet.state_dict().items())
    assert type(after) is DDPMPipeline and type(after.scheduler) is DDPMScheduler
    assert pipeline(num_inference_steps=4, output_type="np").images.shape == (1, 8, 8, 1)


def test_ddim_becomes_analytic_ddim(stock_unet, data, tmp_path):
    DiffusionPipeline.save_pretrained(
        GaussianDiffusionPipeline(stock_unet, DDIMScheduler(**SCHEDULE)), tmp_path / "ddim"
    )
    config = run(tmp_path / "ddim", tmp_path / "new", data).scheduler.config
    assert (config.eta, config.variance_type, config.clip_variance_pixels) == (0, "analytic", 1)


def test_a_model_with_classes_and_a_head(tiny_unet, data, tmp_path):
    unet = tiny_unet(num_classes=3, variance_head="learned_range")
    scheduler = GaussianDiffusionScheduler(**SCHEDULE, variance_type="learned_range")
    GaussianDiffusionPipeline(unet, scheduler).save_pretrained(tmp_path / "model")
    run(tmp_path / "model", tmp_path / "new", data, plans=[3])
    pipeline = GaussianDiffusionPipeline.from_pretrained(tmp_path / "new")
    config = pipeline.scheduler.config
    assert config.variance_type == "learned_range" and len(config.mean_square_epsilon) == 10
    assert list(config.timestep_plans) == ["3"]
    assert pipeline(class_labels=2, num_inference_steps=3, output_type="np").images.shape == (1, 8, 8, 1)


@pytest.mark.parametrize("plan_cost, kernel", [("bound", (1, "analytic", 1)), ("local_error", (0, "fixed_small", 2))])
def test_plans(stock_model, data, tmp_path, plan_cost, kernel):
    run(stock_model, tmp_path / "new", data, plans=[5, 2], plan_cost=plan_cost)
    scheduler = GaussianDiffusionPipeline.from_pretrained(tmp_path / "new").scheduler
    config = scheduler.config
    assert (config.eta, config.variance_type, config.solver_order) == kernel
    report = json.loads((tmp_path / "new" / "calibration.json").read_text())
    assert report["plan_cost"] == plan_cost and list(report["plans"]) == ["2", "5"]
    for count in (2, 5):
        scheduler.set_timesteps(count)
        timesteps = scheduler.timesteps.tolist()
        assert timesteps == config.timestep_plans[str(count)] == report["plans"][str(count)]["timesteps"]
        assert len(timesteps) == count and timesteps[0] == 9


def test_what_was_cut_off_goes_on(stock_model, data, tmp_path, monkeypatch):
    """With the state of a run that did not come to its end, the estimate is not made again."""
    output = tmp_path / "new"
    expected = run(stock_model, output, data).scheduler.config.mean_square_epsilon
    from ddpm_hf.calibration import estimate_mean_square_epsilon

    half = tmp_path / "half"
    pipeline = GaussianDiffusionPipeline.from_pretrained(stock_model)
    images, _ = load_data(data, pipeline.unet.config, 12, 0)
    estimate_mean_square_epsilon(
        pipeline.unet, pipeline.scheduler, images, batch_size=8, state_file=half / STATE_FILE, progress_bar=False
    )
    (half / f"{STATE_FILE}.tmp").write_bytes(b"half a file")
    assert run(stock_model, half, data).scheduler.config.mean_square_epsilon == expected
    assert not list(half.glob(STATE_FILE + "*"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"plan_cost": "fid"}, "plan_cost='fid' is not one of 'bound', 'local_error'"),
        ({"plans": [5, 0]}, "A plan of 0 steps cannot be made: it must have 1 .. 10"),
        ({"plans": [5, 11]}, "A plan of 11 steps"),
        ({"num_images": 31}, "num_images=31 is more than the 30"),
    ],
)
def test_options_that_do_not_fit(stock_model, data, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        calibrate(stock_model, tmp_path / "new", data, device="cpu", **({"num_images": 12} | options))
    assert not (tmp_path / "new").exists()


def test_ddim_has_no_bound_to_plan_by(stock_unet, data, tmp_path):
    GaussianDiffusionPipeline(stock_unet, GaussianDiffusionScheduler(**SCHEDULE, eta=0.0)).save_pretrained(
        tmp_path / "ddim"
    )
    with pytest.raises(InputError, match="the bound is infinite: plan by plan_cost='local_error'"):
        run(tmp_path / "ddim", tmp_path / "new", data, plans=[3])


def test_nothing_is_overwritten(stock_model, data, tmp_path):
    with pytest.raises(InputError, match=r"is not empty \(model_index.json, scheduler, unet\)"):
        run(stock_model, stock_model, data)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        run(stock_model, tmp_path / "file", data)
