"""The Inception score against torch-fidelity, closed forms, and repeated draws."""

import numpy as np
import pytest
import torch
from features import normal, share_covered

from ddpm_hf.evaluation.measures.inception_score import inception_score


def test_against_torch_fidelity(fidelity):
    metric = fidelity("metric_isc")
    logits = 2 * normal(205, 7)
    expected = metric.isc_features_to_metric(logits, splits=10, shuffle=False)
    estimate = inception_score(logits)
    assert estimate.value == pytest.approx(expected[metric.KEY_METRIC_ISC_MEAN], rel=1e-6)
    spread = expected[metric.KEY_METRIC_ISC_STD]  # with the divisor 10, and not 9
    assert estimate.standard_error == pytest.approx(spread / 9**0.5, rel=1e-6)


def test_certain_and_balanced_classes_score_their_number():
    logits = 1000 * torch.eye(5).repeat(20, 1)
    assert inception_score(logits).value == pytest.approx(5, rel=1e-6)


def test_one_class_scores_1():
    assert inception_score(torch.tensor([[9.0, 0.0, 1.0]]).repeat(40, 1)).value == pytest.approx(1, rel=1e-9)


def test_by_definition():
    logits = normal(30, 4)
    p = logits.softmax(1).numpy()
    divergence = (p * np.log(p / p.mean(0))).sum(1).mean()
    assert inception_score(logits, splits=1) == (pytest.approx(np.exp(divergence), rel=1e-9), None, None)


def test_the_error_covers_the_mean_of_repeated_draws():
    estimates = [inception_score(2 * normal(300, 5, seed=seed)) for seed in range(400)]
    assert 0.9 <= share_covered(estimates, sum(each.value for each in estimates) / 400) <= 0.99


def test_fewer_samples_than_splits():
    with pytest.raises(ValueError, match="of 10 splits needs as many samples; there are 9"):
        inception_score(normal(9, 3))
