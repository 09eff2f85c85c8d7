"""Rows of a fitted solver in the scheduler: known solvers as rows, what is used where rows do not hold, and how they travel."""

import json
import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.recipes import with_recipe
from ddpm_hf.schedulers.data_moments import DataMoments, PrincipalAxes
from ddpm_hf.schedulers.fitted_solvers import described_for_fit

TIMESTEPS = [999, 700, 350, 60]


def ddim_rows(scheduler):
    rows = []
    for n, (t, s) in enumerate(zip(TIMESTEPS, [*TIMESTEPS[1:], -1], strict=True)):
        a_t, a_s = scheduler.alpha_bar(t), scheduler.alpha_bar(s)
        of_sample = ((1 - a_s) / (1 - a_t)).sqrt()
        rows.append([of_sample.item(), *[0.0] * n, (a_s.sqrt() - a_t.sqrt() * of_sample).item()])
    return rows


def second_order_rows(scheduler):
    """DPM-Solver++ 2M: x0_hat + h / (2 h_last) (x0_hat - last x0_hat) in place of x0_hat, the first and last step excepted."""
    rows = ddim_rows(scheduler)
    lam = [0.5 * (scheduler.alpha_bar(t).log() - (1 - scheduler.alpha_bar(t)).log()).item() for t in TIMESTEPS]
    for n in range(1, len(TIMESTEPS) - 1):
        k = (lam[n + 1] - lam[n]) / (2 * (lam[n] - lam[n - 1]))
        rows[n][n], rows[n][n + 1] = -k * rows[n][-1], (1 + k) * rows[n][-1]
    return rows


def solvers(rows, scheduler=None, **changes):
    scheduler = scheduler or GaussianDiffusionScheduler(eta=0.0)
    described = described_for_fit(scheduler.config, scheduler.alpha_bar(range(1000)).numpy()) | {"guidance_scale": 1.0}
    solver = {"timesteps": TIMESTEPS, "rows": rows}
    return {"fitted_for": described, "solvers": {"4": solver}} | changes


def run(scheduler, x, timesteps=None, network=torch.tanh, count=4):
    scheduler.set_timesteps(None if timesteps else count, timesteps=timesteps)
    for t in scheduler.timesteps:
        x = scheduler.step(network(0.5 * x), t, x).prev_sample
    return x


@pytest.fixture
def x_T():
    return torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make_rows, order", [(ddim_rows, 1), (second_order_rows, 2)])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_known_solvers_as_rows(x_T, make_rows, order, prediction_type):
    plain = GaussianDiffusionScheduler(eta=0.0, prediction_type=prediction_type, solver_order=order)
    rows = solvers(make_rows(plain), plain)
    fitted = GaussianDiffusionScheduler(eta=0.0, prediction_type=prediction_type, fitted_solvers=rows)
    assert_close(run(fitted, x_T), run(plain, x_T, TIMESTEPS), rtol=1e-10, atol=1e-10)


def test_rows_hold_for_whole_runs_at_eta_0_alone(x_T):
    plain = GaussianDiffusionScheduler(eta=0.0, solver_order=2)
    strange = [[9.0, *[1.0] * (n + 1)] for n in range(4)]
    fitted = GaussianDiffusionScheduler(eta=0.0, solver_order=2, fitted_solvers=solvers(strange))
    assert not torch.allclose(run(fitted, x_T), run(plain, x_T, TIMESTEPS))
    assert_close(run(fitted, x_T, TIMESTEPS), run(plain, x_T, TIMESTEPS))  # timesteps of one's own
    assert_close(run(fitted, x_T, count=6), run(plain, x_T, count=6))  # another number of steps
    fitted.set_timesteps(4)
    plain.set_timesteps(timesteps=TIMESTEPS)
    for t in TIMESTEPS[1:]:  # begun in the middle
        steps = [s.step(torch.tanh(x_T), t, x_T).prev_sample for s in (fitted, plain)]
        assert_close(*steps)
    stochastic = GaussianDiffusionScheduler(eta=1.0, fitted_solvers=solvers(strange))
    stochastic.set_timesteps(4)
    assert stochastic.timesteps.tolist() != TIMESTEPS
    assert with_recipe(fitted, "ddim").config.fitted_solvers is None


