"""Distances against closed forms of normal distributions and of shifted and scaled points."""

import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import energy_distance, kstest, wasserstein_distance

from ddpm_hf.evaluation.distances import (
    FeatureStatistics,
    energy_test,
    frechet_distance,
    mean_and_spread,
    sliced_wasserstein,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded():
    return torch.Generator().manual_seed(7)


# Sliced Wasserstein --------------------------------------------------------------------------------------------------


def test_on_a_line_it_is_exact():
    a, b = normal(50, 1), normal(50, 1, seed=1) * 2 + 1
    expected = (a.sort(0).values - b.sort(0).values).square().mean().sqrt().item()
    assert sliced_wasserstein(a, b, 3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n, m", [(1, 5), (7, 5), (20, 30), (12, 12)])
def test_clouds_of_different_sizes_are_distributions(n, m):
    """Points repeated to a common size are the same distributions; W_1 and W_2 agree between points of one shift."""
    a, b = normal(n, 2), normal(m, 2, seed=1)
    repeated = sliced_wasserstein(a.repeat_interleave(m, 0), b.repeat_interleave(n, 0), 20, seeded())
    assert sliced_wasserstein(a, b, 20, seeded()) == pytest.approx(repeated, rel=1e-12)
    line_a, line_b = normal(n, 1), normal(m, 1, seed=1) + 100  # b above a: W_1 is the difference of the means
    w1 = wasserstein_distance(line_a[:, 0], line_b[:, 0])
    assert sliced_wasserstein(line_a, line_b, 1) >= w1 * (1 - 1e-12)


@pytest.mark.parametrize("dimensions", [2, 5])
def test_of_a_shift(dimensions):
    """The mean over directions of (u . v)^2 is |v|^2 / d."""
    a, shift = normal(40, dimensions), torch.arange(1.0, dimensions + 1)
    distance = sliced_wasserstein(a, a + shift, 100_000, seeded())
    assert distance == pytest.approx((shift.norm() / dimensions**0.5).item(), rel=0.01)


def test_of_a_scale():
    """Each projection is scaled alike: |k - 1| times the root mean square of the projections, |x|^2 / d on average."""
    a = normal(40, 3)
    expected = 1.5 * (a.square().sum(1).mean() / 3).sqrt().item()
    assert sliced_wasserstein(a, 2.5 * a, 100_000, seeded()) == pytest.approx(expected, rel=0.01)


def test_of_normal_distributions():
    a, b = normal(100_000, 2), 3 * normal(100_000, 2, seed=1)
    assert sliced_wasserstein(a, b, 50, seeded()) == pytest.approx(2, rel=0.01)


def test_it_is_a_distance():
    a, b, c = normal(30, 2), normal(30, 2, seed=1) + 1, normal(30, 2, seed=2) * 3
    ab, ba, bc, ac = (sliced_wasserstein(*pair, 50, seeded()) for pair in ((a, b), (b, a), (b, c), (a, c)))
    assert sliced_wasserstein(a, a[torch.randperm(30)], 50, seeded()) == pytest.approx(0, abs=1e-9)
    assert ab == pytest.approx(ba, rel=1e-12) and ac <= ab + bc


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3, 4\) must be"):
        sliced_wasserstein(torch.zeros(3, 2), torch.zeros(3, 4))


# Frechet distance ----------------------------------------------------------------------------------------------------


def with_moments(mean, covariance, count=50):
    """Features whose sample mean and covariance are exactly these."""
    x = normal(count, len(mean))
    x = x - x.mean(0)
    whitening = torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (count - 1)))
    return x @ whitening.T @ torch.linalg.cholesky(covariance).T + mean


def covariance(dimensions, seed):
    a = normal(dimensions, dimensions, seed=seed)
    return a @ a.T + 0.1 * torch.eye(dimensions, dtype=torch.float64)


def test_of_commuting_covariances():
    """|m_a - m_b|^2 + sum (sqrt(a) - sqrt(b))^2, a and b the variances along the common axes."""
    axes = torch.linalg.qr(normal(4, 4)).Q
    a, b = torch.tensor([1.0, 4, 9, 0.25]).double(), torch.tensor([4.0, 1, 9, 1]).double()
    mean = torch.tensor([1.0, 0, -2, 3]).double()
    x, y = (with_moments(m, axes * v @ axes.T) for m, v in ((mean, a), (0 * mean, b)))
    assert frechet_distance(x, y) == pytest.approx(14 + (1 + 1 + 0 + 0.25), rel=1e-9)


