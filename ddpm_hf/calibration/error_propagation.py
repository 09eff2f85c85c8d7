"""What becomes of an error made on the way: an early one decides what is drawn, a late one is a little noise on it."""

import numpy as np
import torch
from tqdm.auto import tqdm

from ddpm_hf.calibration.transition_costs import CLEAN_NODE, DETERMINISTIC, chain_of, starting_noise
from ddpm_hf.evaluation.discrete_chains import evaluating
from ddpm_hf.evaluation.image_labels import check_labels, labels_of
from ddpm_hf.evaluation.variational_bound import CLEAN
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline

# Errors are set off at this many places, by one step from each to the next: those of a path of as many steps.
NUM_PROBES = 10


@torch.no_grad()
def error_growth(unet, scheduler, candidates, num_paths=24, class_labels=None, seed=0, progress_bar=True):
    """How many times larger an error at each candidate is when the model's flow has carried it to the data.

    From paths of the probability flow, followed through all candidates in first order, single long steps are taken to
    `NUM_PROBES` of the candidates, and where they end the flow is followed too. The growth is the root of the mean
    square, over paths and dimensions, of the distance between the two in the data, over that where the long step ended;
    between the probes its logarithm is interpolated over the candidates. For normal data of variance v it is
    sqrt(v / (abar_s v + 1 - abar_s)).

    Args:
        unet, scheduler, candidates: as for `local_errors`.
        num_paths (`int`): the number of paths; they and those that leave them are one batch, of up to 11 times as many.
        class_labels: for a class-conditional model: one for all, or one for each path.
        seed (`int`): of the noise that the paths begin in.
        progress_bar (`bool`): show one, counted in timesteps.

    Returns:
        `np.ndarray`: (M + 1,), by node as in `plan_timesteps`: 1 for clean data, and for the last the value before it.
    """
    chain, candidates = chain_of(unet, scheduler, candidates, "be planned for", solver_order=1, **DETERMINISTIC)
    check_labels(class_labels, num_paths)
    pipeline = GaussianDiffusionPipeline(unet, chain)
    nodes = [CLEAN, *candidates]
    stride = max(2, len(candidates) // NUM_PROBES)  # a step to the next candidate is the path itself
    probes = range(len(candidates) - stride, CLEAN_NODE, -stride)
    x_t = starting_noise(unet, seed, 0, num_paths)  # the paths, and behind them what has left them at each probe
    labels = pipeline.encode_labels(labels_of(class_labels, 0, num_paths), 1.0, num_paths, x_t.device)
    ends_at, sizes = {}, []
    with evaluating(unet):
        for node in tqdm(range(len(candidates), 0, -1), desc="errors", unit="timestep", disable=not progress_bar):
            output = _predict(pipeline, x_t, nodes[node], labels)
            if node - stride in probes:
                ends_at[node - stride] = _move(chain, output, nodes, node, x_t, node - stride)[:num_paths]
            x_t = _move(chain, output, nodes, node, x_t, node - 1)
            if node - 1 in ends_at:
                x_t = torch.cat([x_t, ends_at.pop(node - 1)])
                sizes.append(_distances(x_t, num_paths)[-1])
    growth = np.log(_distances(x_t, num_paths) / sizes)
    return np.exp(np.interp(range(len(nodes)), [CLEAN_NODE, *probes[::-1]], [0, *growth[::-1]]))


def mean_square_in_the_data(errors, growth):
    """What each step of `local_errors` adds to the mean square error of the samples, as a cost for `plan_timesteps`.

    Errors of different steps count as independent, so that their squares add up; and many equal steps are better than
    as large a sum of unequal ones.
    """
    return (growth.reshape(-1, *[1] * (errors.ndim - 1)) * errors) ** 2


def _predict(pipeline, x_t, t, labels):
    labels = None if labels is None else labels.repeat(len(x_t) // len(labels))
    return pipeline.predict(x_t, t, torch.tensor(t, device=x_t.device), labels)[:, : x_t.shape[1]]


def _move(chain, output, nodes, node, x_t, to):
    return chain.p_mean_variance(output, nodes[node], x_t, prev_timestep=nodes[to]).mean


def _distances(x_t, num_paths):
    """Of what left the paths from them, for each probe: the root of the mean square."""
    paths, *others = x_t.double().split(num_paths)
    return np.array([(other - paths).square().mean().sqrt().item() for other in others])
