"""Figures of samples: which of them have a floor, and between how many images."""

import torch

from ddpm_hf.evaluation.features import FeatureNetwork
from ddpm_hf.evaluation.metric_names import parse_metrics
from ddpm_hf.evaluation.sample_metrics import Seen, Sets, figures

NETWORK = FeatureNetwork("none", "none", "none", lambda images: (images, None))


def normal(count, dimensions, seed):
    return Seen(torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed)))


def distances(samples, reference):
    (metric,) = parse_metrics("fd").of_samples
    return {each.name: each for each in figures(metric, NETWORK, Sets(samples, reference), extrapolate=True)}


def test_the_limit_of_the_distance_has_the_limit_between_halves_as_its_floor():
    """Bias goes: for samples of the reference's distribution both are near 0, and the plain ones are not."""
    found = distances(normal(400, 4, seed=0), normal(800, 4, seed=1))
    limit, plain = found["fd_infinity"], found["fd"]
    assert limit.floor_counts == (400, 400)
    assert abs(limit.floor.value) < abs(plain.floor.value) < 0.2
    assert abs(limit.floor.value) < 4 * limit.floor.standard_error


def test_a_reference_of_few_images_has_no_floor_for_the_limit():
    found = distances(normal(100, 20, seed=0), normal(100, 20, seed=1))
    assert found["fd"].floor is not None
    assert found["fd_infinity"].floor is None and found["fd_infinity"].floor_counts is None
