"""`calibrate --solver` of a model folder: what is written and how it samples, going on after a cut, and what is refused."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from huggingface_hub import ModelCard
from torch.testing import assert_close
from typer.testing import CliRunner

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, ScoreSDEScheduler
from ddpm_hf.calibration.progress_file import SOLVER_STATE
from ddpm_hf.calibration.solver_run import SolverOptions, calibrate_solvers
from ddpm_hf.cli import app
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.errors import InputError
from ddpm_hf.hub.model_folder import load_pipeline


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file, rng = tmp_path_factory.mktemp("data") / "data.parquet", np.random.default_rng(0)
    rows = {"image": list(rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)), "label": [i % 3 for i in range(40)]}
    Dataset.from_dict(rows, features=Features({"image": Image(), "label": Value("int64")})).to_parquet(file)
    return DataArguments(dataset=str(file))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    unet = UNet2DModel(
        **{
            "sample_size": 8,
            "in_channels": 1,
            "out_channels": 1,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
        },
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    folder = tmp_path_factory.mktemp("model")
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=20, beta_end=0.6)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, model, data):
    folder = tmp_path_factory.mktemp("calibrated") / "new"
    return folder, calibrate_solvers(SolverOptions(str(model), [2, 3], data, 40), folder)


def samples(pipeline, **options):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(2, generator=torch.Generator().manual_seed(0), output_type="np", **options).images


def test_a_new_folder_has_solvers_that_are_used_without_another_word(calibrated):
    output, pipeline = calibrated
    solvers = pipeline.scheduler.config.fitted_solvers
    assert [*solvers["solvers"]] == ["2", "3"]
    assert solvers["moments"]["shape"] == [1, 8, 8]

    report = json.loads((output / "solvers.json").read_text(encoding="utf-8"))
    assert report["options"]["solver"] == "2,3"
    assert report["distances"]["fitted"].keys() == {"2", "3"}
    assert report["solvers"]["3"]["timesteps"] == solvers["solvers"]["3"]["timesteps"]
    assert (output / "solvers.png").stat().st_size > 10_000
    card = ModelCard.load(output / "README.md").text
    assert "solvers fitted to this network for 2, 3 network calls" in card
    assert "--solver 2,3" in card
    assert not (output / SOLVER_STATE).exists()

    ours = GaussianDiffusionPipeline.from_pretrained(output)
    own_code = DiffusionPipeline.from_pretrained(output, custom_pipeline=str(output), trust_remote_code=True)
    for steps in (2, 3):
        expected = samples(pipeline, num_inference_steps=steps)
        for loaded in (ours, own_code):
            assert_close(samples(loaded, num_inference_steps=steps), expected, rtol=0, atol=0)


def test_a_vp_process_gets_solvers_of_its_chain(tmp_path, model, data):
    unet = DDPMPipeline.from_pretrained(model).unet
    process = ScoreSDEScheduler(sde="vp", num_train_timesteps=30)
    GaussianDiffusionPipeline(unet, process).save_pretrained(tmp_path / "model")
    calibrate_solvers(SolverOptions(str(tmp_path / "model"), [2], data, 40), tmp_path / "new")
    pipeline = load_pipeline(tmp_path / "new")
    assert isinstance(pipeline.scheduler, GaussianDiffusionScheduler)
    assert pipeline.scheduler.config.fitted_solvers["solvers"].keys() == {"2"}
    assert np.isfinite(samples(pipeline, num_inference_steps=2)).all()


def test_a_fit_that_was_cut_off_goes_on_to_the_same_folder(tmp_path, calibrated, model, data, monkeypatch, capsys):
    cut, options = tmp_path / "cut", SolverOptions(str(model), [2, 3], data, 40)
    monkeypatch.setattr("ddpm_hf.calibration.solver_run.distances_to_paths", _stop)
    with pytest.raises(KeyboardInterrupt):
        calibrate_solvers(options, cut)
    state = json.loads((cut / SOLVER_STATE).read_text(encoding="utf-8"))
    assert [*state["solvers"]] == ["2", "3"]
    with pytest.raises(InputError, match="was begun with another seed .0 instead of 1"):
        calibrate_solvers(options._replace(seed=1), cut)
    with pytest.raises(InputError, match="was begun with another solver .2,3 instead of 3,4"):
        calibrate_solvers(options._replace(steps=[3, 4]), cut)
    whole_state = (cut / SOLVER_STATE).read_text(encoding="utf-8")
    (cut / SOLVER_STATE).write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="was begun with another solver .None instead of"):
        calibrate_solvers(options, cut)
    (cut / SOLVER_STATE).write_text(whole_state, encoding="utf-8")
    monkeypatch.undo()
    monkeypatch.setattr("ddpm_hf.calibration.solver_fit.SolverFit.solver", _stop)  # nothing is fitted again
    calibrate_solvers(options, cut)
    configs = [(f / "scheduler" / "scheduler_config.json").read_bytes() for f in (calibrated[0], cut)]
    assert configs[0] == configs[1]
    printed = capsys.readouterr().out
    assert "network calls for 40 paths, in float32: about 0:0" in printed  # no more than images
    assert "dpmpp-2m-karras" in printed


def _stop(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "options, message",
    [
        ("--solver 0", "steps=[0] must be one or more numbers of network calls in 1 .. "),
        ("--solver 2 --plan 2", "Give --plan or --solver"),
        ("--guidance_scale 2", "are of fitted solvers: give --solver"),
        ("--solver 2 --guidance_scale 2", "need a class-conditional model"),
        ("--solver 2 --num_images 4", "4 images are too few to fit a solver with"),
        ("--solver 2 --features nowhere", "features='nowhere' holds no config.json"),
        ("--solver two", "solver"),
    ],
)
def test_bad_options_are_refused_before_the_work(tmp_path, model, data, options, message):
    arguments = [
        "calibrate",
        str(model),
        "--output_dir",
        str(tmp_path / "new"),
        "--dataset",
        data.dataset,
        "--num_images",
        "40",
    ]
    result = CliRunner().invoke(app, [*arguments, *options.split()])
    assert result.exit_code != 0
    assert message in (result.output + str(result.exception)).replace("\n", " ")
    assert not (tmp_path / "new").exists()
