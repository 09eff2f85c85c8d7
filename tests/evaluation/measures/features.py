"""Features for the tests of measures."""

import torch


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def share_covered(estimates, truth, deviations=1.96):
    """How often the figure and so many of its standard errors hold the truth."""
    return sum(abs(each.value - truth) <= deviations * each.standard_error for each in estimates) / len(estimates)
