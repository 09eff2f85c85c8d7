"""The covariance of x0 in the reverse kernel against published code and closed forms, and in configs."""

import json
import math
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionScheduler
from ddpm_hf.schedulers.timestep_spacings import cheapest_path, spaced_timesteps

SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
CLOSE = {"rtol": 1e-6, "atol": 1e-10}
HEADS = {"npr": ("eps_epsc", "epsc"), "sn": ("eps_eps2", "eps2")}
# Their SN head is E[eps^2 | x_t], from which they subtract eps_hat^2 afterwards; in ours that is done.
SUBTRACTED = {"npr": 0, "sn": 1}
# Their code keeps the network's eps when x0 is clipped in DDIM steps; the DDPM step has no eps to keep.
KINDS = {"ddpm": (1.0, True), "ddim_eta0": (0.0, False), "ddim_eta0.5": (0.5, False), "ddim_eta1": (1.0, False)}


def ones(steps=1000):
    return [0.5] * steps


# Against the published implementation --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(reference):
    """The transitions of eadpm_steps, one a row: timestep, prev_timestep, and a function that reads inputs."""
    arrays = reference("eadpm_steps")
    t, s = (arrays[name].repeat_interleave(2) for name in ("timestep", "prev_timestep"))
    return t, s, lambda key: arrays[key].flatten(0, 1) if arrays[key].ndim > 1 else arrays[key].repeat_interleave(2)


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_variances_between_any_two_timesteps(reference, pairs, schedule, kind, clip):
    t, s, array = pairs
    x_t, eps, (eta, _) = array(f"{schedule}/in/x_t"), array(f"{schedule}/in/eps"), KINDS[kind]
    options = {"beta_schedule": SCHEDULES[schedule], "clip_covariance": bool(clip)}
    gamma = reference("eadpm_steps")[f"{schedule}/in/ms_eps"][1:].tolist()
    analytic = GaussianDiffusionScheduler(variance_type="analytic", mean_square_epsilon=gamma, **options)
    variance = analytic.p_mean_variance(eps, t, x_t, s, eta=eta).variance[:, 0, 0, 0]
    assert_close(variance, array(f"{schedule}/{kind}/optimal/ms_eps/clipcov_{clip}/var"), **CLOSE)
    for variance_type, (name, head) in HEADS.items():
        output = torch.cat([eps, array(f"{schedule}/in/{head}") - SUBTRACTED[variance_type] * eps**2], dim=1)
        scheduler = GaussianDiffusionScheduler(variance_type=variance_type, **options)
        expected = array(f"{schedule}/{kind}/optimal/{name}/clipcov_{clip}/var")
        assert_close(scheduler.p_mean_variance(output, t, x_t, s, eta=eta).variance, expected, **CLOSE)
        for row in (0, 11, 20):  # the same by whole numbers, one pair at a time
            one = slice(row, row + 1)
            alone = scheduler.p_mean_variance(output[one], t[row].item(), x_t[one], s[row].item(), eta=eta)
            assert_close(alone.variance, expected[one], **CLOSE)


