"""Measured costs of the transitions between candidate timesteps, for the likelihood and for the samples.

Both measurements give an array for `plan_timesteps`: node 0 is clean data, node i is `candidates[i - 1]`. The network is
called once for each candidate t and image or path; its output serves all s < t.
"""

from itertools import pairwise
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from ddpm_hf.calibration.mean_square_epsilon import TIMESTEPS_PER_IMAGE
from ddpm_hf.evaluation.discrete_chains import check_chain_length, discrete_chain, evaluating
from ddpm_hf.evaluation.image_labels import check_labels, labels_of
from ddpm_hf.evaluation.noised_batches import noised_batches
from ddpm_hf.evaluation.seeded_noise import image_generators, noise_of_steps
from ddpm_hf.evaluation.variational_bound import CLEAN, bound_term
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.samples import kind_of
from ddpm_hf.schedulers.timestep_spacings import checked_timesteps, spaced_timesteps

CLEAN_NODE = 0

# The highest noise level sqrt(1 - abar_t) from which plans by local errors step to the data. By the mean square error
# alone, short plans would step earlier and lose fine detail, which is a small part of that error but visible.
LARGEST_LAST_SIGMA = 0.25

# Local errors are errors of deterministic samples, made by the mean alone.
DETERMINISTIC = {"eta": 0.0, "variance_type": "fixed_small", "clip_variance_pixels": None}


def candidate_timesteps(scheduler, count=TIMESTEPS_PER_IMAGE):
    """`count` timesteps to plan with, ascending from 0 to T - 1, whose square roots are evenly spaced.

    They include every timestep near the data, where one timestep multiplies the noise level, and leave no wide gap
    near the noise, where most samplers have timesteps.
    """
    alphas_bar = scheduler.alpha_bar(range(len(scheduler))).numpy()
    return spaced_timesteps("quadratic", min(count, len(scheduler)), alphas_bar)[::-1].tolist()


class FlowPaths(NamedTuple):
    """The paths of a model's probability flow that something is measured on, each from its own noise.

    count: number of paths; class_labels: for a class-conditional model one for all, or one for each path; batch_size:
    paths at a time; seed: seed of the noise that the paths begin in; progress_bar: whether one is shown.
    """

    count: int
    class_labels: torch.Tensor | int | None = None
    batch_size: int = 48
    seed: int = 0
    progress_bar: bool = True


@torch.no_grad()
def bound_costs(unet, scheduler, candidates, measuring, levels=None):
    """The expected term of the variational bound of every transition, in nats per dimension (Watson et al. 2021).

    Along a plan they add up to its bound without the prior term, as `bits_per_dim(timesteps=plan)` gives it. The cost
    of the step to clean data depends on the transition before it too, which sets the decoder's least variance.

    Args:
        unet, scheduler: the model; the bound is that of its `variance_type` and `eta`.
        candidates (`list[int]`): ascending timesteps; the last is where sampling begins.
        measuring ([`Measuring`]): the data, a tensor (N, C, H, W), or (N, d) of points, and how the network is called.
        levels (`int`, *optional*): as in `bits_per_dim`.

    Returns:
        `np.ndarray`: (M + 1, M + 1, M + 1) for M candidates, [s, t, r] as in `plan_timesteps`; entries that it does not
        read are infinite.

    Raises:
        ValueError: as `bits_per_dim`.
    """
    chain, candidates = chain_of(unet, scheduler, candidates, "be planned for by its bound")
    samples, images = kind_of(unet.config, levels), measuring.data
    samples.check_data(images)
    check_labels(measuring.class_labels, len(images))
    transitions, decoders = _bound_terms(GaussianDiffusionPipeline(unet, chain), measuring, candidates, samples)
    return _with_memory(transitions, decoders) / images[0].numel() / len(images)


