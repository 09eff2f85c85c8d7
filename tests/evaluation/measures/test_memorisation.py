"""The measure of memorisation against its definition, and by repeated draws."""

import pytest
import torch
from features import normal, share_covered

from ddpm_hf.evaluation.measures.memorisation import nearer_than_unseen


def test_by_definition():
    samples, unseen = torch.tensor([0.0, 1.0, 1.0, 5.0]), torch.tensor([1.0, 2.0, 0.5])
    pairs = [(a < b) + 0.5 * (a == b) for a in samples.tolist() for b in unseen.tolist()]
    assert nearer_than_unseen(samples, unseen).value == pytest.approx(sum(pairs) / 12, rel=1e-12)


def test_copies_and_samples_that_are_unlike_the_data():
    unseen = normal(40).abs() + 1
    assert nearer_than_unseen(torch.zeros(30), unseen) == (1, 0, None)
    assert nearer_than_unseen(torch.full((30,), 100.0), unseen) == (0, 0, None)


def test_samples_that_are_like_unseen_images():
    estimates = [nearer_than_unseen(normal(80, seed=seed), normal(60, seed=1000 + seed)) for seed in range(400)]
    assert sum(each.value for each in estimates) / 400 == pytest.approx(0.5, abs=0.01)
    assert 0.9 <= share_covered(estimates, 0.5) <= 0.99
