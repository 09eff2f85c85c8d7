"""How an error of one step grows until the data: an early error changes the image, a late one is noise on it."""

import numpy as np
import torch
from tqdm.auto import tqdm

from ddpm_hf.calibration.transition_costs import CLEAN_NODE, DETERMINISTIC, chain_of, starting_noise
from ddpm_hf.evaluation.discrete_chains import evaluating
from ddpm_hf.evaluation.image_labels import check_labels, labels_of
from ddpm_hf.evaluation.variational_bound import CLEAN
from ddpm_hf.pipelines.conditioning import Conditioning
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline

# An error is made at each of this many places by one step to the next place, as in a path of that many steps.
NUM_PROBES = 10


@torch.no_grad()
def error_growth(unet, scheduler, candidates, paths):
    """The factor by which the model's flow enlarges an error at each candidate on the way to the data.

    The paths follow the probability flow through all candidates in first order. Single long steps lead from them to
    `NUM_PROBES` of the candidates, and the flow is followed from the ends of these steps too. The growth is the root
    mean square distance, over paths and dimensions, of the two in the data, divided by their distance where the long
    step ended; between the probes its logarithm is interpolated over the candidates. For normal data of variance v it
    is sqrt(v / (abar_s v + 1 - abar_s)).

    Args:
        unet, scheduler, candidates: as in `local_errors`.
        paths ([`FlowPaths`]): the paths, all in one batch, which grows to 11 times their number.

    Returns:
        `np.ndarray`: (M + 1,), by node as in `plan_timesteps`; clean data have 1, the last node the value before it.
    """
    num_paths = paths.count
    chain, candidates = chain_of(unet, scheduler, candidates, "be planned for", solver_order=1, **DETERMINISTIC)
    check_labels(paths.class_labels, num_paths)
    pipeline = GaussianDiffusionPipeline(unet, chain)
    nodes = [CLEAN, *candidates]
    stride = max(2, len(candidates) // NUM_PROBES)  # a step to the next candidate is the path itself
    probes = range(len(candidates) - stride, CLEAN_NODE, -stride)
    x_t = starting_noise(unet, paths.seed, 0, num_paths)  # the paths, followed by the ends of the long steps
    labels = pipeline.encode_labels(labels_of(paths.class_labels, 0, num_paths), 1.0, num_paths, x_t.device)
    ends_at, sizes = {}, []
    with evaluating(unet):
        for node in tqdm(
            range(len(candidates), 0, -1), desc="errors", unit="timestep", disable=not paths.progress_bar
        ):
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

    Errors of different steps are taken as independent, so that their squares add up.
    """
    return (growth.reshape(-1, *[1] * (errors.ndim - 1)) * errors) ** 2


def _predict(pipeline, x_t, t, labels):
    labels = None if labels is None else labels.repeat(len(x_t) // len(labels))
    output = pipeline.predict(x_t, t, torch.tensor(t, device=x_t.device), Conditioning(labels))
    return output[:, : x_t.shape[1]]


def _move(chain, output, nodes, node, x_t, to):
    return chain.p_mean_variance(output, nodes[node], x_t, prev_timestep=nodes[to]).mean


def _distances(x_t, num_paths):
    """The root mean square distance from the paths to the other trajectories, for each probe."""
    paths, *others = x_t.double().split(num_paths)
    return np.array([(other - paths).square().mean().sqrt().item() for other in others])
