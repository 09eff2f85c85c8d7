"""The kernel distance against torch-fidelity, against its definition, and by simulation."""

import numpy as np
import pytest
import torch
from features import normal, share_covered

from ddpm_hf.evaluation.measures.kernel import kernel_distance


def by_definition(x, y):
    """Loops over pairs, in NumPy."""
    x, y = x.numpy(), y.numpy()

    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    within = [np.mean([k(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j]) for a in (x, y)]
    return sum(within) - 2 * np.mean([k(a, b) for a in x for b in y])


def test_by_definition():
    x, y = normal(12, 3) + 0.4, normal(9, 3, seed=1)
    assert kernel_distance(x, y).value == pytest.approx(by_definition(x, y), rel=1e-9)


def test_against_torch_fidelity(fidelity):
    """One subset of everything."""
    metric = fidelity("metric_kid")
    x, y = normal(80, 16) * 1.1, normal(80, 16, seed=1)
    options = {"kid_subsets": 1, "kid_subset_size": 80, "verbose": False}
    expected = metric.kid_features_to_metric(x, y, **options)[metric.KEY_METRIC_KID_MEAN]
    assert kernel_distance(x, y).value == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_rows_in_parts_are_the_whole(monkeypatch):
    x, y = normal(25, 3) + 0.4, normal(31, 3, seed=1)
    whole = kernel_distance(x, y)
    monkeypatch.setattr("ddpm_hf.evaluation.measures.kernel.ROWS", 7)
    assert kernel_distance(x, y)[:2] == pytest.approx(whole[:2], rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_it_has_no_bias_and_its_error_covers_the_truth(scale):
    """Between N(0, s^2 I) and N(0, I), KID = 3 (s^2 - 1)^2 / D.

    k = z^3 + 3 z^2 + 3 z + 1 with z = x . y / D, whose odd moments are 0, and E z^2 = s^2 / D between the two sets.
    """
    truth = 3 * (scale**2 - 1) ** 2 / 8
    estimates = [
        kernel_distance(normal(100, 8, seed=seed) * scale, normal(150, 8, seed=5000 + seed)) for seed in range(600)
    ]
    values = torch.tensor([each.value for each in estimates])
    assert values.mean().item() == pytest.approx(truth, abs=3 * values.std().item() / 600**0.5)
    assert 0.9 <= share_covered(estimates, truth) <= 0.99
    assert estimates[0].bias is None


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="at least 3 samples on both sides; there are 2 and 9"):
        kernel_distance(normal(2, 3), normal(9, 3))
    with pytest.raises(ValueError, match="Features of 3 and 4 dimensions"):
        kernel_distance(normal(9, 3), normal(9, 4))
