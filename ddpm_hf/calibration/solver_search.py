"""The timesteps of a solver with fitted rows: the best of several spacings, then single timesteps moved.

Each candidate has its rows fitted anew, and is judged by the distance of where its paths end to where the fine paths
from the same noise end. A solver may also begin by the flow of the data's moments (`DataMoments`), without a network
call.
"""

import itertools
from typing import NamedTuple

import numpy as np

from ddpm_hf.calibration.fine_paths import level_of, nearest_timesteps
from ddpm_hf.calibration.solver_rows import State, fitted_states
from ddpm_hf.schedulers.timestep_spacings import spaced_timesteps

SPACINGS = ("trailing", "linspace", "quadratic", "logsnr", "karras")
# Solvers of more calls matter less where their timesteps are: the first of the spacings, and no moves, serve them.
MANY_CALLS, SPACINGS_OF_MANY = 12, 2
# Where the flow of the data's moments may end at first, as shares of the chain; moves take it elsewhere.
FREE_BEGINNINGS = (0.85, 0.7)
# The moves of single timesteps, by so many of the fine paths' timesteps, for solvers of at most so many calls.
MOVES = {4: (8, 4, 2, 1), 6: (8, 4, 2), 8: (4, 2), MANY_CALLS: (3,)}


class Candidate(NamedTuple):
    """A solver on its way: its timesteps, the states after each of them, and the distance of its paths' ends."""

    free: bool
    timesteps: list[int]
    states: list[State]
    distance: float

    @property
    def rows(self):
        return self.states[-1].rows


class SolverSearch:
    """Solvers for one model and its fine paths.

    Args:
        model ([`ModelOfPaths`]): the network.
        noise (`torch.Tensor`): (N, C, *), where the paths begin, on the host.
        paths ([`Paths`]): from this noise.
        distance (`Callable`): of two batches of samples, a float.
        moments ([`DataMoments`], *optional*): of the data, for a free first call.
    """

    def __init__(self, model, noise, paths, distance, moments=None):
        self.model, self.noise, self.paths, self.distance, self.moments = model, noise, paths, distance, moments
        self.fine, self.levels = [*paths.x], model.chain.alpha_bar(range(len(model.chain))).numpy()

    def best(self, count, like=None):
        """The best [`Candidate`] for a number of calls.

        Args:
            like (`dict`, *optional*): a solver for another number, whose timesteps, stretched, are tried too.
        """
        begun = [self.fitted(free, timesteps) for free, timesteps in self.beginnings(count, like)]
        best = min(begun, key=lambda c: c.distance)
        for size in moves_for(count):
            for place in range(0 if best.free else 1, count):
                for step in (-size, size):
                    moved = self._moved(best, place, step)
                    if moved is not None and moved.distance < best.distance:
                        best = moved
        return best

    def beginnings(self, count, like=None):
        """(free, timesteps) of the candidates that the search begins with."""
        found = [(False, spaced_timesteps(s, count, self.levels).tolist()) for s in spacings_for(count)]
        found.append((False, self._even_in_root_of_sigma(count, len(self.levels) - 1)))
        if self.moments is not None:
            for share in FREE_BEGINNINGS[: 1 if count > MANY_CALLS else None]:
                first = int(share * (len(self.levels) - 1))
                even = np.linspace(first, 0, count, endpoint=False).round().astype(int).tolist()
                found += [(True, even), (True, self._even_in_root_of_sigma(count, first))]
        if like is not None:
            found.append((like.get("free_first_call", False), stretched(like["timesteps"], count)))
        near = [(free, nearest_timesteps(self.fine, timesteps)) for free, timesteps in found]
        # A run without a free first call begins where all noise is.
        return [(free, timesteps if free else [self.fine[0], *timesteps[1:]]) for free, timesteps in near]

    def fitted(self, free, timesteps, after=()):
        """The candidate with these timesteps, whose first states, `after`, are known."""
        start = after[-1] if after else self._start(free, timesteps[0])
        rest = timesteps[len(after) :]
        states = [*after, *fitted_states(self.model, self.paths, rest, start, self.moments)]
        return Candidate(free, timesteps, states, self.distance(states[-1].x, self.paths.end))

    def rows_from(self, timesteps):
        """The rows of runs that begin on the fine paths, at the first of these timesteps; lists."""
        states = fitted_states(self.model, self.paths, timesteps, State(self.paths.x[timesteps[0]]), self.moments)
        return [list(row) for row in states[-1].rows]

    def _start(self, free, first):
        if not free:
            return State(self.noise)
        noisy, here = (level_of(self.model.chain, t) for t in (len(self.levels) - 1, first))
        return State(self.moments.flow(self.noise, *noisy, *here), (self.moments.predicted_x0(self.noise, *noisy),))

    def _moved(self, candidate, place, step):
        """The candidate with one timestep moved along the fine ones; None where another is in the way."""
        places = [self.fine.index(t) for t in candidate.timesteps]
        places[place] += step
        bounds = [-1, *places, len(self.fine)]
        if not all(a < b for a, b in itertools.pairwise(bounds)):
            return None
        timesteps = [self.fine[i] for i in places]
        # The step before it arrives elsewhere, so its row is another too.
        return self.fitted(candidate.free, timesteps, tuple(candidate.states[: max(place - 1, 0)]))

    def _even_in_root_of_sigma(self, count, first):
        """From `first` down to clean data, even in the cube root of sigma_t / a_t."""
        roots = ((1 - self.levels) / self.levels) ** (1 / 6)
        wanted = np.linspace(roots[first], 0, count, endpoint=False)
        return [int(np.abs(roots - root).argmin()) for root in wanted]


def stretched(timesteps, count):
    """Places `count` timesteps as these are placed on the way from the first of them to clean data."""
    places = np.linspace(0, len(timesteps), count, endpoint=False)
    return np.interp(places, np.arange(len(timesteps) + 1), [*timesteps, 0]).round().astype(int).tolist()


def moves_for(count):
    """The sizes of the moves for a number of calls; none for many, whose timesteps matter little."""
    return next((sizes for most, sizes in MOVES.items() if count <= most), ())


def spacings_for(count):
    return SPACINGS[: SPACINGS_OF_MANY if count > MANY_CALLS else None]


def calls_of_search(count, free):
    """The most network calls that the search for so many takes, for each path."""
    of_moments = 0 if not free else 2 if count > MANY_CALLS else 2 * len(FREE_BEGINNINGS)
    beginnings = len(spacings_for(count)) + 2 + of_moments
    return beginnings * count + 2 * len(moves_for(count)) * (count * (count + 1) // 2 + count)
