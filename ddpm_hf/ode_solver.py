"""Ordinary differential equations, solved by torchdiffeq's Runge-Kutta method of order 5 with adaptive steps."""

import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import torch
from tqdm.auto import tqdm

from ddpm_hf.errors import InputError
from ddpm_hf.installation import install_extra

# A flow of an ordinary network takes some hundreds of calls; each step of the solver has six.
MOST_STEPS = 20_000
BAR = "{desc}: {percentage:3.0f}% of time |{bar}| [{elapsed}<{remaining}{postfix}]"


class Solution(NamedTuple):
    """The state at the end of time, a tuple of tensors, and the number of calls of the derivative."""

    state: tuple
    calls: int


@dataclass(frozen=True)
class OdeOptions:
    """How an equation is solved.

    Args:
        rtol, atol (`float`): a step is accepted if the root mean square of error / (atol + rtol |y|) is below 1 for
            each sample.
        on_call (`Callable`, *optional*): called with t, a number, in each call of the derivative.

    Raises:
        InputError: for tolerances that are not above 0.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    on_call: Callable | None = None

    def __post_init__(self):
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if not 0 < value < math.inf:
                raise InputError(f"{name}={value} must be greater than 0 and finite: 1e-5 is usual.")


def solve_ode(derivative, state, start, end, options=OdeOptions()):
    """Follows dy/dt = derivative(t, y) from `start` to `end`, either of which may be the larger.

    The error of a step is that of the embedded fourth-order method of Dormand & Prince (1980). Samples are the rows of
    each tensor of y, and no sample is less exact for the others of its batch.

    Args:
        derivative (`Callable`): gives a tuple of tensors for t, a 0-d float64 tensor, and y, a tuple of tensors.
        state: y at the start, a tuple of tensors of one dtype; float64 is right for tolerances below 1e-6.
        options ([`OdeOptions`]): the tolerances, and what is called at each call.

    Returns:
        [`Solution`]

    Raises:
        InputError: without torchdiffeq.
        ValueError: if the solver does not reach the end, with the time that it came to.
    """
    odeint, low, high = _torchdiffeq(), min(start, end), max(start, end)
    reached = {"calls": 0, "time": start}

    def counted(t, y):
        reached["calls"] += 1
        # The solver looks beyond the end for the length of its first step.
        reached["time"] = t.clamp(low, high).item()
        if options.on_call is not None:
            options.on_call(reached["time"])
        slope = derivative(t.clamp(low, high), y)
        if not all(part.isfinite().all() for part in slope):
            raise ValueError(_stopped("The derivative is not finite", reached, end))
        return slope

    times = torch.tensor([start, end], dtype=torch.float64)
    # Without a step to its end the solver would step beyond it and interpolate.
    stepping = {"max_num_steps": MOST_STEPS, "step_t": times[1:], "norm": _largest_of_samples}
    tolerances = {"rtol": options.rtol, "atol": options.atol}
    try:
        states = odeint(counted, state, times, **tolerances, method="dopri5", options=stepping)
    except AssertionError as error:  # torchdiffeq's way to say that it does not converge
        what = "The solver does not converge"
        raise ValueError(_stopped(what, reached, end, f" ({error}); take larger rtol and atol")) from error
    return Solution(tuple(part[-1] for part in states), reached["calls"])


def _largest_of_samples(state):
    """The largest root mean square of a sample, the rows of each tensor of the state."""
    return max(part.reshape(len(part), -1).square().mean(1).max() for part in state).sqrt()


@contextmanager
def time_bar(description, start, end, disable=False):
    """A context with a progress bar over time; gives the `on_call` of [`OdeOptions`]."""
    with tqdm(total=1.0, desc=description, bar_format=BAR, disable=disable) as bar:
        calls = count(1)

        def on_call(t):
            # A rejected step goes back in time.
            bar.n = max(bar.n, abs(t - start) / abs(end - start))
            bar.set_postfix(calls=next(calls), t=f"{t:.3g}")

        yield on_call


def _stopped(what, reached, end, why=""):
    return f"{what}: it came to t={reached['time']:.6g} of {end:g} in {reached['calls']} calls{why}."


def _torchdiffeq():
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise InputError(
            f"Adaptive solvers of the probability flow need torchdiffeq: {install_extra('ode')}."
        ) from error
    return odeint
