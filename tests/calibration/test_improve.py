"""`ddpm-hf improve`: what fits into the minutes, the picture before and after, going on after a cut, and what is refused."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from huggingface_hub import ModelCard
from PIL import Image as Picture
from typer.testing import CliRunner

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler, MLPDenoiser
from ddpm_hf.calibration import improve as module
from ddpm_hf.calibration.improve import SCOPES, ImproveOptions, Scope, improve, new_folder_of
from ddpm_hf.calibration.models import load_model
from ddpm_hf.calibration.progress_file import SCOPE_STATE
from ddpm_hf.calibration.solver_run import SolverOptions, calibrate_solvers
from ddpm_hf.cli import app
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.run import load_data

SAMPLERS = ["before: own sampler", "before: unipc", "after: fitted"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file, rng = tmp_path_factory.mktemp("data") / "data.parquet", np.random.default_rng(0)
    rows = {"image": list(rng.integers(0, 256, (40, 8, 8), dtype=np.uint8))}
    Dataset.from_dict(rows, features=Features({"image": Image()})).to_parquet(file)
    return DataArguments(dataset=str(file))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    unet = UNet2DModel(
        **{"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 4},
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    folder = tmp_path_factory.mktemp("model")
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=20, beta_end=0.6)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def improved(tmp_path_factory, model, data):
    """A folder of the command, and what it printed.

    The scope, which would follow from the clock, is that of an earlier run, and so are the solvers: it was cut off while
    it compared.
    """
    folder = tmp_path_factory.mktemp("improved") / "new"
    folder.mkdir()
    SCOPE_STATE.write(folder, {"steps": [2, 3], "num_images": 20})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "measure_samplers", _stop)
        with pytest.raises(KeyboardInterrupt):
            improve(ImproveOptions(model, data), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddpm_hf.calibration.solver_fit.SolverFit.solver", _stop)  # nothing is fitted again
        result = CliRunner().invoke(app, ["improve", model, "--output_dir", str(folder), "--dataset", data.dataset])
    assert result.exit_code == 0, result.output
    return folder, result.stdout


def _stop(*args, **kwargs):
    raise KeyboardInterrupt


def test_the_folder_has_fitted_solvers_and_shows_samples_before_and_after(improved):
    folder, printed = improved
    assert "Going on with what was begun" in printed and not list(folder.glob("calibration_state*"))
    report = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    places = [(row["sampler"], row["steps"]) for row in report["measurements"]]
    assert places == [(name, count) for name in SAMPLERS for count in (2, 3)]
    assert report["distance"] == "Frechet distance in the network's own middle block"
    assert report["settings"]["features"] == "the network's own middle block"
    assert report["settings"]["data"].endswith(", train, 20 images")  # the other 20 were fitted to
    # Two columns of 8 images of 88 pixels, and three rows.
    picture = Picture.open(folder / "compare_samples.png")
    assert picture.width > 2 * 8 * 88 and 3 * 88 < picture.height < 3 * 88 + 280
    for name in SAMPLERS:
        assert f"\n{name}" in printed
    assert printed.count("* ") == 2 and f"ddpm-hf sample {folder} --steps 2" in printed.replace("\n", " ")
    card = ModelCard.load(folder / "README.md").text
    assert "| before: unipc | 3 |" in card and "](compare_samples.png)" in card
    assert "solvers fitted to this network for 2, 3 network calls" in card


@pytest.mark.slow
def test_it_is_the_calibration_of_that_scope(improved, tmp_path, model, data):
    """Whether it was cut off or not."""
    calibrate_solvers(SolverOptions(model, [2, 3], data, 20), tmp_path / "calibrated")
    configs = [
        (f / "scheduler" / "scheduler_config.json").read_bytes() for f in (improved[0], tmp_path / "calibrated")
    ]
    assert configs[0] == configs[1]


def test_as_much_is_fitted_as_the_minutes_allow(model, data, monkeypatch):
    """In the order of the scopes: with a minute less than one takes, the next is taken."""
    monkeypatch.setattr(module, "seconds_of_path", lambda fit: 0.01)
    loaded = load_model(model, "cpu")
    possible = module._possible_scopes(loaded, ImproveOptions(model, data))
    assert possible == [Scope((3, 5, 10), 20), Scope((5, 10), 20), Scope((5,), 20)]  # of 20 timesteps and 40 images
    minutes = []
    for scope in possible:
        fit = module._fit(loaded, ImproveOptions(model, data), scope)
        minutes.append(0.01 * module._images_through_network(fit, scope) / 60)
        assert module._widest(loaded, ImproveOptions(model, data, 1.001 * minutes[-1])) == scope
    assert minutes == sorted(minutes, reverse=True)
    with pytest.raises(
        InputError, match=rf"the least of work, .* takes about .* give --minutes {math.ceil(minutes[-1])}"
    ):
        module._widest(loaded, ImproveOptions(model, data, 0.999 * minutes[-1]))


def test_scopes_narrow():
    for wide, narrow in pairwise(SCOPES):
        assert {*narrow.steps} <= {*wide.steps} and narrow.num_images <= wide.num_images and narrow != wide


def test_images_of_the_comparison_are_others_than_those_of_the_fit(model, data):
    config = load_model(model, "cpu").image_config
    fitted, others = load_data(data, config, 25, seed=3)[0], load_data(data, config, 15, seed=3, after=25)[0]
    images = {image.numpy().tobytes() for image in torch.cat([fitted, others])}
    assert len(images) == 40 and len(fitted) == 25
    with pytest.raises(InputError, match="41 samples are more than the 40"):
        load_data(data, config, 16, seed=3, after=25)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"minutes": 0}, "minutes=0 must be more than 0"),
        ({"minutes": math.nan}, "minutes=nan must be more than 0"),
        ({"minutes": 1e-9}, "give --minutes "),
        ({"seed": 2**62}, r"seeds=\[4611686018427387904\] must be in 0 .. "),
        ({"features": "nowhere"}, "features='nowhere' holds no config.json"),
    ],
)
def test_what_is_refused_before_the_work(tmp_path, model, data, change, message):
    with pytest.raises(InputError, match=message):
        improve(ImproveOptions(model, data)._replace(**change), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_where_the_new_folder_is(tmp_path, monkeypatch, model, data):
    assert new_folder_of("runs/mine/") == new_folder_of("me/mine") == Path("outputs/mine_improved")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full" / "mine").mkdir(parents=True)
    with pytest.raises(InputError, match="^full is not empty"):
        improve(ImproveOptions(model, data), "full")


def test_data_that_are_too_few(tmp_path, data, model):
    few = Dataset.from_parquet(data.dataset).select(range(31))
    few.to_parquet(tmp_path / "few.parquet")
    with pytest.raises(InputError, match="31 images are too few to fit solvers to: give at least 32"):
        improve(ImproveOptions(model, DataArguments(dataset=str(tmp_path / "few.parquet"))), tmp_path / "new")


def test_models_that_it_does_not_improve(tmp_path, data, stock_unet):
    DDPMPipeline(stock_unet, DDPMScheduler(num_train_timesteps=4, beta_end=0.9)).save_pretrained(tmp_path / "short")
    with pytest.raises(InputError, match="short has 4 training timesteps, .* a solver for 5 network calls"):
        improve(ImproveOptions(str(tmp_path / "short"), data), tmp_path / "new")
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=20, clip_sample=False)
    GaussianDiffusionPipeline(MLPDenoiser(width=8), scheduler).save_pretrained(tmp_path / "points")
    with pytest.raises(InputError, match="points makes points, .*: use `ddpm-hf calibrate --solver 5,10`"):
        improve(ImproveOptions(str(tmp_path / "points"), data), tmp_path / "new")
    exact = ExactDenoiser.from_gaussian_mixture(torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8), scheduler)
    GaussianDiffusionPipeline(exact, scheduler).save_pretrained(tmp_path / "exact")
    with pytest.raises(InputError, match="exact has no middle block, .*: give --features"):
        improve(ImproveOptions(str(tmp_path / "exact"), data), tmp_path / "new")
