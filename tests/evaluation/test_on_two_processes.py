"""Work shared between processes by `accelerate launch` gives the results of one process."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.cli import app
from ddpm_hf.evaluation.distances import FeatureStatistics


def test_statistics_of_parts_merge_into_those_of_the_whole():
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 100
    merged = FeatureStatistics()
    for part in (features[:7], features[7:7], features[7:]):
        merged.merge(FeatureStatistics(part) if len(part) else FeatureStatistics())
    torch.testing.assert_close(merged.covariance, features.T.cov(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.mean, features.mean(0), rtol=1e-12, atol=0)
    assert merged.count == 30


def commands(model, data, features, folder):
    """Each verb, once, on few images."""
    data = ["--dataset", data, "--num_images", "20", "--batch_size", "6"]
    return {
        "evaluate": [model, "--output", f"{folder}/evaluated", "--steps", "4", "--split", "test", *data],
        "calibrate": [model, "--output_dir", f"{folder}/calibrated", *data],
        "sample": [model, "--output", f"{folder}/samples.png", "--num_images", "5", "--steps", "3"],
        "compare": [
            *(model, "--output", f"{folder}/compared", "--features", features, "--samplers", "ddpm,dpmpp-2m"),
            *("--steps", "3", "--seeds", "0,1", *data),
        ],
    }


@pytest.mark.slow
def test_every_verb_on_two_processes(tmp_path, tiny_unet, dark_and_bright, feature_network, on_two_processes):
    scheduler = DDPMScheduler(num_train_timesteps=10, beta_end=0.8)
    GaussianDiffusionPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path / "model")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    arguments = str(tmp_path / "model"), dark_and_bright, feature_network
    for verb, options in commands(*arguments, tmp_path / "one").items():
        app([verb, *options], standalone_mode=False)
    for verb, options in commands(*arguments, tmp_path / "two").items():
        on_two_processes("-m", "ddpm_hf.cli", verb, *options)

    def results(path):
        return [json.loads((tmp_path / folder / path).read_text(encoding="utf-8")) for folder in ("one", "two")]

    one, two = results("evaluated/bpd.json")
    np.testing.assert_allclose(two["per_image"], one["per_image"], rtol=1e-5)
    assert len(one["per_image"]) == 20
    one, two = (result["mean_square_epsilon"] for result in results("calibrated/calibration.json"))
    np.testing.assert_allclose(two["values"], one["values"], rtol=1e-5)
    assert one["draws"] == two["draws"]
    one, two = (result["measurements"] for result in results("compared/compare.json"))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(b["distances"], a["distances"], rtol=1e-3)  # images are rounded to 8 bits
    assert two[0]["bits_per_dim"] == pytest.approx(one[0]["bits_per_dim"], rel=1e-5)  # the others have no bound
    one, two = (np.asarray(Image.open(tmp_path / folder / "samples.png")).astype(int) for folder in ("one", "two"))
    assert one.std() > 10 and np.abs(one - two).max() <= 1
    one, two = (Image.open(tmp_path / folder / "compared" / "compare_samples.png") for folder in ("one", "two"))
    assert one.height == two.height > 2 * 88  # the seconds in it are of each run
