"""Solvers fitted to a model, in the form of a config: timesteps and rows for each number of steps."""

import math
import zlib
from functools import cache

import numpy as np
from diffusers.utils import logging

from ddpm_hf.schedulers.timestep_spacings import checked_timesteps

logger = logging.get_logger(__name__)


def checked_solvers(solvers, config, alphas_bar):
    """`fitted_solvers` of a config as JSON has it, each of its solvers checked.

    Args:
        solvers (`dict`): `{"fitted_for": {..}, "solvers": {"5": {"timesteps": [..], "rows": [..]}, ..}}`.
        config: of the scheduler, which the rows must have been fitted for.
        alphas_bar (`np.ndarray`): (T,).

    Raises:
        ValueError: for rows of the wrong length or that are not finite, and for rows that were fitted for another
            process, prediction or clipping.
    """
    fitted_for, now = solvers["fitted_for"], described_for_fit(config, alphas_bar)
    for name, value in now.items():
        if fitted_for.get(name) != value:
            raise ValueError(
                f"fitted_solvers were fitted for {name}={fitted_for.get(name)!r}, and this config has {value!r}: "
                "leave them out (fitted_solvers=None), or fit them again by ddpm_hf.calibration.fit_solver."
            )
    for count, solver in solvers["solvers"].items():
        timesteps, rows = checked_timesteps(solver["timesteps"], len(alphas_bar)), solver["rows"]
        if not int(count) == len(timesteps) == len(rows) or any(len(row) != n + 2 for n, row in enumerate(rows)):
            raise ValueError(
                f"fitted_solvers[{count!r}] has {len(timesteps)} timesteps and rows of lengths "
                f"{[len(row) for row in rows]}; it needs {count} timesteps and rows of lengths 2 .. {int(count) + 1}."
            )
        if not all(math.isfinite(value) for row in rows for value in row):
            raise ValueError(f"fitted_solvers[{count!r}] has a row that is not finite: fit it again.")
    return solvers


def described_for_fit(config, alphas_bar):
    """What the rows of a solver depend on, besides the network and its guidance."""
    keys = ("prediction_type", "clip_sample", "clip_sample_range", "thresholding")
    return {key: config[key] for key in keys} | {"alphas_bar_crc32": zlib.crc32(np.round(alphas_bar, 9).tobytes())}


def rows_for(solvers, count):
    """{timestep: row}, descending, of the solver for a number of steps; None, with a note, without one."""
    solver = solvers["solvers"].get(str(count))
    if solver is None:
        _say_what_is_there(count, ", ".join(solvers["solvers"]))
        return None
    return dict(zip(solver["timesteps"], solver["rows"], strict=True))


@cache
def _say_what_is_there(count, counts):
    steps = "all steps" if count is None else f"{count} steps"
    logger.warning(
        f"No solver was fitted for {steps}, only for {counts}: timestep_spacing and solver_order of the config are "
        "used."
    )