def test_a_second_run_begins_anew(x_T):
    fitted = GaussianDiffusionScheduler(
        eta=0.0, fitted_solvers=solvers(second_order_rows(GaussianDiffusionScheduler()))
    )
    first = run(fitted, x_T)
    sample = x_T
    for t in fitted.timesteps:  # without set_timesteps
        sample = fitted.step(torch.tanh(0.5 * sample), t, sample).prev_sample
    assert_close(sample, first, rtol=0, atol=0)


def test_half_precision_is_computed_in_float32(x_T):
    fitted = GaussianDiffusionScheduler(eta=0.0, fitted_solvers=solvers(ddim_rows(GaussianDiffusionScheduler())))
    fitted.set_timesteps(4)
    x = x_T.bfloat16()
    step = fitted.step(torch.tanh(x), 999, x)
    exact = fitted.step(torch.tanh(x).float(), 999, x.float())
    assert step.prev_sample.dtype == torch.bfloat16
    assert_close(step.prev_sample, exact.prev_sample.bfloat16(), rtol=0, atol=0)


def test_they_travel_and_stock_classes_read_the_config_in_silence(tmp_path, stock_unet, diffusers_log):
    rows = second_order_rows(GaussianDiffusionScheduler())
    scheduler = GaussianDiffusionScheduler(eta=0.0, fitted_solvers=solvers(rows))
    pipeline = GaussianDiffusionPipeline(stock_unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(num_inference_steps=4, generator=torch.Generator().manual_seed(0), output_type="pt").images
    pipeline.save_pretrained(tmp_path)
    assert "rows" not in {*json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))}
    stock = DDPMScheduler.from_pretrained(tmp_path / "scheduler")
    stock.set_timesteps(4)
    for config in (stock.config, DDIMScheduler.from_config(scheduler.config).config):
        assert GaussianDiffusionScheduler.from_config(config, eta=0.0).config.fitted_solvers == solvers(rows)
    assert not diffusers_log.text
    loaded = GaussianDiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    again = loaded(num_inference_steps=4, generator=torch.Generator().manual_seed(0), output_type="pt").images
    assert_close(again, images, rtol=0, atol=1e-4)


def test_a_run_from_the_middle_has_rows_of_its_own(x_T):
    """Image to image begins at a later timestep: by the rows from there, or where there are none by second order."""
    plain = GaussianDiffusionScheduler(eta=0.0)
    fitted = solvers(second_order_rows(plain))
    third, fourth = ddim_rows(plain)[2:]
    from_third = [[third[0], third[-1]], [fourth[0], 0.0, fourth[-1]]]
    fitted["solvers"]["4"]["rows_from"] = {"2": from_third}
    own = GaussianDiffusionScheduler(eta=0.0, solver_order=2, fitted_solvers=fitted)

    def from_place(scheduler, place, timesteps=None):
        x = x_T
        scheduler.set_timesteps(None if timesteps else 4, timesteps=timesteps)
        for t in scheduler.timesteps[place:]:
            x = scheduler.step(torch.tanh(0.5 * x), t, x).prev_sample
        return x

    assert_close(from_place(own, 2), from_place(plain, 2, TIMESTEPS))
    of_second_order = GaussianDiffusionScheduler(eta=0.0, solver_order=2)
    assert_close(from_place(own, 1), from_place(of_second_order, 1, TIMESTEPS))
    assert_close(from_place(own, 0), from_place(of_second_order, 0, TIMESTEPS))
    with pytest.raises(ValueError, match=r"\['4'\]\['rows_from'\]\['2'\] has 2 timesteps and rows of lengths \[2\]"):
        fitted["solvers"]["4"]["rows_from"] = {"2": from_third[:1]}
        GaussianDiffusionScheduler(eta=0.0, fitted_solvers=fitted)


