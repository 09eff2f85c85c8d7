"""Precision, recall, density and coverage against libraries, against their definitions, and by repeated draws."""

import contextlib
import io

import pytest
import torch
from features import normal, share_covered

from ddpm_hf.evaluation.measures.estimates import random_halves
from ddpm_hf.evaluation.measures.neighbours import nearest, neighbourhoods
from ddpm_hf.evaluation.measures.precision_recall import density_coverage, precision_recall


def figures(samples, reference, nearest_k):
    found = neighbourhoods(samples, reference, nearest_k).whole
    return precision_recall(found) | density_coverage(found)


def by_definition(samples, reference, nearest_k):
    """The whole matrices of distances, one line for each formula."""
    sample_radii, reference_radii = (torch.cdist(x, x).sort(1).values[:, nearest_k] for x in (samples, reference))
    between = torch.cdist(samples, reference)
    in_reference_ball, in_sample_ball = between <= reference_radii, between <= sample_radii[:, None]
    return {
        "precision": in_reference_ball.any(1).double().mean().item(),
        "recall": in_sample_ball.any(0).double().mean().item(),
        "density": in_reference_ball.sum(1).double().mean().item() / nearest_k,
        "coverage": in_reference_ball.any(0).double().mean().item(),
    }


@pytest.mark.parametrize("nearest_k", [1, 3, 5])
@pytest.mark.parametrize("rows", [1000, 13])
def test_by_definition(nearest_k, rows, monkeypatch):
    monkeypatch.setattr("ddpm_hf.evaluation.measures.neighbours.ROWS", rows)
    samples, reference = normal(70, 4) * 0.7 + 0.5, normal(90, 4, seed=1)
    found = figures(samples, reference, nearest_k)
    assert found == pytest.approx(by_definition(samples, reference, nearest_k), rel=1e-12)
    assert 0.1 < found["recall"] < found["precision"] < 1


def test_of_random_halves():
    """A half is measured as if it were everything."""
    samples, reference = normal(70, 4) * 0.7 + 0.5, normal(90, 4, seed=1)
    drawn = neighbourhoods(samples, reference, 3)
    for kept, kept_of_reference, found in zip(
        random_halves(70, seed=0), random_halves(90, seed=1), drawn.halves, strict=True
    ):
        expected = by_definition(samples[kept], reference[kept_of_reference], 3)
        assert precision_recall(found) | density_coverage(found) == pytest.approx(expected, rel=1e-12)


def test_against_torch_fidelity(fidelity):
    metric = fidelity("metric_prc")
    samples, reference = normal(80, 6) * 0.8, normal(90, 6, seed=1)
    options = {"prc_neighborhood": 3, "prc_batch_size": 50, "save_cpu_ram": False, "verbose": False}
    expected = metric.prc_features_to_metric(samples, reference, **options)
    found = figures(samples, reference, 3)
    # Their means are in float32.
    assert found["precision"] == pytest.approx(expected[metric.KEY_METRIC_PRECISION], abs=1e-6)
    assert found["recall"] == pytest.approx(expected[metric.KEY_METRIC_RECALL], abs=1e-6)


def test_against_prdc():
    prdc = pytest.importorskip("prdc", reason="prdc is not installed: pip install prdc")
    samples, reference = normal(80, 6) * 0.8, normal(90, 6, seed=1)
    with contextlib.redirect_stdout(io.StringIO()):
        expected = prdc.compute_prdc(reference.numpy(), samples.numpy(), nearest_k=5)
    assert figures(samples, reference, 5) == pytest.approx(expected, abs=1e-6)


def test_of_separate_and_of_equal_sets():
    points = normal(60, 3)
    assert figures(points, points + 100, 3) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    same = figures(points, points, 3)
    assert same["precision"] == same["recall"] == same["coverage"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (0.7, 0.4)])
def test_the_errors_cover_the_means_of_repeated_draws(scale, shift):
    found = {}
    for seed in range(60):
        drawn = neighbourhoods(normal(200, 3, seed=seed) * scale + shift, normal(200, 3, seed=1000 + seed), 5)
        for name, each in (drawn.estimates(precision_recall) | drawn.estimates(density_coverage)).items():
            found.setdefault(name, []).append(each)
    assert len(found) == 4
    for estimates in found.values():
        mean = sum(each.value for each in estimates) / len(estimates)
        assert 0.9 <= share_covered(estimates, mean) <= 1


def test_nearest_neighbours():
    points = torch.tensor([[0.0], [1.0], [5.0]])
    distances, places = nearest(torch.tensor([[4.0], [0.4]]), points, 2)
    assert places.tolist() == [[2, 1], [0, 1]]
    torch.testing.assert_close(distances, torch.tensor([[1.0, 3.0], [0.4, 0.6]]).double())


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="neighbour 5.* at least 12 samples on both sides; there are 11 and 50"):
        neighbourhoods(normal(11, 2), normal(50, 2), 5)
    with pytest.raises(ValueError, match="Features of 2 and 3 dimensions"):
        neighbourhoods(normal(50, 2), normal(50, 3), 5)
