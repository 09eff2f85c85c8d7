"""Samples of models that are told a text, in latents and in pixels: each is told the caption of an image of the data."""

import json

import numpy as np
import pytest
import torch
from text_models import save_of_pixels, save_stock

from ddpm_hf.calibration.improve import ImproveOptions, improve
from ddpm_hf.calibration.progress_file import SCOPE_STATE
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.compare import compare
from ddpm_hf.evaluation.evaluate import evaluate
from ddpm_hf.evaluation.image_archives import read_images
from ddpm_hf.hub.model_folder import load_pipeline


@pytest.fixture
def data(dark_and_bright):
    return DataArguments(dataset=dark_and_bright, split="test")


@pytest.fixture(params=[save_stock, save_of_pixels])
def model(request, tmp_path):
    return request.param(tmp_path / "model")


def test_compared_and_evaluated_samples_are_told_the_captions_of_the_data(tmp_path, model, data, feature_network):
    options = {"num_images": 40, "batch_size": 20, "device": "cpu"}
    sampling = {"guidance_scale": 2.0, "steps": 2}
    report = evaluate(
        model, tmp_path / "ev", "fd", data, features=feature_network, keep_samples=True, **options, **sampling
    )
    assert report.samples["captions"] == "those of the reference" and report.samples["guidance_scale"] == 2.0
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
    pipeline = load_pipeline(model, texts=True)
    pipeline.set_progress_bar_config(disable=True)
    prompt = f"a picture of a {('dark', 'bright')[order[5] % 2]}"
    told = {"num_inference_steps": 2, "guidance_scale": 2.0}
    alone = pipeline(prompt=prompt, generator=[torch.Generator().manual_seed(5)], **told).images[0]
    kept = read_images(tmp_path / "ev" / "samples.npz")[5, 0].numpy()
    assert np.abs(np.asarray(alone).astype(int) - kept).max() <= 1

    compared = {"samplers": ["ddim", "unipc"], "steps": [2], "seeds": [0], "guidance_scale": 2.0, **options}
    measured = compare(model, tmp_path / "cmp", feature_network, data, **compared)
    assert len(measured) == 2 and all(m.bits_per_dim is None for m in measured)
    settings = json.loads((tmp_path / "cmp" / "compare.json").read_text(encoding="utf-8"))["settings"]
    assert settings["guidance_scale"] == "2" and settings["bits per dimension"] == "not measured"


def test_latents_are_improved_and_their_samples_shown(tmp_path, data, feature_network):
    model = save_stock(tmp_path / "model")
    new = tmp_path / "new"
    new.mkdir()
    SCOPE_STATE.write(new, {"steps": [2], "num_images": 20})
    improved = improve(ImproveOptions(model, data, guidance_scale=2.0, device="cpu"), new)
    assert [*improved.scheduler.config["_ddpm_hf"]["fitted_solvers"]["solvers"]] == ["2"]
    features = feature_network
    with pytest.raises(ValueError, match=r"fitted at guidance_scale=2.0, and this run has guidance_scale=1.0"):
        compare(str(new), tmp_path / "c", features, data, samplers=["ddim", "fitted"], steps=[2], num_images=4)
    with pytest.raises(ValueError, match=r"fitted at guidance_scale=2.0, and this run has guidance_scale=3.0"):
        evaluate(str(new), tmp_path / "e", "fd", data, features=features, num_images=40, guidance_scale=3.0)
    assert not (tmp_path / "c").exists() and not (tmp_path / "e").exists()
    report = json.loads((new / "compare.json").read_text(encoding="utf-8"))
    assert {row["sampler"] for row in report["measurements"]} == {
        "before: own sampler",
        "before: unipc",
        "after: fitted",
    }
    assert report["settings"]["guidance_scale"] == "2"


@pytest.mark.parametrize("metrics", ["bpd", "nll"])
def test_bits_are_refused_before_the_work(tmp_path, data, metrics):
    with pytest.raises(InputError, match="told a text, which this does not give it"):
        evaluate(save_of_pixels(tmp_path / "model"), tmp_path / "new", metrics, data)


def test_captions_are_for_models_of_texts(tmp_path, data, feature_network, tiny_pipeline):
    of_pixels = save_of_pixels(tmp_path / "model")
    with pytest.raises(InputError, match="the reference is an archive: name the data"):
        np.savez(tmp_path / "images.npz", np.zeros((40, 8, 8, 1), dtype=np.uint8))
        reference = str(tmp_path / "images.npz")
        evaluate(of_pixels, tmp_path / "a", "fd", data, features=feature_network, num_images=4, reference=reference)
    with pytest.raises(InputError, match="are for a network that is told a text, and this one is not: leave them out"):
        template = DataArguments(dataset=data.dataset, split="test", caption_template="a {label}")
        compare(tiny_pipeline, tmp_path / "b", feature_network, template, samplers=["ddim"], steps=[2], num_images=4)
