"""Uses of the scheduler: kinds of timesteps, dtypes, trajectories, configs, and errors for bad input."""

import copy
import json
import math
import pickle

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionScheduler

SPACINGS = ("leading", "linspace", "trailing", "quadratic", "logsnr", "karras")
VARIANCES = ("fixed_small", "fixed_large", "learned", "learned_range")


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(3, 6, 4, 4, dtype=torch.float64), torch.randn(3, 3, 4, 4, dtype=torch.float64)


# Timesteps and trajectories -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance_type", VARIANCES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_timesteps_as_ints_tensors_or_one_per_sample(batch, variance_type, eta):
    scheduler = GaussianDiffusionScheduler(variance_type=variance_type, eta=eta)
    scheduler.set_timesteps(10)
    output, x_t = batch
    noise = torch.randn_like(x_t)
    for t in (900, 300, 0):
        runs = [
            scheduler.step(output, timestep, x_t, variance_noise=noise).prev_sample
            for timestep in (t, torch.tensor(t), torch.tensor([t]), torch.full((3,), t))
        ]
        for run in runs[1:]:
            assert_close(run, runs[0], rtol=1e-12, atol=1e-12)
    mixed = scheduler.step(output, torch.tensor([900, 300, 0]), x_t, variance_noise=noise).prev_sample
    for i, t in enumerate((900, 300, 0)):
        alone = scheduler.step(output[i : i + 1], t, x_t[i : i + 1], variance_noise=noise[i : i + 1]).prev_sample
        assert_close(mixed[i : i + 1], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50, 333, 999, 1000])
def test_every_spacing_gives_distinct_descending_timesteps(spacing, steps):
    scheduler = GaussianDiffusionScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    assert len(timesteps) == steps == scheduler.num_inference_steps
    assert (timesteps.diff() < 0).all() and timesteps[-1] >= 0 and timesteps[0] <= 999
    if spacing in ("quadratic", "logsnr", "karras") and steps > 1:
        assert timesteps[0] == 999 and timesteps[-1] == 0


def test_alpha_bar_and_the_decoder_variance():
    scheduler = GaussianDiffusionScheduler()
    assert scheduler.alpha_bar(-1) == 1 and abs(scheduler.alpha_bar(0).item() - (1 - 1e-4)) < 1e-16
    assert_close(scheduler.alpha_bar(torch.arange(1000)).float(), scheduler.alphas_cumprod)
    posterior = scheduler.q_posterior(torch.zeros(1, 1).double(), torch.zeros(1, 1).double(), 1, 0).variance.item()
    assert scheduler.decoder_variance() == pytest.approx(posterior, rel=1e-12)
    scheduler.set_timesteps(timesteps=[900, 500])
    posterior = scheduler.q_posterior(torch.zeros(1, 1).double(), torch.zeros(1, 1).double(), 900, 500).variance.item()
    assert scheduler.decoder_variance() == pytest.approx(posterior, rel=1e-12)
    assert scheduler.decoder_variance(prev_timestep=-1) == GaussianDiffusionScheduler().decoder_variance()


def test_curved_spacings_are_even_in_what_they_say():
    scheduler = GaussianDiffusionScheduler()
    alpha_bar = scheduler.alpha_bar(range(len(scheduler))).numpy()
    sigma = np.sqrt((1 - alpha_bar) / alpha_bar)
    curves = {"quadratic": np.sqrt(np.arange(1000)), "logsnr": np.log(sigma), "karras": sigma ** (1 / 7)}
    for spacing, curve in curves.items():
        scheduler = GaussianDiffusionScheduler(timestep_spacing=spacing)
        scheduler.set_timesteps(8)
        placed = curve[scheduler.timesteps.numpy()]
        even = np.linspace(curve[-1], curve[0], 8)
        slack = np.abs(np.gradient(curve))[scheduler.timesteps.numpy()]  # timesteps are whole numbers
        assert (np.abs(placed - even) <= slack).all(), spacing


def test_given_timesteps_and_the_full_chain():
    scheduler = GaussianDiffusionScheduler()
    scheduler.set_timesteps(timesteps=[700, 40, 3])
    assert scheduler.timesteps.tolist() == [700, 40, 3]
    assert [scheduler.previous_timestep(t) for t in (700, 40, 3)] == [40, 3, -1]
    assert scheduler.previous_timestep(500) == 40  # off the trajectory: the next lower one on it
    scheduler.set_timesteps()
    assert scheduler.timesteps.tolist() == list(range(999, -1, -1)) and len(scheduler) == 1000


