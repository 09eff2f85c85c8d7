"""Planning of the timesteps to visit in K steps: the cheapest path by dynamic programming on the transitions' costs."""

import numpy as np

from ddpm_hf.schedulers.timestep_spacings import cheapest_path


def plan_timesteps(cost, num_steps):
    """The K noisy nodes of the cheapest path of K transitions from noise to data (Watson et al. 2021).

    The result is exact; among equal paths it takes the lower nodes. Node 0 is clean data, sampling begins at the last
    node, and `candidates[node - 1]` is the timestep of a node.

    Args:
        cost (`np.ndarray`): either (N, N), cost[s, t] of the transition t -> s; or (N, N, N) for costs that depend on
            the transition before, cost[s, t, r] of t -> s after r -> t, and cost[s, t, t], t = N - 1, of t -> s as the
            first transition. It is read where s < t < r; infinity forbids a transition.
        num_steps (`int`): K, 1 .. N - 1.

    Returns:
        `np.ndarray`: (K,), ascending; the last is N - 1.

    Raises:
        ValueError: for costs that are not numbers, a K out of range, and where no path of finite cost exists.
    """
    cost = np.asarray(cost, dtype=np.float64)
    _check_shape(cost, num_steps)
    cost = _only_what_is_read(cost)
    if np.isnan(cost).any():
        raise ValueError("Some costs are NaN: was the network's output finite?")
    path = (_cheapest_path_with_memory if cost.ndim == 3 else cheapest_path)(cost, num_steps)
    if not np.isfinite(path_cost(cost, path[1:])):
        raise ValueError(f"No path of num_steps={num_steps} has a finite cost: every one has a forbidden transition.")
    return path[1:]


def path_cost(cost, nodes):
    """The sum of the costs along what `plan_timesteps` returns, or any ascending nodes that end at N - 1."""
    s, t, r = [0, *nodes[:-1]], list(nodes), [*nodes[1:], nodes[-1]]
    return cost[s, t].sum() if cost.ndim == 2 else cost[s, t, r].sum()


def _cheapest_path_with_memory(cost, transitions):
    """The path of `cheapest_path` for costs (N, N, N), in O(m N^3).

    best[t, r] is the least cost from t down to data after the transition r -> t.
    """
    nodes = len(cost)
    best, choices = cost[0], []
    for _ in range(transitions - 1):
        total = best[:, :, None] + cost
        choices.append(total.argmin(axis=0))
        best = np.take_along_axis(total, choices[-1][None], axis=0)[0]
    path = [nodes - 1, nodes - 1]  # the path begins with its own first node in place of the one before
    for choice in reversed(choices):
        path.append(choice[path[-1], path[-2]])
    return np.array([0, *path[:0:-1]])


def _only_what_is_read(cost):
    """The costs, infinite where there is no transition."""
    nodes = len(cost)
    if cost.ndim == 2:
        return np.where(np.triu(np.ones((nodes, nodes), dtype=bool), k=1), cost, np.inf)
    s, t, r = np.ogrid[:nodes, :nodes, :nodes]
    return np.where((s < t) & ((t < r) | ((t == r) & (r == nodes - 1))), cost, np.inf)


def _check_shape(cost, num_steps):
    nodes = len(cost) if cost.ndim else 0
    if cost.shape not in ((nodes, nodes), (nodes, nodes, nodes)) or nodes < 2:
        raise ValueError(f"The cost has shape {cost.shape}; it must be (N, N) or (N, N, N) with N of at least 2.")
    if not 1 <= num_steps <= nodes - 1:
        raise ValueError(
            f"num_steps={num_steps} must be in 1 .. {nodes - 1}, the number of candidate timesteps; give more candidates."
        )
