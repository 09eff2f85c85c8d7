"""The rows of a deterministic solver for given timesteps, fitted to fine paths of the model.

A row is (c, g, b_0, .., b_n) in x_(n+1) = c x_n + g G_n(x_n) + b_0 x0_hat_0 + .. + b_n x0_hat_n. G_n is the flow of
the Gaussian with the data's moments from t_n to t_(n+1), and is left out where these are not known; then DDIM,
DPM-Solver++ and the predictor of UniPC are special rows. Let x*(t) be the fine paths, and x_n the states of the solver
from the same noise. In the order of the steps, each row minimises

    sum |x*(t_(n+1)) - c x_n - g G_n(x_n) - sum_j b_j x0_hat_j|^2 + rho |row - row_0|^2

over paths and dimensions, where row_0 is G_n alone, or DDIM without moments. The row is then scaled so that its result
spreads about its mean over the paths as x*(t_(n+1)) does: least squares alone shrinks contrast, step by step. The
solver moves on by that row, so that later rows correct earlier errors.
"""

from typing import NamedTuple

import torch

from ddpm_hf.calibration.fine_paths import level_of
from ddpm_hf.calibration.spreads import factor_to_spread, spread_of

# The weight of row_0, as a share of the mean of the normal equations' diagonal. The x0_hat of near steps differ little,
# and what is gained by 25 calls is in these differences: 1e-6 makes the error of such solvers ten times as large.
RIDGE = 1e-9


class State(NamedTuple):
    """A solver before a step: x (N, C, *), the x0_hat and the rows so far, all of the same paths."""

    x: torch.Tensor
    x0s: tuple = ()
    rows: tuple = ()


def fitted_states(model, paths, timesteps, start, moments=None):
    """The states after each of the timesteps, by rows fitted to the paths; the last is at the end of the paths.

    Args:
        model ([`ModelOfPaths`]): gives x0_hat.
        moments ([`DataMoments`], *optional*): of the data.
        paths ([`Paths`]): what the rows are fitted to.
        timesteps (`list[int]`): descending, of the paths.
        start ([`State`]): at the first of them.
    """
    states, bound = [], bound_of(model.chain.config)
    for t, s in zip(timesteps, [*timesteps[1:], None], strict=True):
        state = states[-1] if states else start
        x0s = (*state.x0s, model.predicted_x0(state.x, t))
        levels = [level_of(model.chain, t), (1.0, 0.0) if s is None else level_of(model.chain, s)]
        flowed = [] if moments is None else [moments.flow(state.x, *levels[0], *levels[1])]
        terms = [state.x, *flowed, *x0s]
        target, limit = (paths.end, bound) if s is None else (paths.x[s], None)
        towards = row_of_ddim(*levels, len(terms)) if moments is None else row_of_flow(len(terms))
        row = fitted_row(terms, target, towards, limit)
        states.append(State(_weighted(row, terms), x0s, (*state.rows, row.tolist())))
    return states


def fitted_row(terms, target, towards, bound=None):
    """The weights of `terms` that give `target` best, with its spread, (len(terms),), float64.

    Args:
        terms (`list[torch.Tensor]`), target: (N, *), over N paths.
        towards: what the weights are drawn to by the ridge.
        bound (`float`, *optional*): the result will be clamped to [-bound, bound]; its spread is that after clamping.
    """
    matrix = torch.stack([term.flatten() for term in terms]).double()
    normal, right = matrix @ matrix.T, matrix @ target.flatten().double()
    ridge = RIDGE * normal.diagonal().mean()
    row = torch.linalg.solve(normal + ridge * torch.eye(len(terms)), right + ridge * towards)
    result = _weighted(row, terms)
    return row * factor_to_spread(lambda factor: factor * result, spread_of(target), bound)


def row_of_ddim(here, there, terms):
    """(sigma_s / sigma_t, 0, .., 0, a_s - a_t sigma_s / sigma_t), float64, for so many terms.

    Args:
        here, there: (a_t, sigma_t) and (a_s, sigma_s).
    """
    row = torch.zeros(terms, dtype=torch.float64)
    row[0] = there[1] / here[1]
    row[-1] = there[0] - here[0] * row[0]
    return row


def row_of_flow(terms):
    """(0, 1, 0, .., 0), float64, for so many terms: the flow of Gaussian data, whose moments are these."""
    row = torch.zeros(terms, dtype=torch.float64)
    row[1] = 1
    return row


def bound_of(config):
    """Where a pipeline's output is clamped; None for data without a range."""
    return config.clip_sample_range if config.clip_sample else None


def _weighted(row, terms):
    return sum(weight * term for weight, term in zip(row.tolist(), terms, strict=True))
