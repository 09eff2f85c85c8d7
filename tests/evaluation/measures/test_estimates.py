"""The jackknives against closed forms: for a mean they give the usual standard error."""

import math

import pytest
import torch
from features import normal

from ddpm_hf.evaluation.measures.estimates import half_jackknife, jackknife, random_groups, random_halves


def test_without_single_values_the_error_of_a_mean_is_the_usual_one():
    values = normal(50)
    without = (values.sum() - values) / 49
    estimate = jackknife(values.mean().item(), without)
    assert estimate.standard_error == pytest.approx((values.std() / math.sqrt(50)).item(), rel=1e-9)
    assert estimate.bias == pytest.approx(0, abs=1e-12)


def test_the_bias_of_a_variance_with_the_wrong_divisor():
    """The divisor N makes a variance too small by its N-th part: the jackknife finds exactly that."""
    values = normal(30)
    without = [values[torch.arange(30) != i].var(correction=0) for i in range(30)]
    estimate = jackknife(values.var(correction=0).item(), without)
    assert estimate.value - estimate.bias == pytest.approx(values.var().item(), rel=1e-9)


def test_variances_of_independent_sets_add_up():
    a, b = normal(40), normal(60, seed=1)
    both = jackknife(0.0, (a.sum() - a) / 39, (b.sum() - b) / 59)
    assert both.standard_error**2 == pytest.approx((a.var() / 40 + b.var() / 60).item(), rel=1e-9)


def test_random_halves_give_the_error_of_a_mean():
    values = normal(200)
    of_halves = [values[half].mean().item() for half in random_halves(200, seed=0, halves=4000)]
    error = half_jackknife(values.mean().item(), of_halves).standard_error
    assert error == pytest.approx((values.std() / math.sqrt(200)).item(), rel=0.05)


def test_groups_and_halves_are_those_of_all_processes():
    groups = random_groups(43)
    assert sorted(torch.cat(groups).tolist()) == list(range(43))
    assert {len(group) for group in groups} == {2, 3} and len(groups) == 20
    assert torch.equal(groups[3], random_groups(43)[3])
    halves = random_halves(11, seed=1)
    assert halves.shape == (20, 11) and (halves.sum(1) == 5).all()
    assert torch.equal(halves, random_halves(11, seed=1)) and not torch.equal(halves, random_halves(11, seed=2))


def test_too_few_for_an_error():
    with pytest.raises(ValueError, match="at least 40 samples; there are 39"):
        random_groups(39)
