"""Every number of the scheduler against the published implementations' (tests/reference), to 1e-6 relative."""

import pytest
import torch
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionScheduler

SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
CHAINS = ("full", "respace_25", "respace_50", "respace_100", "respace_ddim25")
PREDICTIONS = {"EPSILON": ("epsilon", "model_eps"), "START_X": ("sample", "model_x0")}
HEADS = {"LEARNED": "head_logvar", "LEARNED_RANGE": "head_range"}
CLOSE = {"rtol": 1e-6, "atol": 1e-10}


def scheduler_on(reference, schedule, chain, **kwargs):
    scheduler = GaussianDiffusionScheduler(beta_schedule=SCHEDULES[schedule], **kwargs)
    if chain != "full":
        kept = reference("schedules")[f"{schedule}/{chain}/timesteps"]
        scheduler.set_timesteps(timesteps=kept.flip(0))
    return scheduler


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1000, 400])
def test_schedules(reference, schedule, steps):
    arrays = reference("schedules")
    key = schedule if steps == 1000 else f"{schedule}_alt"
    scale = 1000 / steps
    scheduler = GaussianDiffusionScheduler(
        steps, beta_start=1e-4 * scale, beta_end=0.02 * scale, beta_schedule=SCHEDULES[schedule]
    )
    assert_close(scheduler.betas, arrays[f"{key}/betas"].float())
    assert_close(scheduler.alphas_cumprod, arrays[f"{key}/alphas_cumprod"].float())

    # Through the public methods, in float64: the posterior of unit x0 and x_t gives the two coefficients.
    zero, one = torch.zeros(steps, 1, dtype=torch.float64), torch.ones(steps, 1, dtype=torch.float64)
    t = torch.arange(steps)
    posterior = scheduler.q_posterior(one, zero, t)
    assert_close(posterior.mean[:, 0], arrays[f"{key}/posterior_mean_coef1"], **CLOSE)
    assert_close(posterior.variance[:, 0], arrays[f"{key}/posterior_variance"], **CLOSE)
    assert_close(scheduler.q_posterior(zero, one, t).mean[:, 0], arrays[f"{key}/posterior_mean_coef2"], **CLOSE)
    noise_only = scheduler.add_noise(zero, one, t)[:, 0]
    assert_close(2 * noise_only.log(), arrays[f"{key}/log_one_minus_alphas_cumprod"], **CLOSE)


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("variance", ["FIXED_SMALL", "FIXED_LARGE", "LEARNED", "LEARNED_RANGE"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ancestral_kernel(reference, schedule, chain, prediction, variance, clip):
    arrays, key = reference("idiff_p_mean_variance"), f"{schedule}/{chain}"
    prediction_type, output = PREDICTIONS[prediction]
    scheduler = scheduler_on(
        reference,
        schedule,
        chain,
        prediction_type=prediction_type,
        variance_type=variance.lower(),
        clip_sample=bool(clip),
    )
    t, x_t = arrays[f"{key}/timestep"], arrays[f"{key}/in/x_t"]
    output = arrays[f"{key}/in/{output}"]
    if variance in HEADS:
        output = torch.cat([output, arrays[f"{key}/in/{HEADS[variance]}"]], dim=1)
    expected_variance = arrays[f"{key}/{variance}/variance"]
    if expected_variance.ndim == 1:
        expected_variance = expected_variance[:, None, None, None].expand_as(x_t)

    assert_close(scheduler.previous_timestep(t), arrays[f"{key}/prev_timestep"])
    kernel = scheduler.p_mean_variance(output, t, x_t)
    assert_close(kernel.mean, arrays[f"{key}/{prediction}/clip{clip}/mean"], **CLOSE)
    assert_close(kernel.pred_original_sample, arrays[f"{key}/{prediction}/clip{clip}/pred_xstart"], **CLOSE)
    assert_close(kernel.variance, expected_variance, **CLOSE)
    noise = arrays[f"{key}/in/step_noise"]
    expected = arrays[f"{key}/{prediction}/{variance}/clip{clip}/p_sample"]
    assert_close(scheduler.step(output, t, x_t, variance_noise=noise).prev_sample, expected, **CLOSE)
    for row in range(len(t)):  # one timestep at a time, as sampling does
        one = slice(row, row + 1)
        step = scheduler.step(output[one], t[row].item(), x_t[one], variance_noise=noise[one])
        assert_close(step.prev_sample, expected[one], **CLOSE)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_forward_process(reference, schedule, chain):
    arrays, key = reference("idiff_p_mean_variance"), f"{schedule}/{chain}"
    scheduler = scheduler_on(reference, schedule, chain)
    t, x0, x_t = (arrays[f"{key}/{name}"] for name in ("timestep", "in/x0", "in/x_t"))
    assert_close(scheduler.add_noise(x0, arrays[f"{key}/in/noise"], t), x_t, **CLOSE)
    posterior = scheduler.q_posterior(x0, x_t, t)
    assert_close(posterior.mean, arrays[f"{key}/q_posterior/mean"], **CLOSE)
    assert_close(posterior.variance[:, 0, 0, 0], arrays[f"{key}/q_posterior/variance"], **CLOSE)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("chain", ["full", "respace_25", "respace_ddim25"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_step(reference, schedule, chain, prediction, clip, eta):
    arrays, key = reference("idiff_ddim"), f"{schedule}/{chain}"
    prediction_type, output = PREDICTIONS[prediction]
    scheduler = scheduler_on(reference, schedule, chain, prediction_type=prediction_type, clip_sample=bool(clip))
    t, x_t, output = (arrays[f"{key}/{name}"] for name in ("timestep", "in/x_t", f"in/{output}"))
    expected = f"{key}/{prediction}/clip{clip}/eta{eta}"
    assert_close(scheduler.p_mean_variance(output, t, x_t, eta=eta).mean, arrays[f"{expected}/mean"], **CLOSE)
    step = scheduler.step(output, t, x_t, eta=eta, variance_noise=arrays[f"{key}/in/step_noise"])
    assert_close(step.prev_sample, arrays[f"{expected}/sample"], **CLOSE)


@pytest.fixture
def pairs(reference):
    """The transitions of eadpm_steps, one a row: timestep, prev_timestep, and a function that reads inputs."""
    arrays = reference("eadpm_steps")
    t, s = (arrays[name].repeat_interleave(2) for name in ("timestep", "prev_timestep"))
    return t, s, lambda key: arrays[key].flatten(0, 1) if arrays[key].ndim > 1 else arrays[key].repeat_interleave(2)


# Their code keeps the network's eps when x0 is clipped in DDIM steps; the DDPM step has no eps to keep.
KINDS = {"ddpm": (1.0, True), "ddim_eta0": (0.0, False), "ddim_eta0.5": (0.5, False), "ddim_eta1": (1.0, False)}


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_transitions_between_any_two_timesteps(pairs, schedule, kind, clip):
    t, s, array = pairs
    eta, rederive = KINDS[kind]
    x_t, key = array(f"{schedule}/in/x_t"), f"{schedule}/{kind}"
    options = {"beta_schedule": SCHEDULES[schedule], "clip_sample": bool(clip), "use_clipped_model_output": rederive}

    for prediction_type, output, mean in (("epsilon", "eps", "mean"), ("sample", "x0_pred", "mean_from_x0_pred")):
        scheduler = GaussianDiffusionScheduler(prediction_type=prediction_type, **options)
        output = array(f"{schedule}/in/{output}")
        kernel = scheduler.p_mean_variance(output, t, x_t, s, eta=eta)
        assert_close(kernel.mean, array(f"{key}/clipx0_{clip}/{mean}"), **CLOSE)
        assert_close(kernel.variance[:, 0, 0, 0], array(f"{key}/small/var"), **CLOSE)
        for row in (0, 11, 20):  # the same by whole numbers, one pair at a time
            one = slice(row, row + 1)
            alone = scheduler.p_mean_variance(output[one], t[row].item(), x_t[one], s[row].item(), eta=eta)
            assert_close(alone.mean, kernel.mean[one], **CLOSE)
    posterior = scheduler.q_posterior(array(f"{schedule}/in/x0"), x_t, t, s, eta=eta)
    assert_close(posterior.mean, array(f"{key}/q_posterior_mean"), **CLOSE)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_large_and_learned_variances_between_any_two_timesteps(pairs, schedule):
    t, s, array = pairs
    x_t, eps, v = (array(f"{schedule}/in/{name}") for name in ("x_t", "eps", "iddpm_v"))
    large = GaussianDiffusionScheduler(beta_schedule=SCHEDULES[schedule], variance_type="fixed_large")
    variance = large.p_mean_variance(eps, t, x_t, s).variance[:, 0, 0, 0]
    assert_close(variance, array(f"{schedule}/ddpm/big/var"), **CLOSE)
    learned = GaussianDiffusionScheduler(beta_schedule=SCHEDULES[schedule], variance_type="learned_range")
    variance = learned.p_mean_variance(torch.cat([eps, v], dim=1), t, x_t, s).variance
    assert_close(variance, array(f"{schedule}/ddpm/optimal/eps_iddpm/var"), **CLOSE)
