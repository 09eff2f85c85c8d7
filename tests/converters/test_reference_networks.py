"""Converted networks compute what the published codes compute, before and after saving, with and without the package."""

import json
import os
import subprocess
import sys

import pytest
import torch
from diffusers import UNet2DModel
from no_package import RUN_CONVERTED

from ddpm_hf import (
    ADMUNet2DModel,
    DDPMUNet2DModel,
    GaussianDiffusionPipeline,
    LinearAttentionUNet2DModel,
    NCSNpp2DModel,
    NoisyImageClassifier,
)
from ddpm_hf.converters import convert_checkpoint

CLASSES = {
    "guided_sr": DDPMUNet2DModel,
    "guided_classifier": NoisyImageClassifier,
    "ddim_train": UNet2DModel,
    "ddpmpp": NCSNpp2DModel,
    "ncsnpp_residual": NCSNpp2DModel,
    "lucidrains": LinearAttentionUNet2DModel,
}
# Sines of timesteps are computed in float32, from frequencies that are rounded in another order in other codes and on
# other processors. That is seen in float64 alone, and not by a network that takes sigma.
IN_FLOAT64 = dict.fromkeys(CLASSES, 5e-6) | {"ncsnpp_residual": 1e-11}


def network_of(converted):
    return converted if isinstance(converted, NoisyImageClassifier) else converted.unet


@pytest.fixture(params=CLASSES)
def model(request, foreign):
    return foreign(request.param)


def test_the_output_is_that_of_the_code(model):
    network = network_of(convert_checkpoint(model.checkpoint, model.options))
    assert type(network) is CLASSES[model.name]
    assert model.error_of(network) < 2e-5
    assert model.error_of(network.double(), "output_float64") < IN_FLOAT64[model.name]


@pytest.mark.parametrize("name", ["guided_sr", "guided_classifier", "ddim_train", "lucidrains"])
def test_in_double_precision_at_time_zero_it_is_exact(foreign, name):
    """There all sines are 0 and all cosines 1, whatever the frequencies."""
    model = foreign(name)
    network = network_of(convert_checkpoint(model.checkpoint, model.options)).double()
    expected, at_zero = model.array("output_float64"), model.array("timesteps") == 0
    assert at_zero.any()
    error = (model.output_of(network) - expected)[at_zero].abs().max()
    assert error < 1e-11 * expected.abs().max()


def test_what_is_saved_is_loaded(model, tmp_path):
    converted = convert_checkpoint(model.checkpoint, model.options, tmp_path / "new")
    if isinstance(converted, GaussianDiffusionPipeline):
        loaded = GaussianDiffusionPipeline.from_pretrained(tmp_path / "new").unet
    else:
        loaded = NoisyImageClassifier.from_pretrained(tmp_path / "new")
    assert torch.equal(model.output_of(loaded), model.output_of(network_of(converted)))


def test_without_the_package_the_code_in_the_folder_computes_the_same(foreign, tmp_path):
    models = {tmp_path / name: foreign(name) for name in ("ddpmpp", "guided_sr", "guided_classifier")}
    for folder, model in models.items():
        convert_checkpoint(model.checkpoint, model.options, folder)
        torch.save(model.inputs(torch.float32), folder / "inputs.pt")
    (tmp_path / "process.py").write_text(RUN_CONVERTED, encoding="utf-8")
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "process.py", *map(str, models)]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for folder, model in models.items():
        expected = model.array("output")
        error = (torch.load(folder / "output.pt", weights_only=True) - expected).abs().max()
        assert error < 2e-5 * expected.abs().max(), model.name


def test_a_network_that_stock_classes_cannot_run_does_not_pass_for_a_stock_one(foreign, tmp_path):
    model = foreign("ddpmpp")
    convert_checkpoint(model.checkpoint, model.options, tmp_path / "new")
    index = json.loads((tmp_path / "new" / "model_index.json").read_text(encoding="utf-8"))
    assert index["unet"] == [None, "NCSNpp2DModel"] and index["_class_name"][1] == "GaussianDiffusionPipeline"


def test_a_learned_sigma_is_a_head_for_our_training_and_channels_for_stock_classes(improved, tmp_path):
    pipeline = convert_checkpoint(*improved(learn_sigma=True), tmp_path / "new")
    assert type(pipeline.unet) is DDPMUNet2DModel and pipeline.unet.config.variance_head == "learned_range"
    assert pipeline.scheduler.config.variance_type == "learned_range"
    assert UNet2DModel.from_pretrained(tmp_path / "new", subfolder="unet").config.out_channels == 2


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_a_number_of_heads_for_all_widths(improved, written, heads):
    """One head fits a stock network; with more, only ours has them where widths differ."""
    unet, original = convert_checkpoint(*improved(num_heads=heads)).unet, written(heads)
    assert type(unet) is (DDPMUNet2DModel if heads == 1 else ADMUNet2DModel)
    inputs = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    with torch.no_grad():
        assert torch.equal(unet(*inputs).sample, original(*inputs).sample)