def test_a_new_trajectory_forgets_the_old(batch):
    output, x_t = batch[0][:, :3], batch[1]
    scheduler, fresh = GaussianDiffusionScheduler(eta=0.0), GaussianDiffusionScheduler(eta=0.0)
    scheduler.set_timesteps(50)
    scheduler.step(output, 900, x_t)
    scheduler.set_timesteps(10)
    fresh.set_timesteps(10)
    assert_close(scheduler.step(output, 900, x_t).prev_sample, fresh.step(output, 900, x_t).prev_sample)


def test_generators_are_the_only_randomness(batch):
    scheduler, x_t = GaussianDiffusionScheduler(), batch[1]
    output = batch[0][:, :3]
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    together = scheduler.step(output, 500, x_t, generator=generators).prev_sample
    for i in range(3):
        one = slice(i, i + 1)
        generator = torch.Generator().manual_seed(i)
        alone = scheduler.step(output[one], 500, x_t[one], generator=generator).prev_sample
        assert_close(together[one], alone, rtol=0, atol=0)
    state = torch.get_rng_state()
    scheduler.step(output, 500, x_t, generator=torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())
    ddim = torch.Generator().manual_seed(0)
    scheduler.step(output, 500, x_t, eta=0.0, generator=ddim)
    assert torch.equal(ddim.get_state(), torch.Generator().manual_seed(0).get_state())


# Precision ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance_type", VARIANCES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(batch, dtype, variance_type):
    """The output is the float64 result for the same half-precision input, rounded once."""
    scheduler = GaussianDiffusionScheduler(variance_type=variance_type)
    scheduler.set_timesteps(25)
    output, x_t = (tensor.to(dtype) for tensor in batch)
    noise = torch.randn_like(x_t)
    for t in scheduler.timesteps:
        half = scheduler.step(output, t, x_t, variance_noise=noise)
        exact = scheduler.step(output.double(), t, x_t.double(), variance_noise=noise.double())
        assert half.prev_sample.dtype == half.pred_original_sample.dtype == dtype
        eps = torch.finfo(dtype).eps
        assert_close(half.prev_sample.double(), exact.prev_sample, rtol=eps, atol=1e-5)
        kernel = scheduler.p_mean_variance(output, t, x_t)
        assert kernel.mean.dtype == torch.float32
        exact = scheduler.p_mean_variance(output.double(), t, x_t.double())
        assert_close(kernel.mean.double(), exact.mean, rtol=1e-5, atol=1e-5)
        assert_close(kernel.variance.double(), exact.variance, rtol=1e-5, atol=1e-12)


def test_float64_is_not_rounded():
    scheduler = GaussianDiffusionScheduler()
    x0 = torch.ones(1, 1, dtype=torch.float64)
    signal = scheduler.add_noise(x0, torch.zeros_like(x0), torch.tensor([0])).item()
    assert abs(signal - np.sqrt(1 - 1e-4)) < 1e-15


def test_gradients_flow_through_the_kernel(batch):
    """Objectives differentiate it: in-place arithmetic must not break that."""
    output, x_t = batch[0].requires_grad_(), batch[1]
    scheduler = GaussianDiffusionScheduler(variance_type="learned_range", num_train_timesteps=1000)

    def kernel(output):
        result = scheduler.p_mean_variance(output, torch.tensor([900, 300, 0]), x_t)
        return result.mean, result.variance

    assert torch.autograd.gradcheck(kernel, output)


# Configs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GaussianDiffusionScheduler._compatibles)
def test_converts_from_and_to_every_karras_scheduler(name, diffusers_log):
    stock = getattr(diffusers, name)
    if isinstance(stock, diffusers.utils.DummyObject):
        pytest.skip(f"{name} needs a package that is not installed")
    options = {"beta_schedule": "scaled_linear", "beta_end": 0.01, "prediction_type": "v_prediction"}
    options = {key: value for key, value in options.items() if key in stock._get_init_keys(stock)}
    ours = GaussianDiffusionScheduler.from_config(stock(**options).config, eta=0.25, timestep_spacing="karras")
    for key, value in options.items():
        assert ours.config[key] == value
    diffusers_log.clear()
    there = stock.from_config(ours.config)
    assert not any(ours in diffusers_log.text for ours in ("eta'", "karras", "use_clipped", "_ddpm_hf"))
    there.set_timesteps(5)
    back = GaussianDiffusionScheduler.from_config(there.config)
    assert (back.config.eta, back.config.timestep_spacing) == (0.25, "karras")
    for key, value in options.items():
        assert there.config[key] == back.config[key] == value


