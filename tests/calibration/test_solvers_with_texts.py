"""Fitted solvers of networks that are told a text: their paths, the command, and the stock pipelines that run them."""

import copy
import json

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from text_models import CHAIN, TEMPLATE, TEXTS, save_of_pixels, save_stock, text_parts
from torch.testing import assert_close
from typer.testing import CliRunner

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.calibration import fit_solver
from ddpm_hf.calibration.solver_fit import FitOptions, SolverFit
from ddpm_hf.cli import app
from ddpm_hf.errors import InputError

SHORT = GaussianDiffusionScheduler(**CHAIN)


class ToldAlone(UNet2DConditionModel):
    """A network whose prediction of x_0 is the mean of the hidden states that it is told."""

    def forward(self, sample, timestep, encoder_hidden_states, return_dict=True):
        return (encoder_hidden_states.mean((1, 2)).reshape(-1, 1, 1, 1) + 0 * sample,)


@pytest.fixture
def told_alone():
    unet = text_parts(sample_size=4, in_channels=1, out_channels=1)["unet"]
    unet.__class__ = ToldAlone
    return unet


def states(values, width=128):
    return torch.tensor(values).reshape(-1, 1, 1).expand(-1, 3, width)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_each_path_is_told_its_own_text(told_alone, guidance_scale):
    """From any batches: texts in turn, and guidance is away from the empty one."""
    scheduler = GaussianDiffusionScheduler(**CHAIN, prediction_type="sample")
    texts = {"prompt_embeds": states([0.1, 0.2, 0.3]), "negative_prompt_embeds": states([0.05])}
    fit = SolverFit(told_alone, scheduler, [2], None, FitOptions(16, 0, guidance_scale, batch_size=7, **texts))
    fit.prepare()
    noise, ends = fit.unseen_paths(5, lambda calls: None)
    told = torch.tensor([(0.1, 0.2, 0.3)[(16 + 256 + i) % 3] for i in range(5)])
    wanted = (0.05 + guidance_scale * (told - 0.05)).reshape(-1, 1, 1, 1).expand_as(ends)
    assert_close(ends, wanted)
    pipeline = GaussianDiffusionPipeline(told_alone, fit.scheduler({"2": fit.solver(2)}))
    pipeline.set_progress_bar_config(disable=True)
    assert_close(fit.sampled(pipeline, noise, 2), ends, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({}, r"told a text: give prompt_embeds, hidden states \(N, L, 128\)"),
        ({"prompt_embeds": states([0.0])}, "told a text: give negative_prompt_embeds"),
        (
            {"prompt_embeds": states([0.0], 8), "negative_prompt_embeds": states([0.0])},
            r"\(1, 3, 8\) must be \(N, L, 1",
        ),
        ({"prompt_embeds": states([0.0]), "negative_prompt_embeds": states([0.0, 0.1])}, "led away from one: give"),
    ],
)
def test_states_that_do_not_fit_are_refused(told_alone, texts, message):
    with pytest.raises(InputError, match=message):
        fit_solver(told_alone, SHORT, [2], progress_bar=False, **texts)


def test_texts_are_for_networks_that_are_told_some(tiny_unet):
    with pytest.raises(InputError, match="prompt_embeds are for a network that is told a text, and this one is not"):
        fit_solver(tiny_unet(), SHORT, [2], progress_bar=False, prompt_embeds=states([0.0]))


# The command, and stock pipelines -------------------------------------------------------------------------------------


