"""Solvers fitted to a model, in the form of a config: timesteps and rows for each number of steps, and data moments.

A row holds the coefficients of x_t and of all x0_hat so far, the last one included. Where the data's moments are
known, its second coefficient is of where a Gaussian with these moments would flow from x_t (`DataMoments`). A solver
with `free_first_call` begins from x_T by that flow alone, without a network call: its first timestep is where the flow
ends, and the x0_hat of the Gaussian at x_T comes first among those of its rows. `rows_from` has the rows of runs that
begin at a later one of the timesteps, as image to image does: `{"3": [..]}` those of a run from the fourth on.
"""

import itertools
import math
import zlib
from functools import cache

import numpy as np
import torch
from diffusers.utils import logging

from ddpm_hf.schedulers.data_moments import moments_from_config
from ddpm_hf.schedulers.timestep_spacings import checked_timesteps

logger = logging.get_logger(__name__)


def checked_solvers(solvers, config, alphas_bar):
    """`fitted_solvers` of a config as JSON has it, each of its solvers checked.

    Args:
        solvers (`dict`): `{"fitted_for": {..}, "solvers": {"5": {"timesteps": [..], "rows": [..]}, ..}}`, and
            `"moments"` if the solvers were fitted with data; then some have `"free_first_call": true`.
        config: of the scheduler, which the rows must have been fitted for.
        alphas_bar (`np.ndarray`): (T,).

    Raises:
        ValueError: for rows of the wrong length or that are not finite, for rows that were fitted for another process,
            prediction or clipping, and for moments that are missing or damaged.
    """
    fitted_for, now = solvers["fitted_for"], described_for_fit(config, alphas_bar)
    for name, value in now.items():
        if fitted_for.get(name) != value:
            raise ValueError(
                f"fitted_solvers were fitted for {name}={fitted_for.get(name)!r}, and this config has {value!r}: "
                "leave them out (fitted_solvers=None), or fit them again by ddpm_hf.calibration.fit_solver."
            )
    of_moments = solvers.get("moments") is not None
    if of_moments:
        moments_from_config(solvers["moments"])
    for count, solver in solvers["solvers"].items():
        _check_solver(count, solver, len(alphas_bar), of_moments)
    return solvers


def _check_solver(count, solver, num_train_timesteps, of_moments):
    timesteps, rows = checked_timesteps(solver["timesteps"], num_train_timesteps), solver["rows"]
    if solver.get("free_first_call") and not of_moments:
        raise ValueError(f"fitted_solvers[{count!r}] has a free_first_call and no data moments: fit it again.")
    shortest = 2 + of_moments + bool(solver.get("free_first_call"))
    _check_rows(f"fitted_solvers[{count!r}]", timesteps, rows, int(count), shortest)
    for first, of_rest in solver.get("rows_from", {}).items():
        name, rest = f"fitted_solvers[{count!r}]['rows_from'][{first!r}]", timesteps[int(first) :]
        _check_rows(name, rest, of_rest, int(count) - int(first), 2 + of_moments)


def _check_rows(name, timesteps, rows, number, shortest):
    """Raises ValueError unless there are `number` timesteps and finite rows, each by one longer than the last."""
    lengths = [len(row) for row in rows]
    if len(timesteps) != number or lengths != list(range(shortest, shortest + number)):
        raise ValueError(
            f"{name} has {len(timesteps)} timesteps and rows of lengths {lengths}; it needs {number} timesteps and "
            f"rows of lengths {shortest} .. {number + shortest - 1}."
        )
    if not all(math.isfinite(value) for row in rows for value in row):
        raise ValueError(f"{name} has a row that is not finite: fit it again.")


def described_for_fit(config, alphas_bar):
    """What the rows of a solver depend on, besides the network and its guidance."""
    keys = ("prediction_type", "clip_sample", "clip_sample_range", "thresholding")
    return {key: config[key] for key in keys} | {"alphas_bar_crc32": zlib.crc32(np.round(alphas_bar, 9).tobytes())}