def test_edm_is_the_one_karras_scheduler_of_another_process():
    assert {e.name for e in KarrasDiffusionSchedulers} - {*GaussianDiffusionScheduler._compatibles} == {
        "EDMEulerScheduler"
    }


OF_OTHER_PROCESSES = (
    *("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "KarrasVeScheduler"),
    *("FlowMatchHeunDiscreteScheduler", "ScoreSdeVeScheduler", "CMStochasticIterativeScheduler", "IPNDMScheduler"),
    *("DDPMWuerstchenScheduler", "CogVideoXDDIMScheduler", "SCMScheduler"),
)


@pytest.mark.parametrize("name", OF_OTHER_PROCESSES)
def test_other_processes_are_refused_by_name(name):
    stock = getattr(diffusers, name)()
    with pytest.raises(ValueError, match="is not of a DDPM but of .*keep its own scheduler"):
        GaussianDiffusionScheduler.from_config(stock.config)
    with pytest.raises(ValueError, match=f"The scheduler config of {name} is not of a DDPM"):
        GaussianDiffusionScheduler.from_config(json.loads(stock.to_json_string()))


def test_flow_matching_with_a_solver_of_ddpms_is_refused():
    with pytest.raises(ValueError, match=r"of flow matching \(use_flow_sigmas\)"):
        GaussianDiffusionScheduler.from_config(diffusers.UniPCMultistepScheduler(use_flow_sigmas=True).config)


WITH_OTHER_DEFAULTS = (
    "LCMScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "TCDScheduler",
    "UnCLIPScheduler",
)


@pytest.mark.parametrize("name", [*WITH_OTHER_DEFAULTS, "DPMSolverMultistepScheduler", "DDIMScheduler"])
def test_a_config_in_memory_is_the_one_that_is_saved(name):
    stock = getattr(diffusers, name)()
    ours = GaussianDiffusionScheduler.from_config(stock.config)
    assert_close(ours.alphas_cumprod, stock.alphas_cumprod, rtol=1e-5, atol=1e-6)
    saved = GaussianDiffusionScheduler.from_config(json.loads(stock.to_json_string()))
    for key in GaussianDiffusionScheduler().config:
        assert ours.config[key] == saved.config[key] or key.startswith("_"), key


@pytest.mark.parametrize("name", sorted({*WITH_OTHER_DEFAULTS} - {"UnCLIPScheduler"}))  # which knows the cosine alone
def test_a_stock_class_with_other_defaults_takes_ours(name):
    ours = GaussianDiffusionScheduler()
    there = getattr(diffusers, name).from_config(ours.config)
    assert_close(there.alphas_cumprod, ours.alphas_cumprod, rtol=1e-5, atol=1e-6)


def test_saved_config_loads_as_stock_and_comes_back(tmp_path, diffusers_log):
    ours = GaussianDiffusionScheduler(eta=0.5, timestep_spacing="logsnr", variance_type="fixed_large", steps_offset=1)
    ours.save_pretrained(tmp_path / "ours")
    saved = json.loads((tmp_path / "ours" / "scheduler_config.json").read_text(encoding="utf-8"))
    assert saved["timestep_spacing"] == "leading" and saved["_ddpm_hf"]["timestep_spacing"] == "logsnr"

    stock = DDPMScheduler.from_pretrained(tmp_path / "ours")
    assert stock.config.variance_type == "fixed_large" and diffusers_log.text == ""
    stock.save_pretrained(tmp_path / "stock")
    for folder in ("ours", "stock"):
        loaded = GaussianDiffusionScheduler.from_pretrained(tmp_path / folder)
        for key in ("eta", "timestep_spacing", "variance_type", "steps_offset"):
            assert loaded.config[key] == ours.config[key], (folder, key)
    loaded.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "scheduler_config.json").read_text(encoding="utf-8"))
    assert {k: v for k, v in again.items() if k != "_diffusers_version"} == {
        k: v for k, v in saved.items() if k != "_diffusers_version"
    }


