"""Fitted solvers of networks that are told images: the same conditions in the fit, in comparisons and in sampling."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from typer.testing import CliRunner

from ddpm_hf import (
    DDPMUNet2DModel,
    GaussianDiffusionCascadePipeline,
    GaussianDiffusionPipeline,
    GaussianDiffusionScheduler,
    GaussianDiffusionUpscalePipeline,
)
from ddpm_hf.calibration import fit_solver
from ddpm_hf.calibration.improve import ImproveOptions, improve
from ddpm_hf.calibration.progress_file import SCOPE_STATE
from ddpm_hf.calibration.solver_fit import FitOptions, SolverFit
from ddpm_hf.calibration.told_paths import PathConditions, Told, told_beside
from ddpm_hf.cli import app
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.errors import InputError

SHORT = GaussianDiffusionScheduler(num_train_timesteps=20, beta_end=0.6)
UPSCALER = {"in_channels": 2, "condition_channels": 1, "low_resolution": 4}
PAIRS = {"in_channels": 3, "condition_channels": 2}
NUMBER = 40


@pytest.fixture
def images():
    return torch.randint(256, (NUMBER, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class ToldAlone(DDPMUNet2DModel):
    """A network whose prediction of x_0 is what it is told, (B, 1, 8, 8), plus a hundredth of the mean of x_t."""

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        x_t, told = sample[:, :1], sample[:, 1:2]
        return (told + 0.01 * x_t.mean((1, 2, 3), keepdim=True),)


@pytest.fixture
def told_alone(tiny_unet):
    unet = tiny_unet(**PAIRS)
    unet.__class__ = ToldAlone
    return unet


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_each_path_is_told_its_own_image(told_alone, images, guidance_scale):
    """From any batches: the ends of the paths are the images that were told, in turn; guidance is away from grey."""
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=20, beta_end=0.6, prediction_type="sample")
    options = FitOptions(num_paths=16, batch_size=7, guidance_scale=guidance_scale)
    told_alone.register_to_config(condition_dropout=True)
    fit = SolverFit(told_alone, scheduler, [2], images, options, features=lambda samples: samples.flatten(1)[:, :3])
    told = images[:, 1:2] / 127.5 - 1
    found = fit._model(lambda calls: None, 37, 6).predicted_x0(fit._noise(6, first=37), 3)
    wanted = (guidance_scale * told[[37, 38, 39, 0, 1, 2]]).clamp(-1, 1)
    assert_close(found, wanted, atol=0.03, rtol=0)
    fit.chooses = False
    fit.prepare()
    assert fit.moments is None
    noise, ends = fit.unseen_paths(5, lambda calls: None)
    places = [(16 + 256 + i) % NUMBER for i in range(5)]
    assert_close(ends, (guidance_scale * told[places]).clamp(-1, 1), atol=0.05, rtol=0)
    solver = fit.scheduler({"2": fit.solver(2)})
    pipeline = GaussianDiffusionPipeline(told_alone, solver)
    pipeline.set_progress_bar_config(disable=True)
    assert_close(fit.sampled(pipeline, noise, 2), ends, atol=0.05, rtol=0)


def test_classes_are_those_of_the_told_images(tiny_unet, images):
    labels = torch.arange(NUMBER) % 3
    unet = tiny_unet(**UPSCALER, num_classes=3)
    fit = SolverFit(unet, SHORT, [2], images[:, :1], FitOptions(num_paths=16, image_labels=labels))
    told = fit.conditions.of(38, 4)
    assert told.labels.tolist() == labels[[38, 39, 0, 1]].tolist()
    assert_close(told.images, fit.conditions.images[[38, 39, 0, 1]])
    assert told.images.shape == (4, 1, 4, 4)
    with pytest.raises(InputError, match="told images and their classes: give image_labels"):
        SolverFit(unet, SHORT, [2], images[:, :1], FitOptions(num_paths=16))
    with pytest.raises(InputError, match="give the data from which they are made"):
        SolverFit(tiny_unet(**UPSCALER), SHORT, [2], None, FitOptions(num_paths=16))
    with pytest.raises(ValueError, match=r"must be \(N, 3, height, width\) for this network"):
        SolverFit(tiny_unet(**PAIRS), SHORT, [2], images[:, :1], FitOptions(num_paths=16))


def test_paths_without_images_are_told_their_labels():
    assert PathConditions([1, 2]).of(0, 2) == Told([1, 2]) and PathConditions([1, 2]).of(5, 2) == Told()


def test_samples_are_seen_beside_their_own_image(tiny_unet):
    samples = torch.rand(2, 1, 8, 8) * 2 - 1
    assert told_beside(tiny_unet().config, samples) is samples
    assert not told_beside(tiny_unet(**PAIRS).config, samples)[:, 1:].any()
    upscaler = GaussianDiffusionUpscalePipeline(tiny_unet(**UPSCALER), SHORT)
    seen = told_beside(upscaler.unet.config, samples)[:, 1:]
    assert_close(seen, upscaler.samples.split(samples)[1])


@pytest.fixture
def folder_of_pictures(tmp_path, images):
    """Grey pictures of 8x8, and another one for each."""
    folder = tmp_path / "pictures"
    (folder / "told").mkdir(parents=True)
    lines = ["file_name,told_file_name"]
    for number, image in enumerate(images.numpy()):
        Image.fromarray(image[0]).save(folder / f"{number:02d}.png")
        Image.fromarray(image[1]).save(folder / "told" / f"{number:02d}.png")
        lines.append(f"{number:02d}.png,told/{number:02d}.png")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)


def saved(folder, unet):
    GaussianDiffusionPipeline(unet, SHORT).save_pretrained(folder)
    return str(folder)


def test_an_upscaler_is_improved_and_used_by_upscale_and_in_a_cascade(tmp_path, tiny_unet, folder_of_pictures):
    """The row of the comparison before and after is drawn for the same told images."""
    model, new = saved(tmp_path / "upscaler", tiny_unet(**UPSCALER)), tmp_path / "new"
    new.mkdir()
    SCOPE_STATE.write(new, {"steps": [2], "num_images": 20})
    data = DataArguments(dataset=folder_of_pictures, image_column="image")
    pipeline = improve(ImproveOptions(model, data), new)
    assert [*pipeline.scheduler.config.fitted_solvers["solvers"]] == ["2"]
    report = json.loads((new / "compare.json").read_text(encoding="utf-8"))
    assert {row["sampler"] for row in report["measurements"]} >= {"before: own sampler", "after: fitted"}

    upscaler = GaussianDiffusionUpscalePipeline.from_pretrained(new)
    upscaler.set_progress_bar_config(disable=True)
    large = upscaler(torch.rand(1, 1, 8, 8), num_inference_steps=2, output_type="pt").images  # in tiles
    assert large.shape == (1, 1, 16, 16)
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4), dtype=np.uint8))
    small.save(tmp_path / "small.png")
    drawn = CliRunner().invoke(
        app,
        ["upscale", str(new), str(tmp_path / "small.png"), "--steps", "2", "--output", str(tmp_path / "large.png")],
    )
    assert drawn.exit_code == 0, drawn.output
    expected = upscaler(small, generator=[torch.Generator().manual_seed(0)], num_inference_steps=2).images[0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "large.png")), np.asarray(expected))
    GaussianDiffusionPipeline(tiny_unet(sample_size=4), SHORT).save_pretrained(tmp_path / "base")
    # Where weights lie in a cache line decides how some products are rounded; loaded ones lie in the same places.
    base = GaussianDiffusionPipeline.from_pretrained(tmp_path / "base")
    cascade = GaussianDiffusionCascadePipeline.from_stages(base, upscaler)
    cascade.save_pretrained(tmp_path / "cascade")
    loaded = GaussianDiffusionCascadePipeline.from_pretrained(tmp_path / "cascade")
    loaded.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": [3, 2], "output_type": "pt"}
    images = [each(generator=torch.Generator().manual_seed(0), **options).images for each in (cascade, loaded)]
    assert_close(images[0], images[1], rtol=0, atol=0)
    assert loaded.stages[1].scheduler.config.fitted_solvers is not None


def test_pairs_are_calibrated_by_the_command(tmp_path, tiny_unet, folder_of_pictures):
    model, new = saved(tmp_path / "pairs", tiny_unet(in_channels=2, condition_channels=1)), tmp_path / "new"
    data = ["--dataset", folder_of_pictures, "--condition_column", "told"]
    arguments = ["calibrate", model, "--solver", "2", "--num_images", "40", "--output_dir", str(new), *data]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads((new / "solvers.json").read_text(encoding="utf-8"))
    assert report["distances"]["fitted"]["2"] < report["distances"]["ddim@trailing"]["2"]


def test_fit_solver_takes_what_the_data_are(tiny_unet, images):
    """In Python: the images of an upscaler alone, and those of pairs with their conditions."""
    for options, data in ((UPSCALER, images[:, :1]), (PAIRS, images)):
        scheduler = fit_solver(tiny_unet(**options), SHORT, [2], data, num_paths=16, progress_bar=False)
        assert scheduler.config.fitted_solvers.get("moments") is None