RUNS = {
    "ddpm_opt_ms": {"variance_type": "analytic"},
    "ddpm_opt_ms_clip1px1": {"variance_type": "analytic", "clip_variance_pixels": 1},
    "ddpm_opt_ms_clip1px2": {"variance_type": "analytic", "clip_variance_pixels": 2},
    "ddpm_opt_sn": {"variance_type": "sn"},
    "ddpm_opt_npr": {"variance_type": "npr"},
    "ddpm_opt_npr_clip1px2": {"variance_type": "npr", "clip_variance_pixels": 2},
    "ddim0_opt_ms": {"variance_type": "analytic", "eta": 0.0},
    "ddim0_opt_ms_clip1px1": {"variance_type": "analytic", "eta": 0.0, "clip_variance_pixels": 1},
    "ddim0_opt_npr": {"variance_type": "npr", "eta": 0.0},
    "ddim0.5_opt_sn": {"variance_type": "sn", "eta": 0.5},
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("steps", [10, 25])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_whole_runs(reference, schedule, steps, name):
    """Each step from their state and outputs; and where all outputs are stored, the run from its start alone."""
    arrays, key = reference(f"eadpm_sampling_{schedule}"), f"K{steps}/{name}"
    if f"{key}/eps" not in arrays.keys:
        return
    scheduler = GaussianDiffusionScheduler(
        beta_schedule=SCHEDULES[schedule],
        mean_square_epsilon=arrays["ms_eps"][1:].tolist(),
        use_clipped_model_output=name.startswith("ddpm"),
        **RUNS[name],
    )
    timesteps = arrays[f"{key}/t"] - 1
    scheduler.set_timesteps(timesteps=timesteps)
    sample = arrays[f"K{steps}/x_init"]
    for j, t in enumerate(timesteps.tolist()):
        output = arrays[f"{key}/eps"][j]
        if RUNS[name]["variance_type"] != "analytic":
            head = arrays[f"{key}/head2"][j] - SUBTRACTED[RUNS[name]["variance_type"]] * output**2
            output = torch.cat([output, head], dim=1)
        kernel = scheduler.p_mean_variance(output, t, sample)
        assert_close(kernel.mean, arrays[f"{key}/mean"][j], **CLOSE)
        variance = arrays[f"{key}/var_unclipped"][j]
        assert_close(kernel.variance, variance.expand_as(sample), **CLOSE)
        sample = scheduler.step(output, t, sample, variance_noise=arrays[f"K{steps}/noise"][j]).prev_sample
        assert_close(sample, arrays[f"{key}/x"][j + 1], rtol=1e-6, atol=1e-8)


def test_the_runs_are_there(reference):
    """The reference stores outputs for this many of the runs above, so that no misspelt key skips one."""
    stored = [
        (schedule, steps, name)
        for schedule in SCHEDULES
        for steps in (10, 25)
        for name in RUNS
        if f"K{steps}/{name}/eps" in reference(f"eadpm_sampling_{schedule}").keys
    ]
    assert len(stored) >= 2 * len(RUNS)


@pytest.mark.parametrize("count", [10, 25, 50, 100, 200])
@pytest.mark.parametrize("source", ["gauss", "gmm"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_optimal_trajectories(reference, schedule, source, count):
    arrays = reference("trajectories")
    gamma = arrays[f"{schedule}/{source}/ms_eps"][1:].tolist()
    scheduler = GaussianDiffusionScheduler(
        beta_schedule=SCHEDULES[schedule], timestep_spacing="optimal", mean_square_epsilon=gamma
    )
    scheduler.set_timesteps(count)
    expected = arrays[f"{schedule}/{source}/dp_seg/K{count}/steps"] - 1
    assert torch.equal(scheduler.timesteps.flip(0), expected)


@pytest.mark.parametrize("count", [10, 25, 100])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_optimal_trajectories_where_gamma_is_over_one(reference, schedule, count):
    """A plan from a Gamma with a bad tail is nearly as good by the true Gamma; it does not leap from the tail to the data."""
    arrays = reference("trajectories")
    alphas_bar = GaussianDiffusionScheduler(beta_schedule=SCHEDULES[schedule]).alpha_bar(range(1000)).numpy()
    true, bad = (arrays[f"{schedule}/{source}/ms_eps"][1:].numpy() for source in ("gmm", "gmm_bad_tail"))
    assert (bad > 1).sum() > 30

    def cost(timesteps):
        return sum(
            math.log1p(-(1 - alphas_bar[t] / alphas_bar[s]) * true[t] / (1 - alphas_bar[t]))
            for t, s in pairwise(timesteps)
        )

    best, planned = (cost(spaced_timesteps("optimal", count, alphas_bar, 0, gamma)) for gamma in (true, bad))
    even = cost(spaced_timesteps("linspace", count, alphas_bar))
    assert best <= planned < best + 0.1 * (even - best)


# Closed forms --------------------------------------------------------------------------------------------------------

MEAN, VARIANCE = 0.2, 0.09


def gaussian_model(scheduler, x_t, t):
    """eps_hat and the ideal head for N(MEAN, VARIANCE) data, at timestep t."""
    alpha_bar = scheduler.alpha_bar(t)
    spread = alpha_bar * VARIANCE + 1 - alpha_bar
    eps = (1 - alpha_bar).sqrt() * (x_t - alpha_bar.sqrt() * MEAN) / spread
    variance_of_eps = torch.full_like(eps, (alpha_bar * VARIANCE / spread).item())
    return eps, variance_of_eps


def exact_gamma(scheduler):
    alphas_bar = scheduler.alpha_bar(range(len(scheduler)))
    return (1 - alphas_bar) / (alphas_bar * VARIANCE + 1 - alphas_bar)


@pytest.mark.parametrize("variance_type", ["analytic", "npr", "sn", "ocm"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_the_exact_posterior_variance_of_gaussian_data(variance_type, prediction_type):
    """At eta = 1 the kernel's variance is Var[x_s | x_t] of the joint Gaussian of x_s and x_t, to clean data Var[x0 | x_t]."""
    gamma = exact_gamma(GaussianDiffusionScheduler()).tolist()
    scheduler = GaussianDiffusionScheduler(
        variance_type=variance_type,
        prediction_type=prediction_type,
        mean_square_epsilon=gamma,
        clip_sample=False,
    )
    scheduler.set_timesteps(timesteps=[999, 640, 300, 77, 12, 0])
    x_t = torch.linspace(-2, 2, 5, dtype=torch.float64).reshape(1, 1, 1, 5)
    for t in scheduler.timesteps.tolist():
        eps, head = gaussian_model(scheduler, x_t, t)
        a, b = scheduler.alpha_bar(t).sqrt(), (1 - scheduler.alpha_bar(t)).sqrt()
        x0 = (x_t - b * eps) / a
        output = {"epsilon": eps, "sample": x0, "v_prediction": a * eps - b * x0}[prediction_type]
        if variance_type != "analytic":
            output = torch.cat([output, head], dim=1)
        kernel = scheduler.p_mean_variance(output, t, x_t)
        at_t, at_s = scheduler.alpha_bar(t), scheduler.alpha_bar(scheduler.previous_timestep(t))
        var_t, var_s = (ab * VARIANCE + 1 - ab for ab in (at_t, at_s))
        expected = var_s - (at_t / at_s) * var_s**2 / var_t
        assert_close(kernel.variance, expected.expand_as(x_t), rtol=1e-6, atol=0)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_of_gaussian_data_have_its_variance_at_every_eta(eta):
    """With the covariance the sampled variance is right in a few steps; without it, it is not."""
    gamma = exact_gamma(GaussianDiffusionScheduler()).tolist()
    variances = {}
    for variance_type in ("analytic", "fixed_small"):
        scheduler = GaussianDiffusionScheduler(
            variance_type=variance_type, mean_square_epsilon=gamma, eta=eta, clip_sample=False
        )
        scheduler.set_timesteps(timesteps=[999, 500, 100, 5])
        variance = torch.ones((), dtype=torch.float64)
        zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
        for t in scheduler.timesteps.tolist()[:-1]:  # the last adds no noise, whatever the covariance
            moved = [scheduler.p_mean_variance(gaussian_model(scheduler, x, t)[0], t, x) for x in (zero, zero + 1)]
            variance = variance * (moved[1].mean - moved[0].mean) ** 2 + moved[0].variance
        alpha_bar = scheduler.alpha_bar(5)
        variances[variance_type] = (variance / (alpha_bar * VARIANCE + 1 - alpha_bar)).item()
    assert variances["analytic"] == pytest.approx(1, rel=0.01)
    assert variances["fixed_small"] < 0.9


def test_the_covariance_costs_no_network_and_no_noise_at_the_last_step():
    scheduler = GaussianDiffusionScheduler(variance_type="analytic", mean_square_epsilon=ones())
    scheduler.set_timesteps(timesteps=[500, 0])
    x = torch.full((1, 1, 2, 2), 0.3)
    kernel = scheduler.p_mean_variance(x, 0, x)
    assert kernel.variance.min() > 0
    assert torch.equal(scheduler.step(x, 0, x, variance_noise=torch.ones_like(x)).prev_sample, kernel.mean)


@pytest.mark.parametrize("variance_type", ["analytic", "npr", "fixed_large", "learned_range"])
def test_the_clip_of_the_last_noisy_step(variance_type):
    """One timestep per sample or one for all, and in the steps before it nothing is clipped."""
    output = torch.full((1, 2, 2, 2), 0.5)
    options = {"variance_type": variance_type, "mean_square_epsilon": ones()}
    if variance_type in ("analytic", "fixed_large"):
        output = output[:, :1]
    free, clipped = (GaussianDiffusionScheduler(clip_variance_pixels=p, **options) for p in (None, 1.5))
    x, noise = torch.full((1, 1, 2, 2), 0.1), torch.ones(1, 1, 2, 2)
    std = 1.5 * 2 / 255 * math.sqrt(math.pi / 2)
    for scheduler in (free, clipped):
        scheduler.set_timesteps(timesteps=[900, 600, 300])
    for t in (900, 600, torch.tensor([900]), torch.tensor([600]), 300):
        mean = clipped.p_mean_variance(output, t, x).mean
        added = clipped.step(output, t, x, variance_noise=noise).prev_sample - mean
        without = free.step(output, t, x, variance_noise=noise).prev_sample - mean
        if int(t) == 600:
            assert_close(added, torch.full_like(added, std), rtol=1e-4, atol=1e-6)
            assert (without > 2 * added).all()
        else:
            assert_close(added, without)


# Second order --------------------------------------------------------------------------------------------------------


def curved(x, t):
    """An output that depends on x and t, in float64."""
    return 0.8 * x + 0.3 * torch.sin(3 * x + t / 300)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("timesteps", [[999, 801, 640, 333, 210, 60, 3], [950, 500]])
@pytest.mark.parametrize("eta, algorithm", [(0.0, "dpmsolver++"), (1.0, "sde-dpmsolver++")])
def test_second_order_is_dpm_solver_2m_at_eta_0_and_its_sde_form_at_eta_1(prediction_type, timesteps, eta, algorithm):
    ours = GaussianDiffusionScheduler(eta=eta, solver_order=2, clip_sample=False, prediction_type=prediction_type)
    theirs = DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=0.02, algorithm_type=algorithm, solver_order=2, prediction_type=prediction_type
    )
    ours.set_timesteps(timesteps=timesteps)
    theirs.set_timesteps(timesteps=timesteps)
    torch.manual_seed(0)
    a = b = torch.randn(2, 1, 3, 3, dtype=torch.float64)
    for t in timesteps:
        noise = torch.randn_like(a)
        a = ours.step(curved(a, t), t, a, variance_noise=noise).prev_sample
        b = theirs.step(curved(b, t), t, b, variance_noise=noise).prev_sample
        assert_close(a, b, rtol=2e-3, atol=2e-3)  # their tables are float32, and log-SNR loses digits at the ends


def test_second_order_takes_any_timestep_form_and_forgets_the_last_run():
    scheduler = GaussianDiffusionScheduler(eta=0.0, solver_order=2, clip_sample=False)
    first = GaussianDiffusionScheduler(eta=0.0, clip_sample=False)
    x = torch.linspace(-1, 1, 4, dtype=torch.float64).reshape(1, 1, 2, 2)

    def run(form, scheduler=scheduler):
        scheduler.set_timesteps(timesteps=[900, 600, 200])
        sample = x
        for t in (900, 600, 200):
            sample = scheduler.step(curved(sample, t), form(t), sample).prev_sample
        return sample

    whole = run(int)
    assert_close(run(lambda t: torch.tensor([t])), whole)
    assert_close(run(torch.tensor), whole)
    assert not torch.allclose(run(int, first), whole)
    scheduler.set_timesteps(timesteps=[900, 600, 200])
    alone = scheduler.step(curved(x, 600), 600, x).prev_sample  # begun in the middle: there is no last x0
    first.set_timesteps(timesteps=[900, 600, 200])
    assert_close(alone, first.step(curved(x, 600), 600, x).prev_sample)


def error_on_gaussian_data(steps, order, corrector):
    """The error of a deterministic sampler at the end of the flow of Gaussian data, steps even in log-SNR."""
    scheduler = GaussianDiffusionScheduler(
        eta=0.0, solver_order=order, corrector=corrector, clip_sample=False, timestep_spacing="logsnr"
    )
    scheduler.set_timesteps(steps)
    x = start = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for t in scheduler.timesteps.tolist()[:-1]:
        x = scheduler.step(gaussian_model(scheduler, x, t)[0], t, x).prev_sample
    high, low = (scheduler.alpha_bar(t) for t in (999, scheduler.timesteps[-1].item()))
    spread = [ab * VARIANCE + 1 - ab for ab in (high, low)]
    exact = low.sqrt() * MEAN + (spread[1] / spread[0]).sqrt() * (start - high.sqrt() * MEAN)
    return (x - exact).abs().item()


def test_second_order_converges_faster_and_with_the_corrector_faster_still():
    errors = {
        (order, corrector, steps): error_on_gaussian_data(steps, order, corrector)
        for order, corrector in ((1, False), (2, False), (1, True), (2, True))
        for steps in (20, 40)
    }
    assert errors[2, False, 40] < 0.2 * errors[1, False, 40]
    assert errors[1, False, 40] > 0.4 * errors[1, False, 20] and errors[2, False, 40] < 0.35 * errors[2, False, 20]
    assert errors[1, True, 40] < 0.3 * errors[1, False, 40]
    assert errors[2, True, 40] < 0.5 * errors[2, False, 40]


def test_the_corrector_by_hand():
    """Two steps of the flow: the second one begins where the first should have led, x0_hat having moved evenly in log-SNR."""
    scheduler = GaussianDiffusionScheduler(eta=0.0, corrector=True, clip_sample=False)
    scheduler.set_timesteps(timesteps=[900, 600, 200])
    x = torch.linspace(-1, 1, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
    first = scheduler.step(curved(x, 900), 900, x)
    second = scheduler.step(curved(first.prev_sample, 600), 600, first.prev_sample)

    alpha, sigma = (lambda t: scheduler.alpha_bar(t).sqrt()), (lambda t: (1 - scheduler.alpha_bar(t)).sqrt())
    begin, end = ((alpha(t) / sigma(t)).log() for t in (900, 600))
    length = torch.linspace(0, 1, 100_001, dtype=torch.float64) * (end - begin)
    growing = (begin + length).exp()
    moved = torch.trapezoid(growing * length / length[-1], length) / torch.trapezoid(growing, length)
    x0 = first.pred_original_sample.lerp(second.pred_original_sample, moved)
    x_600 = sigma(600) / sigma(900) * x + (alpha(600) - sigma(600) * alpha(900) / sigma(900)) * x0
    ratio = sigma(200) / sigma(600)
    expected = ratio * x_600 + (alpha(200) - ratio * alpha(600)) * second.pred_original_sample
    assert_close(second.prev_sample, expected, rtol=1e-8, atol=1e-8)


# The dynamic programme -----------------------------------------------------------------------------------------------


def test_cheapest_path_against_all_paths():
    rng = np.random.default_rng(0)
    cost = rng.normal(size=(8, 8))
    for transitions in range(1, 8):
        paths = [(0, *middle, 7) for middle in combinations(range(1, 7), transitions - 1)]
        best = min(paths, key=lambda p: sum(cost[a, b] for a, b in pairwise(p)))
        assert tuple(cheapest_path(cost, transitions)) == best


# The config ----------------------------------------------------------------------------------------------------------


def test_it_all_travels_through_stock_classes(tmp_path, diffusers_log):
    plans = {"3": [999, 400, 10]}
    ours = GaussianDiffusionScheduler(
        variance_type="analytic",
        mean_square_epsilon=torch.linspace(0.01, 1, 1000),
        clip_variance_pixels=2,
        solver_order=2,
        timestep_plans=plans,
        timestep_spacing="optimal",
    )
    ours.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "scheduler_config.json").read_text(encoding="utf-8"))
    assert raw["variance_type"] == "fixed_small" and raw["timestep_spacing"] == "leading"
    stock = DDPMScheduler.from_pretrained(tmp_path)
    stock.set_timesteps(5)
    for config in (ours.config, stock.config, DDIMScheduler.from_config(ours.config).config):
        again = GaussianDiffusionScheduler.from_config(config)
        for key in ("variance_type", "mean_square_epsilon", "clip_variance_pixels", "solver_order", "timestep_plans"):
            assert again.config[key] == ours.config[key], key
    again.set_timesteps(3)
    assert again.timesteps.tolist() == plans["3"]
    again.set_timesteps(4)
    assert len(again.timesteps) == 4 and again.timesteps[0] == 999
    assert not diffusers_log.text


def test_the_order_of_a_stock_solver_is_its_own():
    assert (
        GaussianDiffusionScheduler.from_config(DPMSolverMultistepScheduler(solver_order=3).config).config.solver_order
        == 1
    )


GAMMA = torch.linspace(0.01, 1, 1000)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"variance_type": "analytic"}, "variance_type='analytic' needs mean_square_epsilon.*ddpm-hf calibrate MODEL"),
        ({"timestep_spacing": "optimal"}, "timestep_spacing='optimal' needs mean_square_epsilon"),
        ({"mean_square_epsilon": [0.5] * 10}, "has 10 values for num_train_timesteps=1000"),
        ({"mean_square_epsilon": GAMMA.masked_fill(GAMMA > 0.995, math.nan)}, "is nan at timestep 99[0-9]"),
        ({"mean_square_epsilon": GAMMA - 0.5}, "is -0.49 at timestep 0; all must be finite and at least 0"),
        ({"mean_square_epsilon": 2 * GAMMA}, "is 2 at timestep 999; .* does not predict the noise of this schedule"),
        ({"clip_variance_pixels": 0}, "clip_variance_pixels=0 must be greater than 0"),
        ({"solver_order": 3}, "solver_order=3 is not one of 1, 2"),
        ({"timestep_plans": {"3": [999, 5]}}, r"timestep_plans\['3'\] has 2 timesteps; its key says 3"),
        ({"timestep_plans": {"2": [500, 5]}}, r"timestep_plans\['2'\] begins at timestep 500, where x_t still shows"),
        ({"timestep_plans": {"2": [5, 999]}}, "must descend"),
        ({"timestep_plans": {"2": [1000, 5]}}, "must be in 0 .. 999"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        GaussianDiffusionScheduler(**options)


def test_a_gamma_a_little_over_one_is_a_warning(diffusers_log):
    GaussianDiffusionScheduler(mean_square_epsilon=1.05 * GAMMA)
    assert "mean_square_epsilon is 1.05 at timestep 999" in diffusers_log.text


@pytest.mark.parametrize("variance_type", ["npr", "sn", "ocm"])
def test_heads_need_their_channels(variance_type):
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="has 1 channels for samples of 1; variance_type='.*' needs 2: a model with"):
        GaussianDiffusionScheduler(variance_type=variance_type).step(x, 5, x)