def test_accepts_the_ddpm_config_with_the_same_defaults():
    stock = dict(DDPMScheduler().config)
    ours = GaussianDiffusionScheduler().config
    assert {key: ours[key] for key in stock if not key.startswith("_")} == {
        key: value for key, value in stock.items() if not key.startswith("_")
    }


def test_copies_and_pickles_are_whole(batch):
    scheduler = GaussianDiffusionScheduler(eta=0.5, timestep_spacing="karras")
    scheduler.set_timesteps(5)
    noise = torch.randn_like(batch[1])
    step = scheduler.step(batch[0][:, :3], 999, batch[1], variance_noise=noise).prev_sample
    for other in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert other.config.eta == 0.5 and other.config["timestep_spacing"] == "karras"
        assert other.timesteps.tolist() == scheduler.timesteps.tolist()
        assert_close(other.step(batch[0][:, :3], 999, batch[1], variance_noise=noise).prev_sample, step)


def test_quadratic_betas_have_the_name_that_stock_classes_know():
    ours = GaussianDiffusionScheduler(beta_schedule="quadratic")
    assert ours.config.beta_schedule == "scaled_linear"
    assert_close(ours.betas, DDPMScheduler(beta_schedule="scaled_linear").betas)


def test_trained_betas_and_short_chains(batch):
    betas = np.linspace(0.1, 0.9, 5)
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=5, trained_betas=betas)
    assert_close(scheduler.betas, torch.from_numpy(betas).float())
    one = GaussianDiffusionScheduler(num_train_timesteps=1, trained_betas=[0.9])
    step = one.step(batch[0][:, :3], 0, batch[1])
    assert_close(step.prev_sample, step.pred_original_sample)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("options", [{}, {"thresholding": True}, {"variance_type": "learned"}])
def test_get_epsilon_is_the_noise_whatever_is_predicted_and_clipped(batch, prediction_type, options):
    scheduler = GaussianDiffusionScheduler(prediction_type=prediction_type, **options)
    x0, noise = 5 * batch[1], torch.randn_like(batch[1])
    for timesteps in (0, torch.tensor(400), torch.tensor([0, 400, 999])):
        exact = {"epsilon": noise, "sample": x0, "v_prediction": scheduler.get_velocity(x0, noise, timesteps)}
        output = exact[prediction_type]
        if options.get("variance_type") == "learned":
            output = torch.cat([output, torch.full_like(output, 7.0)], dim=1)
        x_t = scheduler.add_noise(x0, noise, timesteps)
        assert_close(scheduler.get_epsilon(output, timesteps, x_t), noise, rtol=1e-9, atol=1e-9)
        assert scheduler.get_epsilon(output.half(), timesteps, x_t.half()).dtype == torch.float32


