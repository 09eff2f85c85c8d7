"""The Frechet distance with its error: against torch-fidelity, closed forms, and repeated draws."""

import pytest
import torch
from features import normal, share_covered

from ddpm_hf.evaluation.distances import FeatureStatistics, Moments, frechet_distance
from ddpm_hf.evaluation.measures.frechet import estimate_frechet_distance, extrapolated_frechet_distance


def test_against_torch_fidelity(fidelity):
    metric = fidelity("metric_fid")
    x, y = normal(99, 8), 2 * normal(120, 8, seed=1) + 0.3
    expected = metric.fid_statistics_to_metric(*map(metric.fid_features_to_statistics, (x, y)), verbose=False)
    assert estimate_frechet_distance(x, y).value == pytest.approx(expected[metric.KEY_METRIC_FID], rel=1e-6)


def test_the_bias_is_that_of_the_law_of_normal_features():
    """Between draws of one normal distribution in D dimensions, E d^2 = D (D + 3) / 4 (1 / N + 1 / M) for large N, M.

    The mean gives D (1 / N + 1 / M), and the covariance tr((A - B)^2) / 4 to lowest order: D (D + 1) / 4 (1 / N + 1 / M).
    """
    dimensions, n, m = 4, 400, 600
    expected = (dimensions + dimensions * (dimensions + 1) / 4) * (1 / n + 1 / m)
    estimates = [
        estimate_frechet_distance(normal(n, dimensions, seed=seed), normal(m, dimensions, seed=1000 + seed))
        for seed in range(60)
    ]
    assert sum(each.value for each in estimates) / 60 == pytest.approx(expected, rel=0.2)
    assert sum(each.bias for each in estimates) / 60 == pytest.approx(expected, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_error_covers_the_mean_of_repeated_draws(shift):
    estimates = [
        estimate_frechet_distance(normal(300, 3, seed=seed) * 1.2 + shift, normal(300, 3, seed=1000 + seed))
        for seed in range(150)
    ]
    mean = sum(each.value for each in estimates) / len(estimates)
    assert 0.9 <= share_covered(estimates, mean) <= 0.99


@pytest.mark.slow
def test_without_bias_it_is_the_distance_of_the_distributions():
    """d^2 = |shift|^2 + sum (s - 1)^2 = 3 (0.25 + 0.04)."""
    estimates = [
        estimate_frechet_distance(normal(200, 3, seed=seed) * 1.2 + 0.5, normal(200, 3, seed=1000 + seed))
        for seed in range(100)
    ]
    corrected = [each._replace(value=each.value - each.bias) for each in estimates]
    assert sum(each.value for each in corrected) / 100 == pytest.approx(0.87, rel=0.05)
    assert 0.9 <= share_covered(corrected, 0.87) <= 0.99


def test_statistics_stand_for_a_reference_without_error_of_its_own():
    x, y = normal(100, 3) * 2, normal(100, 3, seed=1)
    statistics = FeatureStatistics(y)
    moments = Moments(None, statistics.mean, statistics.covariance)
    of_features, of_moments = estimate_frechet_distance(x, y), estimate_frechet_distance(x, moments)
    assert of_moments.value == pytest.approx(of_features.value, rel=1e-12)
    assert of_moments == pytest.approx(estimate_frechet_distance(x, statistics), rel=1e-12)
    assert of_moments.standard_error < of_features.standard_error


def test_the_limit_of_infinitely_many_samples():
    """The reference is the standard normal distribution itself, and d^2 = 3 (0.25 + 0.04)."""
    reference = Moments(None, torch.zeros(3).double(), torch.eye(3).double())
    limits = [
        extrapolated_frechet_distance(normal(200, 3, seed=seed) * 1.2 + 0.5, reference, sizes=8) for seed in range(80)
    ]
    assert 0.9 <= share_covered(limits, 0.87) <= 1
    biased = sum(frechet_distance(normal(200, 3, seed=seed) * 1.2 + 0.5, reference) for seed in range(80)) / 80
    assert abs(sum(each.value for each in limits) / 80 - 0.87) < biased - 0.87


def test_statistics_without_a_part():
    x = normal(50, 4) + 100
    rest = FeatureStatistics(x).without(FeatureStatistics(x[:20]))
    assert rest.count == 30
    torch.testing.assert_close(rest.mean, x[20:].mean(0))
    torch.testing.assert_close(rest.covariance, x[20:].T.cov(), rtol=1e-9, atol=1e-9)


def test_too_few():
    with pytest.raises(ValueError, match="at least 40 samples; there are 30"):
        estimate_frechet_distance(normal(30, 3), normal(100, 3))
    with pytest.raises(ValueError, match="in 64 dimensions needs at least 256 samples; there are 200"):
        extrapolated_frechet_distance(normal(200, 64), normal(200, 64))
