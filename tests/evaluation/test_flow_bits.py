"""Bits per dimension by the probability flow, against closed forms, and `evaluate --metrics nll`."""

import json
import math

import pytest
import torch
from torch.testing import assert_close

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler, ScoreSDEScheduler
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.evaluation import bits_per_dim
from ddpm_hf.evaluation.flow_bits import FlowOptions, flow_bits_per_dim
from ddpm_hf.evaluation.flow_run import evaluate_flow
from ddpm_hf.schedulers.scheduling_edm import EDMScheduler

MEAN, STD, LEVELS = 0.1, 0.3, 16


def gaussian_images(T=100):
    """An exact model of independent normal pixels, its chain, and images of that distribution on a grid."""
    chain = GaussianDiffusionScheduler(
        T, beta_start=0.1 / T, beta_end=20 / T, clip_sample=False, variance_type="fixed_large"
    )
    means = torch.full((1, 1, 4, 4), MEAN, dtype=torch.float64)
    denoiser = ExactDenoiser.from_gaussian_mixture(means, torch.full_like(means, STD**2), chain)
    x = denoiser.sample(40, torch.Generator().manual_seed(0)).clamp(-0.9, 0.9)
    codes = ((x + 1) * (LEVELS - 1) / 2).round().to(torch.uint8)
    return denoiser, chain, codes


def exact_bits(codes):
    """-log2 of the probability of each pixel's cell under the data's own distribution."""
    centre = codes.double() * 2 / (LEVELS - 1) - 1
    normal, half = torch.distributions.Normal(MEAN, STD), 1 / (LEVELS - 1)
    cells = normal.cdf(centre + half) - normal.cdf(centre - half)
    return -cells.log2().flatten(1).mean(1)


def test_normal_pixels_have_the_bits_of_their_cells():
    denoiser, chain, codes = gaussian_images()
    expected = exact_bits(codes).mean().item()
    options = {"levels": LEVELS, "progress_bar": False}
    uniform = flow_bits_per_dim(denoiser, chain, codes, FlowOptions(num_probes=2), **options)
    # The noise of the first timestep is 0.03, a quarter of a level.
    assert_close(uniform.total, expected, rtol=0, atol=0.03)
    assert 0 < uniform.probe_standard_error < uniform.standard_error
    # The decoder is wider than the noise that it removes; all other steps of the bound have gaps too.
    gaussian = flow_bits_per_dim(denoiser, chain, codes, FlowOptions(2, dequantization="gaussian"), **options)
    bound = bits_per_dim(denoiser, chain, codes, levels=LEVELS, progress_bar=False)
    assert expected < gaussian.total < bound.total


def test_the_noise_of_an_image_does_not_depend_on_its_batch():
    denoiser, chain, codes = gaussian_images()
    arguments, options = (denoiser, chain, codes[:3], FlowOptions(1, 1e-6, 1e-6)), {"levels": LEVELS}
    whole, parts = (flow_bits_per_dim(*arguments, batch_size=size, **options, progress_bar=False) for size in (3, 2))
    assert_close(torch.tensor(whole.per_image), torch.tensor(parts.per_image), rtol=0, atol=1e-4)


@pytest.mark.parametrize("centered", [True, False])
def test_points_and_data_in_0_to_1(centered):
    # The same normal pixels as data of a VE process in either range have the same bits.
    scheduler = ScoreSDEScheduler(
        sde="ve",
        sigma_max=10.0 if centered else 5.0,
        sigma_min=0.01 if centered else 0.005,
        time_input="timestep",
        centered=centered,
    )
    scale, shift = (1.0, 0.0) if centered else (0.5, 0.5)

    class Exact(ExactDenoiser):
        def forward(self, sample, timestep, class_labels=None, return_dict=True):
            _, sigma = scheduler.process.levels((timestep.double() / 999).reshape(-1, 1, 1, 1))
            variance = (scale * STD) ** 2 + sigma**2
            return (sigma * (sample - scale * MEAN - shift) / variance,)

    denoiser = Exact(1, 1, (4, 4))
    codes = gaussian_images()[2]
    measured = flow_bits_per_dim(denoiser, scheduler, codes, FlowOptions(4), levels=LEVELS, progress_bar=False)
    assert_close(measured.total, exact_bits(codes).mean().item(), rtol=0, atol=0.03)


@pytest.mark.parametrize(
    "scheduler", [GaussianDiffusionScheduler(100, beta_end=0.2), EDMScheduler(sigma_min=0.02)], ids=["ddpm", "edm"]
)
def test_evaluate_writes_nll(tmp_path, tiny_unet, capsys, dark_and_bright, scheduler):
    pipeline = GaussianDiffusionPipeline(tiny_unet(), scheduler)
    pipeline.save_pretrained(tmp_path / "model")
    data = DataArguments(dataset=dark_and_bright, split="test")
    evaluate_flow(tmp_path / "model", tmp_path / "out", data, num_images=6, rtol=1e-2, probes=2, device="cpu")
    written = json.loads((tmp_path / "out" / "nll.json").read_text())
    assert len(written["per_image"]) == written["num_images"] == 6
    assert math.isfinite(written["total"])
    assert written["dequantization"] == "uniform"
    assert "bits/dim (uniform dequantisation) by the flow" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": 0.0}, "rtol=0.0 must be greater than 0"),
        ({"dequantization": "none"}, "dequantization='none'"),
        ({"probes": 0}, "num_probes=0"),
    ],
)
def test_bad_options_are_refused_before_a_model_is_opened(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_flow(tmp_path / "no model", tmp_path / "out", device="cpu", **options)