def test_zero_terminal_snr(batch):
    scheduler = GaussianDiffusionScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    scheduler.set_timesteps(10)
    x_t = batch[1]
    pure = scheduler.add_noise(x_t, torch.ones_like(x_t), 999)
    assert_close(pure, torch.ones_like(x_t), rtol=0, atol=0)
    assert scheduler.step(batch[0][:, :3], 999, x_t).prev_sample.isfinite().all()
    no_signal = GaussianDiffusionScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(ValueError, match="999 has no signal.*v_prediction"):
        no_signal.set_timesteps(10)
    no_signal.set_timesteps(timesteps=[998, 0])
    for timestep in (999, torch.tensor([999, 3])):  # which is off the trajectory
        with pytest.raises(ValueError, match="999 has no signal.*v_prediction"):
            no_signal.step(x_t[:2], timestep, x_t[:2])
        with pytest.raises(ValueError, match="999 has no signal.*v_prediction"):
            no_signal.p_mean_variance(x_t[:2], timestep, x_t[:2])
    assert no_signal.q_posterior(x_t, x_t, 999).mean.isfinite().all()


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"variance_type": "other"}, "variance_type='other' is not one of 'fixed_small'"),
        ({"prediction_type": "eps"}, "prediction_type='eps' is not one of 'epsilon'"),
        ({"beta_schedule": "cosine"}, "beta_schedule='cosine' is not one of 'linear'.*squaredcos_cap_v2"),
        ({"timestep_spacing": "even"}, "timestep_spacing='even' is not one of 'leading'"),
        ({"num_train_timesteps": 0}, "num_train_timesteps=0 must be at least 1"),
        ({"num_train_timesteps": -5}, "num_train_timesteps=-5 must be at least 1"),
        ({"beta_end": 1.5}, r"beta must be in \(0, 1\); got 1.0"),
        ({"beta_start": -0.1, "beta_schedule": "scaled_linear"}, r"beta must be in \(0, 1\); got -0.1"),
        ({"trained_betas": [0.1, 0.2]}, r"shape \(2,\); num_train_timesteps=1000 needs \(1000,\)"),
        ({"trained_betas": [0.1, float("nan")], "num_train_timesteps": 2}, r"must be in \(0, 1\); got nan"),
        ({"eta": 1.5}, r"eta=1.5 must be in \[0, 1\]"),
        ({"eta": math.nan}, r"eta=nan must be in \[0, 1\]"),
        ({"num_train_timesteps": 10.5}, "num_train_timesteps=10.5 must be at least 1, and a whole number"),
        ({"num_train_timesteps": math.inf}, "num_train_timesteps=inf must be at least 1, and a whole number"),
        ({"steps_offset": math.inf}, "steps_offset=inf must be at least 0, and a whole number"),
        ({"steps_offset": -1}, "steps_offset=-1 must be at least 0"),
        ({"clip_sample_range": math.nan}, "clip_sample_range=nan must be greater than 0 and finite"),
        ({"clip_sample_range": 0}, "clip_sample_range=0 must be greater than 0 and finite"),
        ({"clip_sample_range": -1.0}, "clip_sample_range=-1.0 must be greater than 0 and finite"),
        ({"sample_max_value": math.inf}, "sample_max_value=inf must be greater than 0 and finite"),
        ({"dynamic_thresholding_ratio": 1.5}, r"dynamic_thresholding_ratio=1.5 must be in \(0, 1\]"),
        ({"clip_variance_pixels": math.nan}, "clip_variance_pixels=nan must be greater than 0 and finite, or None"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        GaussianDiffusionScheduler(**options)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_inference_steps": 0}, "num_inference_steps=0 must be in 1 .. 1000"),
        ({"num_inference_steps": 1001}, "num_inference_steps=1001 must be in 1 .. 1000"),
        ({"num_inference_steps": 3, "timesteps": [2, 1, 0]}, "not both"),
        ({"timesteps": []}, "at least one"),
        ({"timesteps": [10, 20]}, "must descend"),
        ({"timesteps": [10, 10, 5]}, "must descend"),
        ({"timesteps": [1000, 5]}, "must be in 0 .. 999"),
        ({"timesteps": [5, -1]}, "must be in 0 .. 999"),
        ({"timesteps": [5.5, 1]}, "whole number"),
    ],
)
def test_bad_timesteps(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianDiffusionScheduler().set_timesteps(**arguments)


def test_leading_offset_beyond_the_chain():
    with pytest.raises(ValueError, match="steps_offset=1 end at timestep 1000"):
        GaussianDiffusionScheduler(steps_offset=1).set_timesteps(1000)


@pytest.mark.parametrize("timestep", [-1, 1000, torch.tensor(1000), torch.tensor([0, 1, 1000])])
def test_timestep_out_of_range(batch, timestep):
    scheduler, output, x_t = GaussianDiffusionScheduler(), batch[0][:, :3], batch[1]
    for call in (
        lambda: scheduler.step(output, timestep, x_t),
        lambda: scheduler.p_mean_variance(output, timestep, x_t),
        lambda: scheduler.add_noise(x_t, x_t, timestep),
    ):
        with pytest.raises(ValueError, match=r"must be in 0 \.\. 999; got (-1|1000)"):
            call()


def test_prev_timestep_out_of_order(batch):
    with pytest.raises(ValueError, match="prev_timestep=500 must be in -1 .. timestep - 1"):
        GaussianDiffusionScheduler().p_mean_variance(batch[0][:, :3], 500, batch[1], prev_timestep=500)


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_bad_eta(batch, eta):
    with pytest.raises(ValueError, match="eta=.* must be in"):
        GaussianDiffusionScheduler().step(batch[0][:, :3], 5, batch[1], eta=eta)


UNSUITABLE = [
    (lambda s, x: s.add_noise(x.to(torch.uint8), x, 5), "dtype torch.uint8 must be real floating-point"),
    (lambda s, x: s.add_noise(x.to(torch.complex64), x, 5), "dtype torch.complex64 must be real"),
    (lambda s, x: s.add_noise(x, x[:, :, :1], 5), r"shape \(3, 3, 4, 4\) and \(3, 3, 1, 4\) must have one shape"),
    (lambda s, x: s.get_velocity(x.int(), x.int(), 5), "dtype torch.int32 must be real"),
    (lambda s, x: s.add_noise(x, x, torch.tensor([1, 2])), r"Timesteps of shape \(2,\) must be one for all 3 samples"),
    (lambda s, x: s.add_noise(x, x, torch.tensor([1.0, 2.0, 3.0])), "Timesteps of dtype torch.float32 must be whole"),
    (lambda s, x: s.q_posterior(x, x[:, :1], 5), r"and \(3, 1, 4, 4\) must have one shape"),
    (lambda s, x: s.get_epsilon(x, 2.5, x), "Timesteps of dtype torch.float32 must be whole"),
    (lambda s, x: s.step(x, 5, x.byte()), "dtype torch.uint8 must be real"),
    (lambda s, x: s.step(x.int(), 5, x.int()), "dtype torch.int32 must be real"),
    (lambda s, x: s.step(x, 5, x.to(torch.complex128)), "dtype torch.complex128 must be real"),
    (
        lambda s, x: s.step(x[:1], 5, x),
        r"output of shape \(1, 3, 4, 4\) does not belong to samples of shape \(3, 3, 4, 4\)",
    ),
    (lambda s, x: s.step(x[..., :1], 5, x), r"output of shape \(3, 3, 4, 1\) does not belong"),
    (lambda s, x: s.step(x, 5.5, x), "timestep=5.5 must be a whole number"),
    (lambda s, x: s.step(x, torch.tensor(5.5), x), r"timestep=tensor\(5.5000\) must be a whole number"),
    (
        lambda s, x: s.step(x, 5, x, variance_noise=x[:1]),
        r"variance_noise of shape \(1, 3, 4, 4\) must be of the sample's",
    ),
    (lambda s, x: s.previous_timestep(-5), r"must be in 0 \.\. 999; got -5"),
    (lambda s, x: s.previous_timestep(torch.tensor([3, 1000])), r"must be in 0 \.\. 999; got 1000"),
    (lambda s, x: s.q_posterior(x.byte(), x.byte(), 5), "dtype torch.uint8 must be real"),
]


@pytest.mark.parametrize("call, message", UNSUITABLE)
def test_unsuitable_tensors_are_named(batch, call, message):
    with pytest.raises(ValueError, match=message):
        call(GaussianDiffusionScheduler(), batch[1])


@pytest.mark.parametrize("variance_type", ["learned", "learned_range"])
@pytest.mark.parametrize("value", [-100.0, -30.0, 30.0, 100.0])
def test_no_value_of_a_head_overflows(batch, variance_type, value):
    scheduler, x_t = GaussianDiffusionScheduler(variance_type=variance_type), batch[1].float()
    output = torch.cat([x_t, torch.full_like(x_t, value)], dim=1)
    for t in (0, 1, 500, 999):
        kernel = scheduler.p_mean_variance(output, t, x_t)
        assert kernel.variance.isfinite().all() and (kernel.variance > 0).all()
        assert scheduler.step(output, t, x_t).prev_sample.isfinite().all()


def test_wrong_number_of_channels(batch):
    output, x_t = batch
    with pytest.raises(ValueError, match="4 channels for samples of 3.*needs 3 or 6"):
        GaussianDiffusionScheduler().step(output[:, :4], 5, x_t)
    with pytest.raises(ValueError, match="3 channels for samples of 3.*'learned_range' needs 6.*variance head"):
        GaussianDiffusionScheduler(variance_type="learned_range").step(output[:, :3], 5, x_t)
    # A head may be ignored: the fixed variances of a model with a learned one.
    ignored = GaussianDiffusionScheduler(eta=0.0).step(output, 5, x_t).prev_sample
    assert_close(ignored, GaussianDiffusionScheduler(eta=0.0).step(output[:, :3], 5, x_t).prev_sample)


def test_arguments_given_by_position_are_kept_by_copies():
    copy = GaussianDiffusionScheduler.from_config(GaussianDiffusionScheduler(400, 2e-4).config)
    assert (len(copy), copy.config.beta_start) == (400, 2e-4)
    assert DDPMScheduler.from_config(GaussianDiffusionScheduler(400).config).config.num_train_timesteps == 400