def calibrated(model, folder, *options):
    done = CliRunner().invoke(app, ["calibrate", model, "--output_dir", str(folder), *options])
    assert done.exit_code == 0, (done.output, done.exception)
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A stock pipeline with solvers for 2 and 3 calls at guidance, fitted with the texts of a file."""
    place = tmp_path_factory.mktemp("text")
    (place / "texts.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    options = ["--solver", "2,3", "--guidance_scale", "2", "--prompts", str(place / "texts.txt"), "--device", "cpu"]
    return calibrated(save_stock(place / "model"), place / "new", *options)


def drawn(pipeline, **options):
    pipeline.set_progress_bar_config(disable=True)
    told = {"prompt": TEXTS[1], "guidance_scale": 2.0, "output_type": "np"} | options
    return pipeline(**told, generator=torch.Generator().manual_seed(3)).images


def with_ours(kind, folder):
    pipeline = kind.from_pretrained(folder)
    pipeline.scheduler = GaussianDiffusionScheduler.from_config(pipeline.scheduler.config)
    assert pipeline.scheduler.config.eta == 0 and set(pipeline.scheduler.config.fitted_solvers["solvers"]) == {
        "2",
        "3",
    }
    return pipeline


def test_the_stock_pipeline_stays_and_its_scheduler_has_the_rows(fitted):
    stock = StableDiffusionPipeline.from_pretrained(fitted)
    assert type(stock.scheduler) is DDIMScheduler and stock.scheduler.config.timestep_spacing == "trailing"
    assert np.isfinite(drawn(stock, num_inference_steps=2)).all()
    told = json.loads((fitted / "solvers.json").read_text(encoding="utf-8"))
    assert told["options"]["prompts"].endswith("texts.txt") and told["options"]["guidance_scale"] == 2.0
    assert told["distances"]["fitted"]["3"] < told["distances"]["ddim@trailing"]["3"]
    assert json.loads((fitted / "captions.json").read_text(encoding="utf-8"))["caption_template"] == TEMPLATE


@pytest.mark.parametrize("steps", [2, 3])
def test_rows_in_the_stock_pipeline_are_those_of_ours(fitted, steps):
    stock, ours = with_ours(StableDiffusionPipeline, fitted), GaussianDiffusionPipeline.from_pretrained(fitted)
    images = drawn(stock, num_inference_steps=steps)
    np.testing.assert_allclose(images, drawn(ours, num_inference_steps=steps), atol=1e-5)
    assert (
        stock.scheduler.timesteps.tolist() == stock.scheduler.config.fitted_solvers["solvers"][str(steps)]["timesteps"]
    )
    with pytest.raises(ValueError, match=r"fitted at guidance_scale=2.0, and this run has guidance_scale=1.5"):
        drawn(ours, num_inference_steps=steps, guidance_scale=1.5)


EDITING = {
    StableDiffusionImg2ImgPipeline: {},
    StableDiffusionInpaintPipeline: {"mask_image": Image.new("L", (8, 8), 255), "height": 8, "width": 8},
}


@pytest.mark.parametrize("kind", EDITING)
@pytest.mark.parametrize("steps", [2, 3])
def test_stock_editing_begins_in_the_middle_by_rows_of_its_own(fitted, kind, steps):
    """At a strength of 0.7 all steps but the first are taken; their rows are not those of a whole run."""
    pipeline, found = with_ours(kind, fitted), []
    edited = EDITING[kind] | {"image": Image.new("L", (8, 8), 60), "num_inference_steps": steps, "strength": 0.7}
    edited |= {} if steps == 3 else {"strength": 0.5}
    config = pipeline.scheduler.config
    for rows_from in (True, False):
        solvers = copy.deepcopy(config.fitted_solvers)
        if not rows_from:
            solvers["solvers"][str(steps)].pop("rows_from")
        pipeline.scheduler = GaussianDiffusionScheduler.from_config(config, fitted_solvers=solvers)
        found.append(drawn(pipeline, **edited))
    assert found[0].shape == (1, 8, 8, 1) and all(np.isfinite(images).all() for images in found)
    assert not np.allclose(*found)


def test_a_model_of_pixels_is_fitted_with_its_images_and_captions(tmp_path, image_folder):
    model = save_of_pixels(tmp_path / "model")
    options = ["--solver", "2", "--num_images", "16", "--dataset", image_folder]
    ours = GaussianDiffusionPipeline.from_pretrained(calibrated(model, tmp_path / "new", *options))
    assert ours.scheduler.config.fitted_solvers["moments"] is not None
    assert drawn(ours, num_inference_steps=2, guidance_scale=1.0).shape == (1, 8, 8, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "is told a text, and what is measured here is of networks without: fit solvers to it with --solver"),
        (["--solver", "2", "--caption_template", "a {shade}"], "has the field {shade}, which is no column"),
        (["--solver", "2", "--prompts", "nowhere.txt"], "Cannot read the texts of --prompts nowhere.txt"),
        (["--prompts", "nowhere.txt"], "--guidance_scale, --features and --prompts are of fitted solvers"),
    ],
)
def test_what_does_not_go_is_refused_before_the_work(tmp_path, image_folder, options, message):
    model = save_of_pixels(tmp_path / "model")
    arguments = ["calibrate", model, "--output_dir", str(tmp_path / "new"), "--dataset", image_folder, *options]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1 and message in str(done.exception)


def test_captions_must_be_named(tmp_path, image_folder):
    model = save_of_pixels(tmp_path / "model")
    (tmp_path / "model" / "captions.json").unlink()
    arguments = ["calibrate", model, "--solver", "2", "--output_dir", str(tmp_path / "new"), "--dataset", image_folder]
    done = CliRunner().invoke(app, arguments)
    assert "name the captions of the data with --caption_column or --caption_template" in str(done.exception)