def _bound_terms(pipeline, measuring, candidates, samples):
    """Sums over the images of the terms of t -> s, and of t -> data after r -> t (r = t: as the first transition)."""
    chain, nodes = pipeline.scheduler, len(candidates) + 1
    transitions, decoders = torch.zeros(2, nodes, nodes, dtype=torch.float64)
    with noised_batches(pipeline, measuring, len(candidates), "bound") as batches:
        for batch in batches:
            x0, condition_image = samples.split(samples.from_data(batch.data).to(pipeline.unet.device))
            noised = batch.noised(x0, torch.tensor(candidates), condition_image)
            for node, (t, _, x_t, output) in enumerate(noised, start=1):
                state = (output, t, x0, x_t)
                transitions[1:node, node] += _summed(
                    _term(chain, state, samples.levels, s) for s in candidates[: node - 1]
                )
                decoders[node, node:] += _summed(
                    _decoder(chain, state, samples.levels, r) for r in candidates[node - 1 :]
                )
    return transitions, decoders


def _term(chain, state, levels, s):
    output, t, x0, x_t = state
    return bound_term(chain, output, t, x0, x_t, prev_timestep=s, levels=levels)


def _decoder(chain, state, levels, r):
    """The term of the step t -> data for trajectories that come to t from r, or begin at t = r."""
    output, t, x0, x_t = state
    chain.set_timesteps(timesteps=sorted({r, t}, reverse=True))
    return bound_term(chain, output, t, x0, x_t, levels=levels)


def _summed(terms):
    """The sum over the images of each of the terms (B,); the host waits once."""
    terms = [term.sum() for term in terms]
    return torch.stack(terms).cpu().double() if terms else 0.0


def _with_memory(transitions, decoders):
    nodes = len(transitions)
    cost = np.repeat(transitions.numpy()[:, :, None], nodes, axis=2)
    cost[0] = decoders.numpy()
    s, t, r = np.ogrid[:nodes, :nodes, :nodes]
    return np.where((s < t) & (t <= r), cost, np.inf)


