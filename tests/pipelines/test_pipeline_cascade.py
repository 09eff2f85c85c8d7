"""The pipeline of a cascade: its stages, what they are handed, and its folder."""

import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DModel
from torch.testing import assert_close
from typer.testing import CliRunner

from ddpm_hf import (
    DDPMUNet2DModel,
    GaussianDiffusionCascadePipeline,
    GaussianDiffusionPipeline,
    GaussianDiffusionScheduler,
    GaussianDiffusionUpscalePipeline,
    cli,
)
from ddpm_hf.errors import InputError
from ddpm_hf.hub.cascade import make_cascade
from ddpm_hf.hub.model_folder import check_model_folder, load_cascade, load_pipeline
from ddpm_hf.hub.shared_files import files_to_share

STEPS = {"num_inference_steps": 2}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def stage(tiny_unet):
    """A function that makes a stage of a side: `stage(8)` a base, `stage(16, low=8)` an upscaler."""

    def make(side, low=None, **options):
        kind = GaussianDiffusionPipeline
        if low is not None:
            kind = GaussianDiffusionUpscalePipeline
            options = {"in_channels": 2, "condition_channels": 1, "low_resolution": low} | options
        pipeline = kind(tiny_unet(sample_size=side, **options), GaussianDiffusionScheduler())
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return make


