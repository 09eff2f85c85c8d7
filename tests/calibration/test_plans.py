"""Plans against exhaustive search on small graphs and published code, and costs against their definitions."""

from itertools import combinations

import numpy as np
import pytest
import torch
from exact_predictor import exact_of_images

from ddpm_hf import GaussianDiffusionScheduler
from ddpm_hf.calibration import FlowPaths, bound_costs, local_errors, plan_timesteps
from ddpm_hf.calibration.cheapest_plans import path_cost
from ddpm_hf.calibration.model_plans import PLAN_COSTS, calls_for_candidate, count_candidates, make_plans
from ddpm_hf.calibration.options import CalibrationOptions
from ddpm_hf.calibration.transition_costs import LARGEST_LAST_SIGMA, candidate_timesteps
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.evaluation import bits_per_dim
from ddpm_hf.evaluation.noised_batches import Measuring


def all_paths(nodes, steps):
    """All ascending nodes of `steps` transitions, in lexicographic order."""
    return [np.array([*inner, nodes - 1]) for inner in combinations(range(1, nodes - 1), steps - 1)]


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("nodes", [2, 3, 6, 9])
def test_plans_are_the_cheapest_of_all_paths(nodes, dimensions):
    rng = np.random.default_rng(nodes)
    for trial in range(3):
        cost = rng.normal(size=(nodes,) * dimensions)
        cost[rng.random(cost.shape) < 0.1 * trial] = np.inf
        for steps in range(1, nodes):
            costs = [path_cost(cost, path) for path in all_paths(nodes, steps)]
            if not np.isfinite(costs).any():
                with pytest.raises(ValueError, match=f"No path of num_steps={steps} has a finite cost"):
                    plan_timesteps(cost, steps)
                continue
            plan = plan_timesteps(cost, steps)
            assert len(plan) == steps and plan[-1] == nodes - 1 and (np.diff(plan) > 0).all()
            assert path_cost(cost, plan) == pytest.approx(min(costs), rel=1e-12)


def test_a_cost_without_memory_gives_the_same_plan_in_either_form():
    cost = np.random.default_rng(0).random((12, 12))
    for steps in range(1, 12):
        with_memory = np.repeat(cost[:, :, None], 12, axis=2)
        assert plan_timesteps(with_memory, steps).tolist() == plan_timesteps(cost, steps).tolist()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_of_equal_paths_the_lower_nodes_are_taken(dimensions):
    assert plan_timesteps(np.zeros((8,) * dimensions), 4).tolist() == [1, 2, 3, 7]


def test_plans_of_published_code(reference):
    file = reference("dp_vb")
    names = [key.split("/K")[0] for key in file.keys if key.endswith("/K10/steps")]
    assert len(names) >= 8
    for name in names:
        cost = file[f"{name}/F"].numpy()
        for steps in (2, 5, 10, 25, 50):
            plan = plan_timesteps(cost, steps)
            expected = file[f"{name}/K{steps}/steps"].numpy()
            assert plan.tolist() == expected.tolist(), (name, steps)
            assert path_cost(cost, plan) == pytest.approx(file[f"{name}/K{steps}/cost"].item(), rel=1e-12)


@pytest.mark.parametrize(
    "cost, steps, message",
    [
        (np.zeros((3, 4)), 1, r"shape \(3, 4\)"),
        (np.zeros(3), 1, r"shape \(3,\)"),
        (np.zeros((1, 1)), 1, "N of at least 2"),
        (np.zeros((5, 5)), 0, "num_steps=0 must be in 1 .. 4"),
        (np.zeros((5, 5, 5)), 5, "num_steps=5 must be in 1 .. 4.*more candidates"),
        (np.full((5, 5), np.nan), 2, "NaN"),
        (np.full((5, 5, 5), np.nan), 2, "NaN"),
    ],
)
def test_costs_and_steps_that_cannot_be_planned(cost, steps, message):
    with pytest.raises(ValueError, match=message):
        plan_timesteps(cost, steps)


# The bound -----------------------------------------------------------------------------------------------------------

CANDIDATES = [0, 3, 90, 400, 999]