def solver_for(solvers, count, levels):
    """The [`FittedSolver`] for a number of steps; None, with a note, where there is none.

    Args:
        solvers (`dict`): of the config.
        levels ([`NoiseLevels`]): of the scheduler.
    """
    solver = solvers["solvers"].get(str(count))
    if solver is None:
        _say_what_is_there(count, ", ".join(solvers["solvers"]))
        return None
    moments = None if solvers.get("moments") is None else moments_from_config(solvers["moments"])
    return FittedSolver(solver, levels, moments)


@cache
def _say_what_is_there(count, counts):
    steps = "all steps" if count is None else f"{count} steps"
    logger.warning(
        f"No solver was fitted for {steps}, only for {counts}: timestep_spacing and solver_order of the config are "
        "used."
    )


class FittedSolver:
    """The rows of one trajectory, and its free beginning where it has one.

    Args:
        solver (`dict`): `timesteps`, `rows`, `rows_from` and `free_first_call`, as a config has them.
        levels ([`NoiseLevels`]): of the scheduler.
        moments ([`DataMoments`], *optional*): of the data, if the solver was fitted with data.
    """

    def __init__(self, solver, levels, moments=None):
        self.timesteps, self.moments = solver["timesteps"], moments
        begun = {0: solver["rows"]} | {int(first): rows for first, rows in solver.get("rows_from", {}).items()}
        # The length of a row says how many x0_hat there were before, and so where the run began.
        self._rows = {
            (t, len(row)): row
            for first, rows in begun.items()
            for t, row in zip(self.timesteps[first:], rows, strict=True)
        }
        self.free_first_call = bool(solver.get("free_first_call"))
        self._noise = levels.pair(len(levels) - 1)
        pairs = [levels.pair(t) for t in (*self.timesteps, -1)]
        self._steps = dict(zip(self.timesteps, itertools.pairwise(pairs), strict=False))

    def on_host(self, timestep):
        """A timestep as an int, for which the host waits: rows are chosen there, few times in a run."""
        return int(timestep) if isinstance(timestep, torch.Tensor) and timestep.ndim == 0 else timestep

    def row(self, timestep, known):
        """The row of a step after `known` earlier x0_hat; None where there is none for a run that began there."""
        return (
            self._rows.get((timestep, known + 2 + (self.moments is not None))) if isinstance(timestep, int) else None
        )

    def terms(self, x_t, timestep):
        """What the first coefficients of a row are of: x_t, and where the Gaussian of the moments flows from it."""
        if self.moments is None:
            return [x_t]
        self._check_shape(x_t)
        here, there = self._steps[timestep]
        return [x_t, self.moments.flow(x_t, *here, *there)]

    def begins_at(self, timestep):
        """Whether a step from `timestep` is given x_T, by a solver with a free first call."""
        return self.free_first_call and isinstance(timestep, int) and timestep == self.timesteps[0]

    def begun(self, x_T):
        """x_t at the first timestep, by the flow of the data's moments from x_T."""
        self._check_shape(x_T)
        return self.moments.flow(x_T, *self._noise, *self._steps[self.timesteps[0]][0])

    def arrived(self, sample, timestep, eta, history):
        """x_t of a step that is given `sample`, which is x_T where a solver with a free first call begins.

        There x0_hat of the data's moments at x_T becomes the first step of the history.

        Raises:
            ValueError: for eta above 0.
        """
        if eta != 0:
            raise ValueError(
                f"The solver for {len(self.timesteps)} steps was fitted to the flow, at eta=0, and this step has "
                f"eta={eta}: take another number of steps, or a scheduler with fitted_solvers=None (on the "
                "command line: --recipe ddim-2m)."
            )
        if not self.begins_at(timestep):
            return sample
        begun = self.begun(sample)
        history.begin(self.moments.predicted_x0(sample, *self._noise), timestep)
        return begun

    def _check_shape(self, samples):
        if samples.shape[1:] != self.moments.mean.shape:
            raise ValueError(
                f"The solver for {len(self.timesteps)} steps has moments of data of shape "
                f"{tuple(self.moments.mean.shape)}, and these samples are of {tuple(samples.shape[1:])}: take another "
                "number of steps, or a scheduler with fitted_solvers=None (on the command line: --recipe ddim-2m)."
            )
