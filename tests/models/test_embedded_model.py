"""The model inside the package, which verbs use where none is named."""

import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import load_file

from ddpm_hf import GaussianDiffusionPipeline, cli
from ddpm_hf.models.class_names import class_names_of
from ddpm_hf.places import EMBEDDED_MODEL
from ddpm_hf.recipes import prepared_count

FOLDER = Path(EMBEDDED_MODEL)


def test_it_has_classes_with_names_and_solvers_for_few_steps():
    pipeline = GaussianDiffusionPipeline.from_pretrained(FOLDER)
    assert pipeline.unet.dtype == torch.float32
    assert list(class_names_of(pipeline.unet.config)) == list(range(10))
    assert class_names_of(pipeline.unet.config)[9] == "Ankle boot"
    assert prepared_count(pipeline.scheduler) == 25
    assert UNet2DModel.from_pretrained(FOLDER, subfolder="unet").config.sample_size == 28


def test_it_takes_a_few_megabytes():
    weights = load_file(FOLDER / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 5e6


def test_sample_without_a_model_draws_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ddpm-hf", "sample", "--num_images", "4", "--class", "Bag", "--steps", "5"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "samples.png" in capsys.readouterr().out
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.convert("L").getextrema() == (0, 255)