@torch.no_grad()
def local_errors(unet, scheduler, candidates, paths, solver_order=2):
    """How far one step of the deterministic kernel (eta = 0) ends from the model's own fine path.

    The paths begin in noise and follow the probability flow in fine steps of second order, through all candidates and
    a timestep between each two. From each candidate t of a path one step is taken to each s < t; its error is the root
    mean square, over paths and dimensions, of its difference from the path at s. With `solver_order=2` the step after
    r -> t extrapolates x0_hat from t and r, so that the cost depends on three timesteps; the first step of a path and
    the step to clean data are of first order, as in the scheduler. The step to clean data is taken from noise levels
    of at most `LARGEST_LAST_SIGMA`, or from the first timestep in a path of a single step.

    Args:
        unet, scheduler: the model; x0_hat is clipped as the scheduler's config says.
        candidates (`list[int]`): ascending timesteps; the last is where sampling begins.
        paths ([`FlowPaths`]): the paths, which are kept on the host at all candidates.
        solver_order (`int`): 1 (DDIM) or 2 (DPM-Solver++ 2M).

    Returns:
        `np.ndarray`: in first order (M + 1, M + 1), in second (M + 1, M + 1, M + 1), for M candidates, as in
        `plan_timesteps`; entries that it does not read are infinite.
    """
    chain, candidates = chain_of(unet, scheduler, candidates, "be planned for", solver_order=2, **DETERMINISTIC)
    if solver_order not in (1, 2):
        raise ValueError(f"solver_order={solver_order!r} is not one of 1, 2.")
    check_labels(paths.class_labels, paths.count)
    pipeline = GaussianDiffusionPipeline(unet, chain)
    fine = sorted({*candidates, *((a + b) // 2 for a, b in pairwise(candidates))}, reverse=True)
    squares = 0.0
    calls = ceil(paths.count / paths.batch_size) * len(fine)
    with evaluating(unet), tqdm(total=calls, desc="paths", unit="call", disable=not paths.progress_bar) as bar:
        for first in range(0, paths.count, paths.batch_size):
            x_T = starting_noise(unet, paths.seed, first, min(paths.batch_size, paths.count - first))
            labels = labels_of(paths.class_labels, first, len(x_T))
            path = _fine_path(pipeline, fine, x_T, labels, set(candidates), bar)
            squares = squares + _square_errors(chain, candidates, path, solver_order)
    squares[CLEAN_NODE, _too_noisy_to_leave(chain, candidates)] = np.inf
    return np.sqrt(squares / (paths.count * x_T[0].numel()))


def _too_noisy_to_leave(chain, candidates):
    """The nodes from which no plan steps to clean data; none, if these were all nodes but the last."""
    noise = 1 - chain.alpha_bar(candidates[:-1])
    nodes = (noise > LARGEST_LAST_SIGMA**2).nonzero().flatten() + 1
    return [] if len(nodes) == len(noise) else nodes.tolist()


def starting_noise(unet, seed, first, count):
    """x_T of `count` paths from number `first` on, each from its own seed."""
    like = torch.empty(count, *kind_of(unet.config).shape, device=unet.device)
    return next(noise_of_steps(image_generators(seed, first, like), 1, like))


def _fine_path(pipeline, timesteps, x_T, class_labels, kept, bar):
    """{t: (x_t, output, x0_hat)} at the kept timesteps, and x_0 at -1, on the host."""
    path, channels, x_t = {}, x_T.shape[1], x_T

    def keep(_, i, t, tensors):
        nonlocal x_t
        if t.item() in kept:
            seen = (x_t, tensors["model_output"][:, :channels], tensors["pred_original_sample"])
            path[t.item()] = tuple(tensor.cpu() for tensor in seen)
        x_t = tensors["latents"]
        bar.update()

    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        class_labels=class_labels,
        timesteps=timesteps,
        latents=x_T,
        output_type="latent",
        callback_on_step_end=keep,
        callback_on_step_end_tensor_inputs=("latents", "model_output", "pred_original_sample"),
    )
    return path | {CLEAN: (x_t.cpu(), None, None)}


def _square_errors(chain, candidates, path, solver_order):
    """Sums of the square errors over paths and dimensions, in the shape of the result of `local_errors`."""
    nodes = [CLEAN, *candidates]
    shape = (len(nodes),) * (solver_order + 1)
    squares = np.full(shape, np.inf)
    for node in range(1, len(nodes)):
        t = nodes[node]
        x_t, output, x0 = path[t]
        first_order = torch.stack(
            [
                (path[s][0] - chain.p_mean_variance(output, t, x_t, prev_timestep=s, eta=0.0).mean).flatten()
                for s in nodes[:node]
            ]
        ).double()
        if solver_order == 1:
            squares[:node, node] = first_order.square().sum(1).numpy()
            continue
        moved = torch.stack([(x0 - path[r][2]).flatten() for r in nodes[node:]]).double()  # 0 for r = t
        factor = _extrapolation_weights(chain, nodes[:node], t, nodes[node:])
        # |e - k d|^2 of all pairs of e (by s) and d (by r), with no vector of it formed
        cross = first_order @ moved.T
        square = first_order.square().sum(1)[:, None] - 2 * factor * cross + factor**2 * moved.square().sum(1)
        squares[:node, node, node:] = square.clamp(min=0).numpy()
    return squares


def _extrapolation_weights(chain, s, t, r):
    """The weight of x0_hat(t) - x0_hat(r) in the mean of the step t -> s after r -> t, (S, R).

    It is posterior_x0 * h / (2 h_last), with the lengths h and h_last of the two steps in log(signal / noise) (Lu et
    al. 2022b, algorithm 2), and 0 for steps that the scheduler takes in first order.
    """
    alpha_bar_s, alpha_bar_t, alpha_bar_r = (chain.alpha_bar(x) for x in (s, t, r))
    h = _log_snr(alpha_bar_s) - _log_snr(alpha_bar_t)
    h_last = _log_snr(alpha_bar_t) - _log_snr(alpha_bar_r)
    posterior_x0 = alpha_bar_s.sqrt() - (alpha_bar_t * (1 - alpha_bar_s) / (1 - alpha_bar_t)).sqrt()
    first_order = (torch.as_tensor(s) == CLEAN)[:, None] | (torch.as_tensor(r) == t)
    return (posterior_x0 * h)[:, None].div(2 * h_last).masked_fill(first_order, 0)


def _log_snr(alpha_bar):
    return 0.5 * (alpha_bar.log() - torch.log1p(-alpha_bar))


def chain_of(unet, scheduler, candidates, purpose, **changes):
    """The chain to measure on, and the candidates, checked."""
    chain = discrete_chain(scheduler, purpose, **changes)
    check_chain_length(unet, chain)
    candidates = checked_timesteps(list(candidates)[::-1], len(chain))[::-1].tolist()
    return chain, candidates