@pytest.fixture
def images():
    return torch.randint(256, (6, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def gamma(steps=1000):
    return np.linspace(0.1, 0.999, steps).tolist()


@pytest.mark.parametrize(
    "head, options",
    [
        (None, {"variance_type": "fixed_small"}),
        (None, {"variance_type": "fixed_large", "eta": 0.6}),
        (None, {"variance_type": "analytic", "mean_square_epsilon": gamma()}),
        ("learned_range", {"variance_type": "learned_range"}),
        ("npr", {"variance_type": "npr", "prediction_type": "v_prediction"}),
    ],
)
def test_costs_along_a_plan_are_its_bound(tiny_unet, images, head, options):
    """Both have the same noise where the plan visits every candidate; then they are the same numbers."""
    unet = tiny_unet(variance_head=head)
    scheduler = GaussianDiffusionScheduler(**options)
    cost = bound_costs(unet, scheduler, CANDIDATES, Measuring(images, batch_size=4, progress_bar=False))
    assert cost.shape == (6, 6, 6)
    assert cost[0, 1, 1] != cost[0, 1, 2]  # the decoder of a single step, and of the last of two
    for plan in ([5], [1, 5], [3, 5], [1, 2, 3, 4, 5]):
        expected = exact_bound(unet, scheduler, images, [CANDIDATES[node - 1] for node in plan])
        assert path_cost(cost, plan) == pytest.approx(expected, rel=1e-5)


def exact_bound(unet, scheduler, images, ascending):
    """The terms of `bits_per_dim` for a trajectory, in nats, with the noise that each candidate has in `bound_costs`."""
    from ddpm_hf.evaluation.seeded_noise import image_generators, noise_of_steps
    from ddpm_hf.evaluation.variational_bound import bound_term

    x0 = images / 127.5 - 1
    noise = dict(zip(CANDIDATES, noise_of_steps(image_generators(0, 0, x0), len(CANDIDATES), x0), strict=True))
    scheduler = GaussianDiffusionScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(timesteps=ascending[::-1])
    unet.eval()
    total = 0.0
    for t in ascending:
        x_t = scheduler.add_noise(x0, noise[t], t)
        with torch.no_grad():
            total += bound_term(scheduler, unet(x_t, t).sample, t, x0, x_t).double().mean().item()
    return total / x0[0].numel()


def test_a_plan_has_a_lower_bound_than_even_timesteps(stock_unet, images):
    scheduler = GaussianDiffusionScheduler()
    candidates = candidate_timesteps(scheduler, 25)
    cost = bound_costs(stock_unet, scheduler, candidates, Measuring(images, progress_bar=False))
    for steps in (3, 8):
        plan = [candidates[node - 1] for node in plan_timesteps(cost, steps)][::-1]
        even = np.linspace(0, 999, steps).round().astype(int)[::-1].tolist()
        planned, evenly = (
            bits_per_dim(stock_unet, scheduler, images, timesteps=timesteps, progress_bar=False).total
            for timesteps in (plan, even)
        )
        assert planned < evenly


# Local errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver_order", [1, 2])
def test_local_errors_are_those_of_the_schedulers_steps(solver_order):
    """On the exact flow of Gaussian data, from which the steps of a scheduler are taken one by one."""
    scheduler = GaussianDiffusionScheduler(clip_sample=False, eta=0.0, solver_order=solver_order)
    unet = exact_of_images(scheduler, mean=0.2, variance=0.25)
    candidates = [*range(0, 40, 4), *range(40, 1000, 40), 999]
    errors = local_errors(unet, scheduler, candidates, FlowPaths(5, progress_bar=False), solver_order)
    assert errors.shape == (len(candidates) + 1,) * (solver_order + 1)
    x_T = torch.stack([next(starts(place)) for place in range(5)]).squeeze(1)

    def flow(t):
        alpha_bar = scheduler.alpha_bar(t).item()
        mean, std = alpha_bar**0.5 * 0.2, (alpha_bar * 0.25 + 1 - alpha_bar) ** 0.5
        alpha_bar_T = scheduler.alpha_bar(999).item()
        std_T = (alpha_bar_T * 0.25 + 1 - alpha_bar_T) ** 0.5
        return mean + std / std_T * (x_T - alpha_bar_T**0.5 * 0.2)

    for s, t, r in [(20, 280, 999), (280, 520, 720), (-1, 20, 720), (4, 8, 880)]:
        scheduler.set_timesteps(timesteps=[u for u in (r, t, s) if u >= 0])
        for u in (r, t):
            result = scheduler.step(unet(flow(u), u)[0], u, flow(u)).prev_sample
        expected = (result - flow(s)).square().mean().sqrt().item()
        node = [([-1, *candidates]).index(u) for u in (s, t, r)][: solver_order + 1]
        assert errors[tuple(node)] == pytest.approx(expected, rel=0.1, abs=2e-4)


def test_paths_in_batches_are_those_of_one_batch():
    """Also where the scheduler looks back further, and would find the paths of the batch before."""
    scheduler = GaussianDiffusionScheduler(clip_sample=False, eta=0.0, solver_order=2, corrector=True)
    unet = exact_of_images(scheduler, mean=0.2, variance=0.25)
    few, many = (
        local_errors(unet, scheduler, CANDIDATES, FlowPaths(5, batch_size=size, progress_bar=False)) for size in (3, 5)
    )
    np.testing.assert_allclose(few, many, rtol=1e-4, atol=1e-7)


def starts(place):
    from ddpm_hf.evaluation.seeded_noise import image_generators, noise_of_steps

    like = torch.empty(1, 1, 8, 8)
    return noise_of_steps(image_generators(0, place, like), 1, like)


def test_planned_timesteps_end_nearer_to_the_flow():
    scheduler = GaussianDiffusionScheduler(clip_sample=False, eta=0.0, solver_order=2)
    unet = exact_of_images(scheduler, mean=0.2, variance=0.25)
    candidates = candidate_timesteps(scheduler, 40)
    cost = local_errors(unet, scheduler, candidates, FlowPaths(4, progress_bar=False))
    plan = [candidates[node - 1] for node in plan_timesteps(cost, 6)][::-1]
    x_T = torch.stack([next(starts(place)) for place in range(4)]).squeeze(1)

    def end(timesteps):
        scheduler.set_timesteps(timesteps=timesteps)
        x = x_T
        for t in scheduler.timesteps.tolist():
            x = scheduler.step(unet(x, t)[0], t, x).prev_sample
        return x

    assert 1 - scheduler.alpha_bar(plan[-1]) <= LARGEST_LAST_SIGMA**2  # fine detail is left to be painted
    assert plan_timesteps(cost, 1).tolist() == [len(candidates)]  # the one step there is, from noise to data
    truth = end(list(range(999, -1, -1)))
    planned, evenly = ((end(ts) - truth).square().mean().item() for ts in (plan, [999, 799, 599, 400, 200, 0]))
    assert planned < evenly


@pytest.mark.parametrize(
    "options, message",
    [
        ({"candidates": [5, 3]}, "must descend"),
        ({"candidates": [5, 1000]}, r"must be in 0 .. 999"),
        ({"candidates": [5, 999], "solver_order": 3}, "solver_order=3 is not one of 1, 2"),
        ({"candidates": [5, 999], "paths": FlowPaths(48, [1, 2])}, "2 class_labels for 48 images"),
    ],
)
def test_local_errors_that_cannot_be_measured(stock_unet, options, message):
    with pytest.raises(ValueError, match=message):
        local_errors(stock_unet, GaussianDiffusionScheduler(), **{"paths": FlowPaths(48)} | options)


@pytest.mark.parametrize("plan_cost", PLAN_COSTS)
def test_plans_from_fewer_images_take_fewer_network_calls(stock_unet, plan_cost):
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=10, beta_end=0.9)
    pixels = torch.randint(256, (8, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = []
    stock_unet.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))

    def calls_with(number):
        seen.clear()
        options = CalibrationOptions("model", DataArguments(), number, [3], plan_cost, batch_size=8)
        make_plans(stock_unet, scheduler, pixels[:number], None, options)
        return sum(seen)

    assert calls_with(8) == 2 * calls_with(4)
    assert calls_with(4) <= 1.1 * calls_for_candidate(plan_cost, 4) * count_candidates([3], 10)
    assert calls_for_candidate(plan_cost, 96) == calls_for_candidate(plan_cost, 1000)


def test_the_bound_needs_a_variance(stock_unet, images):
    with pytest.raises(ValueError, match="eta > 0"):
        bound_costs(stock_unet, GaussianDiffusionScheduler(eta=0.0), CANDIDATES, Measuring(images, progress_bar=False))