ROWS = [[1.0] * (n + 2) for n in range(4)]


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"fitted_solvers": solvers(ROWS[:3])},
            r"\['4'\] has 4 timesteps and rows of lengths \[2, 3, 4\]; it needs 4",
        ),
        ({"fitted_solvers": solvers([*ROWS[:3], [1.0] * 4])}, r"lengths \[2, 3, 4, 4\]"),
        ({"fitted_solvers": solvers([*ROWS[:3], [1.0] * 4 + [math.nan]])}, r"\['4'\] has a row that is not finite"),
        (
            {"fitted_solvers": solvers(ROWS), "prediction_type": "sample"},
            "fitted for prediction_type='epsilon', and this",
        ),
        (
            {"fitted_solvers": solvers(ROWS), "clip_sample": False},
            "fitted for clip_sample=True, and this config has False",
        ),
        ({"fitted_solvers": solvers(ROWS), "beta_end": 0.01}, "fitted for alphas_bar_crc32=.*fit them again by"),
        (
            {"fitted_solvers": solvers(ROWS, solvers={"4": {"timesteps": [1, 2, 3, 4], "rows": ROWS}})},
            "must descend: each lower than the one before",
        ),
    ],
)
def test_bad_solvers(options, message):
    with pytest.raises(ValueError, match=message):
        GaussianDiffusionScheduler(eta=0.0, **options)


def test_another_guidance_scale_is_refused(tiny_unet):
    pipeline = GaussianDiffusionPipeline(
        tiny_unet(num_classes=3), GaussianDiffusionScheduler(eta=0.0, fitted_solvers=solvers(ROWS))
    )
    with pytest.raises(ValueError, match=r"fitted at guidance_scale=1.0, and this run has guidance_scale=3.0"):
        pipeline(class_labels=1, guidance_scale=3.0, num_inference_steps=4)


def test_a_number_of_steps_without_rows_is_said_once(diffusers_log):
    fitted = GaussianDiffusionScheduler(eta=0.0, fitted_solvers=solvers(ROWS))
    for _ in range(3):
        fitted.set_timesteps(17)
    assert diffusers_log.text.count("No solver was fitted for 17 steps, only for 4") == 1


# A free first call ----------------------------------------------------------------------------------------------------

MOMENTS = DataMoments(torch.full((1, 4, 4), 0.2), torch.tensor([0.5, 0.3]), 0.1, PrincipalAxes(torch.eye(16)[:2]))


def free_solvers(rows=None, **changes):
    rows = rows or [[0.5, -0.2, *[0.1 * (n + 1)] * (n + 2)] for n in range(4)]
    solver = {"timesteps": [700, 500, 300, 60], "rows": rows, "free_first_call": True}
    return solvers(None, solvers={"4": solver}, moments=MOMENTS.to_config()) | changes


def test_images_are_noised_to_where_a_free_first_call_begins():
    """Image to image at full strength adds the noise of the first timestep, where `step` takes x_T."""
    free, plain = GaussianDiffusionScheduler(eta=0.0, fitted_solvers=free_solvers()), GaussianDiffusionScheduler()
    x_0, noise = torch.randn(2, 2, 1, 4, 4)
    free.set_timesteps(4)
    assert_close(free.add_noise(x_0, noise, free.timesteps[:1]), plain.add_noise(x_0, noise, 999))
    assert_close(
        free.add_noise(x_0, noise, torch.tensor([700, 500])), plain.add_noise(x_0, noise, torch.tensor([999, 500]))
    )
    free.set_timesteps(timesteps=[700, 500])
    assert_close(free.add_noise(x_0, noise, 700), plain.add_noise(x_0, noise, 700))


