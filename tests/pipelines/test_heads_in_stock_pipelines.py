"""A network with one of our heads, saved, and loaded with diffusers alone."""

import pytest
from diffusers import DDPMPipeline, DiffusionPipeline

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler


@pytest.mark.parametrize("head", ["learned_range", "npr", "sn", "ocm"])
def test_it_runs_there_and_comes_back_as_it_was(tmp_path, tiny_unet, head):
    ours = GaussianDiffusionPipeline(tiny_unet(variance_head=head), GaussianDiffusionScheduler(variance_type=head))
    ours.save_pretrained(tmp_path)
    stock = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(stock) is DDPMPipeline
    assert stock(num_inference_steps=3, output_type="np").images.shape == (1, 8, 8, 1)
    stock.save_pretrained(tmp_path / "again")
    again = GaussianDiffusionPipeline.from_pretrained(tmp_path / "again")
    assert again.scheduler.config.variance_type == head
    assert again(num_inference_steps=3, output_type="np").images.shape == (1, 8, 8, 1)
