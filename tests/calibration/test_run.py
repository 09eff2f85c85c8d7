"""Calibration of a model folder with data, which writes a new model folder."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    LDMPipeline,
    UNet2DModel,
    VQModel,
)
from diffusers.configuration_utils import FrozenDict
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.calibration import estimate_mean_square_epsilon
from ddpm_hf.calibration.run import STATE_FILE, calibrate
from ddpm_hf.cli import app
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.run import load_data

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
    assert "12 images, in float32: about 0:00:" in printed and "12 to 12 draws" in printed and "'dct'" in printed
    assert not (tmp_path / "new" / STATE_FILE).exists()

    pipeline = GaussianDiffusionPipeline.from_pretrained(tmp_path / "new")
    config = pipeline.scheduler.config
    assert config.variance_type == "dct" and config.eta == 1 and config.clip_variance_pixels == 2
    assert config.covariance_spectrum["shape"] == [1, 8, 8]
    report = json.loads((tmp_path / "new" / "calibration.json").read_text(encoding="utf-8"))["mean_square_epsilon"]
    assert config.mean_square_epsilon == [max(0.0, 1 - residual) for residual in report["residuals"]]
    assert len(report["values"]) == len(report["standard_errors"]) == len(report["residual_errors"]) == 10
    assert (tmp_path / "new" / "calibration.png").read_bytes().startswith(b"\x89PNG")

    before, after = (DDPMPipeline.from_pretrained(folder) for folder in (stock_model, tmp_path / "new"))
    weights = after.unet.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in before.unet.state_dict().items())
    assert type(after) is DDPMPipeline and type(after.scheduler) is DDPMScheduler
    assert pipeline(num_inference_steps=4, output_type="np").images.shape == (1, 8, 8, 1)


def test_ddim_becomes_dct_ddim(stock_unet, data, tmp_path):
    DiffusionPipeline.save_pretrained(
        GaussianDiffusionPipeline(stock_unet, DDIMScheduler(**SCHEDULE)), tmp_path / "ddim"
    )
    config = run(tmp_path / "ddim", tmp_path / "new", data).scheduler.config
    assert (config.eta, config.variance_type, config.clip_variance_pixels) == (0, "dct", 1)


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


@pytest.mark.parametrize(
    "plan_cost, kernel",
    [
        ("bound", (1, "dct", 1, False)),
        ("local_error", (0, "fixed_small", 2, True)),
        ("global_error", (0, "fixed_small", 2, True)),
    ],
)
def test_plans(stock_model, data, tmp_path, plan_cost, kernel):
    run(stock_model, tmp_path / "new", data, plans=[5, 2], plan_cost=plan_cost)
    scheduler = GaussianDiffusionPipeline.from_pretrained(tmp_path / "new").scheduler
    config = scheduler.config
    assert (config.eta, config.variance_type, config.solver_order, config.corrector) == kernel
    report = json.loads((tmp_path / "new" / "calibration.json").read_text(encoding="utf-8"))
    assert report["plan_cost"] == plan_cost and list(report["plans"]) == ["2", "5"]
    for count in (2, 5):
        scheduler.set_timesteps(count)
        timesteps = scheduler.timesteps.tolist()
        assert timesteps == config.timestep_plans[str(count)] == report["plans"][str(count)]["timesteps"]
        assert len(timesteps) == count and timesteps[0] == 9


def test_what_was_cut_off_goes_on(stock_model, data, tmp_path, monkeypatch):
    """The estimate continues from the state of an interrupted run."""
    output = tmp_path / "new"
    expected = run(stock_model, output, data).scheduler.config.mean_square_epsilon
    half = tmp_path / "half"
    pipeline = GaussianDiffusionPipeline.from_pretrained(stock_model)
    images, _ = load_data(data, pipeline.unet.config, 12, 0)
    estimate_mean_square_epsilon(
        pipeline.unet, pipeline.scheduler, images, batch_size=8, state_file=half / STATE_FILE, progress_bar=False
    )
    (half / f"{STATE_FILE}.tmp").write_bytes(b"half a file")
    assert run(stock_model, half, data).scheduler.config.mean_square_epsilon == expected
    assert not list(half.glob(STATE_FILE + "*"))


@pytest.fixture
def latent_model(tmp_path):
    """Images of 8x8 in one channel, latents of 4x4 in two."""
    blocks = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    torch.manual_seed(0)
    vqvae = VQModel(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=2,
        num_vq_embeddings=16,
        **blocks,
    )
    unet = UNet2DModel(
        sample_size=4,
        in_channels=2,
        out_channels=2,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        **blocks,
    )
    scheduler = DDIMScheduler(**SCHEDULE, clip_sample=False)
    LDMPipeline(vqvae=vqvae, unet=unet, scheduler=scheduler).save_pretrained(tmp_path / "latents")
    return tmp_path / "latents"


def test_a_model_of_latents(latent_model, data, tmp_path):
    made = run(latent_model, tmp_path / "new", data, plans=[3], plan_cost="local_error")
    images, _ = load_data(data, FrozenDict(sample_size=8, in_channels=1), 12, 0)
    encoded = made.vqvae.encode(images / 127.5 - 1).latents * made.vqvae.config.scaling_factor
    expected = estimate_mean_square_epsilon(
        made.unet, made.scheduler, encoded.detach(), encode=lambda x: x, batch_size=8, progress_bar=False
    )

    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "new")
    assert type(pipeline) is LDMPipeline and type(pipeline.scheduler) is DDIMScheduler
    pipeline.scheduler = GaussianDiffusionScheduler.from_config(pipeline.scheduler.config)
    assert list(pipeline.scheduler.config.timestep_plans) == ["3"]
    np.testing.assert_allclose(
        pipeline.scheduler.config.mean_square_epsilon, expected.for_optimal_variance(), rtol=1e-4, atol=1e-6
    )
    assert pipeline(num_inference_steps=3, output_type="np").images.shape == (1, 8, 8, 1)
    with pytest.raises(InputError, match="The bound is one of pixels, and this model makes latents"):
        run(latent_model, tmp_path / "again", data, plans=[3])


def test_a_model_that_is_told_more_than_a_text_is_refused(tmp_path, data):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionXLPipeline", "vae": ["diffusers", "AutoencoderKL"], '
        '"unet": ["diffusers", "UNet2DConditionModel"]}',
        encoding="utf-8",
    )
    with pytest.raises(
        InputError, match="has the network UNet2DConditionModel; only a UNet2DModel, .* can be calibrated"
    ):
        run(tmp_path / "text", tmp_path / "new", data)


def test_the_card(stock_model, data, tmp_path):
    run(stock_model, tmp_path / "new", data, plans=[5, 2])
    card = ModelCard.load(tmp_path / "new" / "README.md")
    assert card.data.library_name == "diffusers" and card.data.base_model is None  # a folder of this machine
    assert "12 images of images.parquet" in card.text and "planned timesteps for 2, 5 steps" in card.text


def test_the_new_folder_is_pushed_in_one_commit(stock_model, data, tmp_path, hub, monkeypatch):
    flags = ["--num_images", "12", "--batch_size", "8", "--device", "cpu", "--dataset", data.dataset]
    flags += ["--label_column", "label", "--push_to_hub", "someone/calibrated"]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["calibrate", str(stock_model), *flags])
    assert done.exit_code == 0, done.output
    (commit,) = hub.repositories["someone/calibrated"].pushed
    files = {str(path.relative_to(tmp_path / "outputs" / "calibrated")) for path in _files(tmp_path / "outputs")}
    assert commit.files.keys() == files >= {"README.md", "calibration.json", "scheduler/scheduler_config.json"}


def _files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_somewhere_it_must_go(stock_model, data):
    with pytest.raises(InputError, match="Give --output_dir FOLDER, or --push_to_hub REPOSITORY"):
        run(stock_model, None, data)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"plan_cost": "fid"}, "plan_cost='fid' is not one of 'bound', 'local_error', 'global_error'"),
        ({"plans": [5, 0]}, "A plan of 0 steps cannot be made: it must have 1 .. 10"),
        ({"plans": [5, 11]}, "A plan of 11 steps"),
        ({"num_images": 31}, "31 samples are more than the 30"),
        ({"precision": "bf16"}, "precision='bf16' is for drawing samples: .* computed in float32"),
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
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="is a file"):
        run(stock_model, tmp_path / "file", data)