def by_hand(scheduler, x_T):
    """x_n and x0_hat_j by their definitions, with the network of `run`."""
    timesteps, rows, _ = scheduler.config.fitted_solvers["solvers"]["4"].values()
    levels = {
        t: (scheduler.alpha_bar(t).item() ** 0.5, (1 - scheduler.alpha_bar(t).item()) ** 0.5)
        for t in [999, *timesteps, -1]
    }
    x, x0s = MOMENTS.flow(x_T, *levels[999], *levels[700]), [MOMENTS.predicted_x0(x_T, *levels[999])]
    for t, s, row in zip(timesteps, [*timesteps[1:], -1], rows, strict=True):
        a, sigma = levels[t]
        x0s.append(((x - sigma * torch.tanh(0.5 * x)) / a).clamp(-1, 1))
        x = sum(
            weight * term for weight, term in zip(row, [x, MOMENTS.flow(x, *levels[t], *levels[s]), *x0s], strict=True)
        )
    return x


def looped(scheduler, x, timesteps=None):
    """The loop of diffusers' pipelines: the network sees the scaled input, and `step` the sample itself."""
    for t in scheduler.timesteps if timesteps is None else timesteps:
        output = torch.tanh(0.5 * scheduler.scale_model_input(x, t))
        x = scheduler.step(output, t, x).prev_sample
    return x


def test_a_free_first_call_begins_by_the_flow_of_the_moments(x_T):
    scheduler = GaussianDiffusionScheduler(eta=0.0, fitted_solvers=free_solvers())
    scheduler.set_timesteps(4)
    expected = by_hand(scheduler, x_T)
    assert_close(looped(scheduler, x_T), expected, rtol=1e-6, atol=1e-6)
    assert_close(looped(scheduler, x_T), expected, rtol=1e-6, atol=1e-6)  # a second run, without set_timesteps
    assert_close(looped(scheduler, x_T, [700, 500, 300, 60]), expected, rtol=1e-6, atol=1e-6)


def test_other_runs_have_no_free_first_call(x_T):
    scheduler = GaussianDiffusionScheduler(eta=0.0, fitted_solvers=free_solvers())
    plain = GaussianDiffusionScheduler(eta=0.0)
    for options in ({"timesteps": [700, 500, 300, 60]}, {"num_inference_steps": 7}):
        scheduler.set_timesteps(**options)
        plain.set_timesteps(**options)
        assert_close(looped(scheduler, x_T), looped(plain, x_T), rtol=0, atol=0)


@pytest.mark.parametrize(
    "options, message",
    [
        (free_solvers(moments=None), "a free_first_call and no data moments"),
        (free_solvers(rows=[[1.0] * (n + 2) for n in range(4)]), r"lengths \[2, 3, 4, 5\]; it needs .* 4 .. 7"),
        (free_solvers(moments=MOMENTS.to_config() | {"shape": [1, 4, 5]}), "'mean' .* 16 numbers and needs 20"),
    ],
)
def test_bad_free_first_calls(options, message):
    with pytest.raises(ValueError, match=message):
        GaussianDiffusionScheduler(eta=0.0, fitted_solvers=options)


def test_samples_of_another_shape_and_noise_are_refused(x_T):
    scheduler = GaussianDiffusionScheduler(eta=0.0, fitted_solvers=free_solvers())
    scheduler.set_timesteps(4)
    with pytest.raises(
        ValueError, match=r"has moments of data of shape \(1, 4, 4\), and these samples are of \(1, 8, 8\)"
    ):
        scheduler.scale_model_input(torch.zeros(2, 1, 8, 8), 700)
    with pytest.raises(ValueError, match="was fitted to the flow, at eta=0, and this step has eta=1.0"):
        scheduler.step(torch.tanh(x_T), 700, x_T, eta=1.0)
