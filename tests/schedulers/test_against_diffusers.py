"""The scheduler equals diffusers' schedulers where those are right, and the right numbers where they are not."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionScheduler

BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
CLOSE = {"rtol": 1e-4, "atol": 2e-5}  # theirs are float32 tables: 1 - abar_0 is off by up to 5e-4


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)


def walk(scheduler, output, sample, **kwargs):
    """All samples of a run in which the model's output never changes."""
    generator, samples = torch.Generator().manual_seed(0), []
    for t in scheduler.timesteps:
        sample = scheduler.step(output, t, sample, generator=generator, **kwargs).prev_sample
        samples.append(sample)
    return torch.stack(samples)


@pytest.mark.parametrize("beta_schedule", [*BETAS, "laplace"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_betas(beta_schedule, zero_snr):
    kwargs = {"beta_schedule": beta_schedule, "rescale_betas_zero_snr": zero_snr, "prediction_type": "v_prediction"}
    ours, theirs = GaussianDiffusionScheduler(**kwargs), DDPMScheduler(**kwargs)
    assert_close(ours.betas, theirs.betas, rtol=1e-3, atol=1e-6)
    assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [1, 3, 7, 10, 25, 33, 50, 999, 1000])
def test_timesteps(spacing, steps):
    ours = GaussianDiffusionScheduler(timestep_spacing=spacing)
    theirs = DDPMScheduler(timestep_spacing=spacing)
    ours.set_timesteps(steps)
    theirs.set_timesteps(steps)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_small_log", "fixed_large"])
@pytest.mark.parametrize("beta_schedule", BETAS)
def test_ddpm_run(batch, beta_schedule, variance_type, prediction_type, clip):
    kwargs = {
        "beta_schedule": beta_schedule,
        "variance_type": variance_type,
        "prediction_type": prediction_type,
        "clip_sample": clip,
    }
    ours, theirs = GaussianDiffusionScheduler(**kwargs), DDPMScheduler(**kwargs)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(20)
    assert_close(walk(ours, *batch), walk(theirs, *batch), **CLOSE)


def test_ddpm_run_with_learned_range(batch):
    output = torch.cat([batch[0], batch[0].tanh()], dim=1)
    ours = GaussianDiffusionScheduler(variance_type="learned_range")
    theirs = DDPMScheduler(variance_type="learned_range")
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(20)
    assert_close(walk(ours, output, batch[1]), walk(theirs, output, batch[1]), **CLOSE)


def test_ddpm_run_with_dynamic_thresholding(batch):
    kwargs = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}
    ours, theirs = GaussianDiffusionScheduler(**kwargs), DDPMScheduler(**kwargs)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(20)
    assert_close(walk(ours, *batch), walk(theirs, *batch), **CLOSE)


