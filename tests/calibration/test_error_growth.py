import numpy as np
import pytest
import torch
from exact_predictor import exact_of_images

from ddpm_hf import GaussianDiffusionScheduler
from ddpm_hf.calibration import FlowPaths, error_growth
from ddpm_hf.calibration.transition_costs import candidate_timesteps


@pytest.mark.parametrize("variance", [0.25, 4.0])
def test_growth_of_normal_data(variance):
    """The flow of normal data is linear: it scales everything by sqrt(v / (abar v + 1 - abar))."""
    scheduler = GaussianDiffusionScheduler(clip_sample=False)
    candidates = candidate_timesteps(scheduler, 100)
    unet = exact_of_images(scheduler, mean=0.2, variance=variance)
    growth = error_growth(unet, scheduler, candidates, FlowPaths(3, progress_bar=False))
    alpha_bar = scheduler.alpha_bar(candidates).double().numpy()
    expected = np.sqrt(variance / (alpha_bar * variance + 1 - alpha_bar))
    assert growth[0] == 1
    np.testing.assert_allclose(growth[1:], expected, rtol=0.03)


def test_growth_with_few_candidates_and_with_classes(tiny_unet):
    scheduler = GaussianDiffusionScheduler(clip_sample=False)
    unet = tiny_unet(num_class_embeds=4)
    labels = torch.tensor([0, 3])
    for candidates in ([999], [500, 999], [0, 10, 999]):
        growth = error_growth(unet, scheduler, candidates, FlowPaths(2, labels, progress_bar=False))
        assert growth.shape == (len(candidates) + 1,)
        assert (growth > 0).all()
    with pytest.raises(ValueError, match="2 class_labels for 3 images"):
        error_growth(unet, scheduler, [5, 999], FlowPaths(3, labels, progress_bar=False))