def test_against_the_matrix_square_root_of_scipy():
    a, b, mean = covariance(6, 1), covariance(6, 2), normal(6)
    expected = mean.square().sum() + (a + b).trace() - 2 * sqrtm((a @ b).numpy()).real.trace()
    x, y = with_moments(0 * mean, a), with_moments(mean, b)
    assert frechet_distance(x, y) == pytest.approx(expected.item(), rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(expected.item(), rel=1e-9)


def test_of_itself_and_with_fewer_samples_than_dimensions():
    x = normal(10, 64)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, x + 0.5) == pytest.approx(16, rel=1e-6)


def test_against_torch_fidelity():
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    statistics = [
        {"mu": x.mean(0).numpy(), "sigma": x.T.cov().numpy()} for x in (normal(99, 8), normal(99, 8, seed=1))
    ]
    expected = metric.fid_statistics_to_metric(*statistics, verbose=False)[metric.KEY_METRIC_FID]
    assert frechet_distance(normal(99, 8), normal(99, 8, seed=1)) == pytest.approx(expected, rel=1e-6)


def test_batches_do_not_matter():
    x = normal(100, 5) * 1e-3 + 1e3  # a mean that would swallow half of the digits of sums of squares
    whole, parts = FeatureStatistics(x), FeatureStatistics()
    for batch in x.split([1, 30, 69]):
        parts.update(batch)
    torch.testing.assert_close(parts.mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(parts.covariance, x.T.cov(), rtol=1e-6, atol=1e-15)
    torch.testing.assert_close(whole.covariance, x.T.cov(), rtol=1e-6, atol=1e-15)
    assert parts.count == 100
    assert FeatureStatistics(normal(4, 2).half()).mean.dtype == torch.float64


def test_what_has_no_distance():
    with pytest.raises(ValueError, match="2 samples; there are 1"):
        frechet_distance(normal(1, 3), normal(5, 3))
    with pytest.raises(ValueError, match="Features of 3 and 4 dimensions"):
        frechet_distance(normal(5, 3), normal(5, 4))
    with pytest.raises(ValueError, match="not finite"):
        FeatureStatistics(normal(5, 3) / 0)


def test_mean_and_spread():
    assert mean_and_spread([2.0, 4.0]) == (3.0, pytest.approx(2**0.5))
    assert mean_and_spread([2.0]) == (2.0, None)


# The energy test -----------------------------------------------------------------------------------------------------


def test_the_energy_distance_on_a_line():
    """scipy's is the root of it, from the distribution functions."""
    a, b = normal(30, 1), normal(50, 1, seed=1) * 2 + 1
    assert energy_test(a, b, 1)[0] == pytest.approx(energy_distance(a[:, 0], b[:, 0]) ** 2, rel=1e-10)


def test_the_energy_distance_by_its_definition():
    a, b = normal(7, 3), normal(5, 3, seed=1)
    expected = 2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()
    assert energy_test(a, b, 1)[0] == pytest.approx(expected.item(), rel=1e-12)
    assert energy_test(a, a, 1)[0] == pytest.approx(0, abs=1e-12)


def test_p_is_uniform_where_the_distributions_are_the_same():
    """So p <= 0.01 has a probability of 0.01, also for clouds of different sizes that are far from normal."""
    generator = seeded()
    draws = [torch.rand(n, 2, generator=generator) ** 4 for n in (40, 25) * 200]
    p = [energy_test(a, b, 199, generator)[1] for a, b in zip(draws[::2], draws[1::2], strict=True)]
    assert kstest(p, "uniform").pvalue > 0.01
    assert min(p) >= 1 / 200


@pytest.mark.parametrize("other", [lambda x: x + 0.4, lambda x: 1.4 * x, lambda x: x.sign() * x.abs() ** 2])
def test_p_is_small_where_they_differ(other):
    distance, p = energy_test(normal(300, 2), other(normal(300, 2, seed=1)), 499, seeded())
    assert p == pytest.approx(1 / 500) and distance > 0


def test_the_energy_test_needs_points_of_one_dimension():
    with pytest.raises(ValueError, match=r"\(5, 2\) and \(5, 3\)"):
        energy_test(torch.zeros(5, 2), torch.zeros(5, 3))