@pytest.mark.parametrize("rederive", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_ddim_run(batch, prediction_type, eta, rederive):
    ours = GaussianDiffusionScheduler(prediction_type=prediction_type)
    theirs = DDIMScheduler(prediction_type=prediction_type)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(20)  # leading: their constant stride is right
    kwargs = {"eta": eta, "use_clipped_model_output": rederive}
    assert_close(walk(ours, *batch, **kwargs), walk(theirs, *batch, **kwargs), **CLOSE)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_forward_process(batch, prediction_type):
    ours, theirs = GaussianDiffusionScheduler(), DDPMScheduler()
    t = torch.tensor([0, 700])
    assert_close(ours.add_noise(*batch, t), theirs.add_noise(*batch, t), **CLOSE)
    assert_close(ours.get_velocity(*batch, t), theirs.get_velocity(*batch, t), **CLOSE)


# Where diffusers is not right -----------------------------------------------------------------------------------------


def test_fixed_large_log_is_fixed_large(batch):
    runs = []
    for variance_type in ("fixed_large", "fixed_large_log"):
        scheduler = GaussianDiffusionScheduler(variance_type=variance_type)
        scheduler.set_timesteps(5)
        runs.append(walk(scheduler, *batch))
    assert_close(runs[0], runs[1], rtol=0, atol=0)
    assert runs[0].isfinite().all()  # diffusers: NaN at every step


def test_learned_is_a_log_variance(batch):
    scheduler = GaussianDiffusionScheduler(variance_type="learned")
    scheduler.set_timesteps(5)
    log_variance = torch.full_like(batch[0], -3.0)  # diffusers: its square root, NaN
    kernel = scheduler.p_mean_variance(torch.cat([batch[0], log_variance], dim=1), 600, batch[1])
    assert_close(kernel.variance, log_variance.exp())


@pytest.mark.parametrize("options", [{"timestep_spacing": "trailing"}, {"steps_offset": 1}])
def test_no_noise_is_left_in_the_image(batch, options):
    """The last step goes to clean data, whatever its timestep; diffusers adds noise of std 0.32 and 0.015 here."""
    scheduler = GaussianDiffusionScheduler(variance_type="fixed_large", **options)
    scheduler.set_timesteps(10)
    t = scheduler.timesteps[-1]
    assert t > 0
    step = scheduler.step(batch[0], t, batch[1], generator=torch.Generator().manual_seed(0))
    assert_close(step.prev_sample, step.pred_original_sample)


@pytest.mark.parametrize("spacing", ["linspace", "trailing", "quadratic", "karras", "logsnr"])
@pytest.mark.parametrize("steps", [7, 10, 30])
def test_previous_timestep_is_read_from_the_trajectory(spacing, steps):
    scheduler = GaussianDiffusionScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    previous = scheduler.previous_timestep(scheduler.timesteps)
    assert previous.tolist() == [*scheduler.timesteps[1:].tolist(), -1]


def test_learned_variance_runs_as_ddim(batch):
    """diffusers' DDIM crashes on 2C channels; eta = 0 needs no variance at all."""
    output = torch.cat([batch[0], batch[0].tanh()], dim=1)
    learned = GaussianDiffusionScheduler(variance_type="learned_range", eta=0.0)
    plain = GaussianDiffusionScheduler(eta=0.0)
    assert_close(learned.step(output, 500, batch[1]).prev_sample, plain.step(batch[0], 500, batch[1]).prev_sample)


def test_clipped_ddpm_step_is_the_ddim_step_at_eta_1(batch):
    small, direct = GaussianDiffusionScheduler(), GaussianDiffusionScheduler(use_clipped_model_output=False)
    theirs = DDPMScheduler()
    noise = {"generator": torch.Generator().manual_seed(0)}
    expected = theirs.step(batch[0], 500, batch[1], **noise).prev_sample
    noise["generator"].manual_seed(0)
    assert_close(small.step(batch[0], 500, batch[1], **noise).prev_sample, expected, rtol=0, atol=1e-5)
    noise["generator"].manual_seed(0)
    raw = direct.step(batch[0], 500, batch[1], **noise).prev_sample
    assert (raw - expected).abs().max() > 0.5  # the raw eps is another step, by whole units


def test_first_timesteps_get_noise_in_half_precision():
    """diffusers casts abar before the square root: the first 10 timesteps (21 of cosine) get no noise in bf16."""
    for beta_schedule in ("linear", "squaredcos_cap_v2"):
        for dtype in (torch.bfloat16, torch.float16):
            scheduler = GaussianDiffusionScheduler(beta_schedule=beta_schedule)
            zeros, ones = torch.zeros(1000, 1, dtype=dtype), torch.ones(1000, 1, dtype=dtype)
            noise = scheduler.add_noise(zeros, ones, torch.arange(1000))
            exact = scheduler.add_noise(zeros.double(), ones.double(), torch.arange(1000))
            assert_close(noise.double(), exact, rtol=torch.finfo(dtype).eps, atol=0)
            assert (noise > 0).all()


@pytest.mark.parametrize("steps, alpha_bar", [(100, "0.364"), (200, "0.132")])
def test_a_chain_that_does_not_end_in_noise_is_said(diffusers_log, steps, alpha_bar):
    GaussianDiffusionScheduler(num_train_timesteps=steps)
    assert alpha_bar in diffusers_log.text and "rescale_betas_zero_snr" in diffusers_log.text
    diffusers_log.clear()
    scale = 1000 / steps
    assert f"beta_end={0.02 * scale:g}" not in diffusers_log.text
    GaussianDiffusionScheduler(steps, beta_start=1e-4 * scale, beta_end=0.02 * scale)
    GaussianDiffusionScheduler(steps, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    assert diffusers_log.text == ""