@pytest.fixture
def cascade(stage):
    """4 to 8 to 16, with classes in the first two and levels in the last two."""
    levels = {"max_augmentation_level": 0.5}
    parts = stage(4, num_classes=3), stage(8, 4, num_classes=3, **levels), stage(16, 8, **levels)
    pipeline = GaussianDiffusionCascadePipeline.from_stages(*parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_each_stage_enlarges_what_the_one_before_made(cascade):
    """The same as the three pipelines in a row, of which each is told the labels and its level."""
    one = generator()
    options = {"class_labels": [0, 2], "guidance_scale": 2.0}
    image = cascade.stages[0](**options, **STEPS, generator=one, output_type="pt").images
    image = cascade.stages[1](image, 0.1, **options, **STEPS, generator=one, output_type="pt").images
    image = cascade.stages[2](image, 0.4, **STEPS, generator=one, output_type="pt").images
    drawn = cascade(**options, **STEPS, augmentation_level=[0.1, 0.4], generator=generator(), output_type="pt").images
    assert drawn.shape == (2, 1, 16, 16)
    assert torch.equal(drawn, image)


def test_the_same_seeds_give_the_same_images_in_any_batch(cascade):
    options = STEPS | {"augmentation_level": 0.2, "output_type": "pt"}
    both = cascade(generator=[generator(3), generator(4)], **options).images
    assert_close(cascade(generator=[generator(4)], **options).images, both[1:])
    assert len(cascade(batch_size=3, **STEPS).images) == 3


def test_steps_and_guidance_of_each_stage(cascade):
    seen = []
    cascade(
        num_inference_steps=[1, 2, 3],
        guidance_scale=[2.0, 1.0, 1.0],
        class_labels="1",
        callback_on_step_end=lambda stage, i, t, tensors: seen.append(tuple(tensors["latents"].shape)) or {},
    )
    assert seen == [(1, 1, 4, 4)] + [(1, 1, 8, 8)] * 2 + [(1, 1, 16, 16)] * 3


def test_the_folder_loads_whole_and_stage_by_stage(tmp_path, cascade):
    cascade.save_pretrained(tmp_path)
    options = STEPS | {"class_labels": [1], "augmentation_level": 0.3, "output_type": "pt"}
    expected = cascade(**options, generator=generator()).images
    by_code = DiffusionPipeline.from_pretrained(tmp_path, custom_pipeline=str(tmp_path), trust_remote_code=True)
    loaded = GaussianDiffusionCascadePipeline.from_pretrained(tmp_path), by_code, load_cascade(tmp_path)
    for pipeline in loaded:
        pipeline.set_progress_bar_config(disable=True)
        assert_close(pipeline(**options, generator=generator()).images, expected)
        assert [kind.samples.sides for kind in pipeline.stages] == [(4, 4), (8, 8), (16, 16)]
    # The last stage has levels alone, and the second both labels and levels.
    last = (
        UNet2DModel.from_pretrained(tmp_path, subfolder="unet_3"),
        DDPMScheduler.from_pretrained(tmp_path / "scheduler_3"),
    )
    alone = GaussianDiffusionUpscalePipeline(*last)
    alone.set_progress_bar_config(disable=True)
    image = torch.rand(1, 1, 8, 8, generator=generator())
    run = {"output_type": "pt", **STEPS}
    assert_close(
        alone(image, generator=generator(), **run).images,
        cascade.stages[2](image, generator=generator(), **run).images,
    )
    assert isinstance(DDPMUNet2DModel.from_pretrained(tmp_path, subfolder="unet_2"), DDPMUNet2DModel)
    loaded[1].save_pretrained(tmp_path / "again")
    for file in ("model_index.json", "pipeline.py", "unet_2/config.json", "unet_3/config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / file).read_bytes()


@pytest.mark.parametrize(
    "stages, message",
    [
        ([{"side": 4}, {"side": 16, "low": 8}], r"Stage 2 .* height and width \(8, 8\), and .* makes \(4, 4\)"),
        ([{"side": 4}, {"side": 8}], "Stage 2 of the cascade enlarges no images"),
        ([{"side": 8, "low": 4}, {"side": 16, "low": 8}], "The first stage is told a condition image"),
        ([{"side": 4, "num_classes": 2}, {"side": 8, "low": 4, "num_classes": 3}], "for classes 3, and .* makes 2"),
        ([{"side": 4, "in_channels": 3}, {"side": 8, "low": 4}], "for channels 1, and the stage before makes 3"),
        ([{"side": 4}], "A cascade has 2 to 5 stages, and 1 are given"),
    ],
)
def test_stages_that_do_not_fit(stage, stages, message):
    with pytest.raises(ValueError, match=message):
        GaussianDiffusionCascadePipeline.from_stages(*(stage(**options) for options in stages))


@pytest.mark.parametrize(
    "call, message",
    [
        ({"augmentation_level": 0.7}, r"augmentation_level=0.7 must be in \[0, 0.5\]"),
        ({"augmentation_level": [0.1]}, r"augmentation_level=\[0.1\] must be one for all, or 2 values"),
        ({"num_inference_steps": [2, 2]}, r"num_inference_steps=\[2, 2\] must be one for all, or 3 values"),
        ({"class_labels": 7}, "class_labels=7 must be whole numbers in 0 .. 2"),
    ],
)
def test_calls_that_are_refused(cascade, call, message):
    with pytest.raises(ValueError, match=message):
        cascade(**STEPS | call)


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_the_verbs_of_a_cascade(tmp_path, stage):
    base, upscaler, folder = (tmp_path / name for name in ("base", "upscaler", "cascade"))
    stage(4).save_pretrained(base)
    stage(8, 4, max_augmentation_level=0.5).save_pretrained(upscaler)
    made = run("cascade", base, upscaler, "--output_dir", folder)
    assert made.exit_code == 0, made.output
    assert "a cascade of 4x4, 8x8" in made.output
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "4x4 (`unet`), enlarged to 8x8 (`unet_2`)" in card
    assert "GaussianDiffusionCascadePipeline.from_pretrained" in card
    check_model_folder(folder)
    weights = [name for name in files_to_share(folder) if name.endswith(".safetensors")]
    assert [name.split("/")[0] for name in weights] == ["unet", "unet_2"]
    options = ["--num_images", 2, "--steps", 2, "--recipe", "ddim-2m", "--device", "cpu"]
    for name in ("a", "b"):
        drawn = run("sample", folder, *options, "--augmentation_level", 0.2, "--output", tmp_path / f"{name}.png")
        assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(InputError, match="is a cascade of several models"):
        load_pipeline(folder)
    with pytest.raises(InputError, match="make no cascade: Stage 3 of the cascade enlarges no images"):
        make_cascade(str(base), [str(upscaler), str(base)], tmp_path / "other")
    with pytest.raises(InputError, match="is not empty"):
        make_cascade(str(base), [str(upscaler)], folder)
