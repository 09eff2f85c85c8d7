"""How near solvers come to the fine paths of a model from noise that they were not fitted to, beside diffusers' solvers."""

import torch

from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.samplers import FITTED, check_calls, make_sampler, pipeline_with
from ddpm_hf.reports.text_tables import aligned

COMPARED = ("ddim@trailing", "dpmpp-2m@trailing", "dpmpp-2m-karras", "unipc@trailing")
# More paths than these, or than a fourth of those fitted to, would take more network calls than the fit itself.
MOST_COMPARED = 24


def samplers_compared(scheduler, steps):
    """{(name, K): scheduler} of diffusers' solvers at each number of steps that they can take."""
    made = {}
    for name in COMPARED:
        for count in steps:
            sampler = make_sampler(name, scheduler)
            try:
                check_calls(name, sampler, count)
            except InputError:
                continue
            made[name, count] = sampler
    return made


@torch.no_grad()
def distances_to_paths(fit, fitted, samplers, update):
    """{name: {"K": distance}} of the fitted solvers and the others, to where fine paths end.

    Args:
        fit ([`SolverFit`]): prepared.
        fitted ([`GaussianDiffusionScheduler`]): what it gave.
        samplers (`dict`): from `samplers_compared`.
        update (`Callable`): is told the network calls for each path of the fit.
    """
    number = _compared_paths(fit)
    noise, end = fit.unseen_paths(number, update)
    found = {}
    for (name, count), sampler in {**{(FITTED, count): fitted for count in fit.steps}, **samplers}.items():
        drawn = fit.sampled(pipeline_with(sampler, fit.unet), noise, count)
        update(count * number / fit.options.num_paths)
        distance = fit.distance(drawn, end)
        # A solver that diverges has no distance: diffusers' bh1 does so at 5 steps.
        found.setdefault(name, {})[str(count)] = distance if torch.tensor(distance).isfinite() else None
    return found


def table_of(distances, steps):
    """The distances as lines of a table, one for each sampler."""
    rows = [["", *map(str, steps)]]
    for name, of_steps in distances.items():
        cells = (of_steps.get(str(count)) for count in steps)
        rows.append([name, *("" if cell is None else f"{cell:.4f}" for cell in cells)])
    return aligned(rows)


def calls_of_comparison(fit, samplers):
    """The network calls of `distances_to_paths`, for each path of the fit."""
    calls = len(fit.fine) + sum(fit.steps) + sum(count for _, count in samplers)
    return calls * _compared_paths(fit) / fit.options.num_paths


def _compared_paths(fit):
    return min(MOST_COMPARED, fit.options.num_paths // 4)
