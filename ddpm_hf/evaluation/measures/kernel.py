"""The kernel distance of features (KID): the squared maximum mean discrepancy, without bias."""

import torch

from ddpm_hf.evaluation.distances import check_dimensions
from ddpm_hf.evaluation.measures.estimates import jackknife

# Rows of the matrix of kernel values that are in memory at a time.
ROWS = 1000


def kernel_distance(samples, reference):
    """The kernel Inception distance of Binkowski et al. (2018), eq. 4, for features x of samples and y of a reference.

        KID = mean over i != j of k(x_i, x_j) + mean over i != j of k(y_i, y_j) - 2 mean over i, j of k(x_i, y_j)
        k(x, y) = (x . y / D + 1)^3

    All samples are used, where the paper takes the mean over random subsets of 1,000; the mean of the two is the same.
    It is without bias, and so may be negative. The error is the jackknife's that leaves out one sample at a time
    (Arvesen 1969), which a sum over rows gives; it is too large by a factor of up to sqrt(2) near a distance of 0.

    Args:
        samples, reference (`torch.Tensor`): features (N, D) and (M, D).

    Returns:
        [`Estimate`], with a bias of None.
    """
    _check(samples, reference)
    x, y = samples.double(), reference.double()
    within_x, within_y = _row_sums(x, x) - _diagonal(x), _row_sums(y, y) - _diagonal(y)
    from_x, from_y = _row_sums(x, y), _row_sums(y, x)
    mean_x, mean_y, cross = _mean_of_pairs(within_x), _mean_of_pairs(within_y), from_x.mean() / len(y)
    without_x = _means_of_pairs_without(within_x) + mean_y - 2 * _means_without(from_x) / len(y)
    without_y = mean_x + _means_of_pairs_without(within_y) - 2 * _means_without(from_y) / len(x)
    value = (mean_x + mean_y - 2 * cross).item()
    return jackknife(value, without_x, without_y)._replace(bias=None)


def _row_sums(x, y):
    """The sums over j of k(x_i, y_j), (N,)."""
    return torch.cat([((rows @ y.T) / x.shape[1] + 1).pow(3).sum(1) for rows in x.split(ROWS)])


def _diagonal(x):
    return (x.square().sum(1) / x.shape[1] + 1).pow(3)


def _mean_of_pairs(sums):
    """The mean of k over ordered pairs of different samples, from the sums over the others, (N,)."""
    return sums.sum() / (len(sums) * (len(sums) - 1))


def _means_of_pairs_without(sums):
    """The means of k over ordered pairs that do not contain sample i, (N,)."""
    count = len(sums) - 1
    return (sums.sum() - 2 * sums) / (count * (count - 1))


def _means_without(sums):
    return (sums.sum() - sums) / (len(sums) - 1)


def _check(samples, reference):
    if min(len(samples), len(reference)) < 3:
        raise ValueError(
            f"A kernel distance and its error need at least 3 samples on both sides; there are {len(samples)} and "
            f"{len(reference)}."
        )
    check_dimensions(samples.shape[1], reference.shape[1])
