"""`ScoreSDEScheduler`: closed forms on Gaussian data, the DDPM as a process, configs, and refusals."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler, ScoreSdeVeScheduler
from torch.testing import assert_close

from ddpm_hf import ExactDenoiser, GaussianDiffusionScheduler, ScoreSDEScheduler

SDES = ("vp", "sub_vp", "ve")
MEAN, VARIANCE = 0.3, 0.04


def gaussian_score(scheduler):
    """The exact score of N(MEAN, VARIANCE) data as score(x, t), and its variance at t."""

    def moments(t):
        signal, sigma = scheduler.process.levels(torch.as_tensor(t, dtype=torch.float64))
        return signal * MEAN, signal**2 * VARIANCE + sigma**2

    return lambda x, t: (moments(t)[0] - x) / moments(t)[1], moments


@pytest.mark.parametrize("sde", SDES)
def test_drift_and_diffusion_are_the_derivatives_of_the_levels(sde):
    process = ScoreSDEScheduler(sde=sde).process
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64, requires_grad=True)
    signal, sigma = process.levels(t)
    # VE's signal is 1, whatever t is.
    (rate,) = torch.autograd.grad((signal.log() + 0 * t).sum(), t, retain_graph=True)
    (growth,) = torch.autograd.grad((sigma**2).sum(), t)
    assert_close(process.drift_rate(t.detach()), rate)
    assert_close(process.diffusion(t.detach()) ** 2, (growth - 2 * rate * sigma**2).detach())


@pytest.mark.parametrize("predictor", ["euler_maruyama", "reverse_diffusion", "ancestral"])
@pytest.mark.parametrize("sde", SDES)
def test_the_reverse_chain_ends_with_the_mean_and_variance_of_gaussian_data(sde, predictor):
    if (sde, predictor) == ("sub_vp", "ancestral"):
        return
    scheduler = ScoreSDEScheduler(sde=sde, predictor=predictor, num_train_timesteps=1000, prediction_type="score")
    score, _ = gaussian_score(scheduler)
    # Every step is affine in x and in the noise, so the mean and variance follow exactly, without drawing.
    mean, variance = 0.0, scheduler.init_noise_sigma**2
    noise = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    for t in scheduler.timesteps:
        x = mean + torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
        mean, at_one, at_noise = scheduler.step(score(x, t), t, x, noise=noise).prev_sample.flatten().tolist()
        variance = (at_one - mean) ** 2 * variance + (at_noise - mean) ** 2
    assert_close(mean, MEAN, rtol=0.02, atol=0)
    assert_close(variance, VARIANCE, rtol=0.06, atol=0)


@pytest.mark.parametrize("corrector", ["langevin", "annealed_langevin"])
@pytest.mark.parametrize("sde", SDES)
def test_the_corrector_leaves_the_marginal_as_it_is(sde, corrector):
    scheduler = ScoreSDEScheduler(sde=sde, corrector=corrector, snr=0.1, prediction_type="score")
    score, moments = gaussian_score(scheduler)
    mean, variance = moments(0.5)
    generator = torch.Generator().manual_seed(0)
    x = mean + variance.sqrt() * torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    for _ in range(10):
        x = scheduler.correct(score(x, 0.5), 0.5, x, generator=generator).prev_sample
    assert_close(x.mean(), mean, atol=0.02 * variance.sqrt().item(), rtol=0)
    assert_close(x.var(), variance, rtol=0.05, atol=0)


# A DDPM in continuous time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
def test_a_ddpm_has_the_noise_levels_of_its_timesteps(beta_schedule):
    ddpm = GaussianDiffusionScheduler(100, beta_schedule=beta_schedule, beta_end=0.2)
    scheduler = ScoreSDEScheduler.from_config(ddpm.config)
    t = torch.arange(1, 100).double() / 99
    signal, sigma = scheduler.process.levels(t)
    assert_close(signal**2, ddpm.alpha_bar(range(1, 100)))
    assert_close(sigma**2, 1 - ddpm.alpha_bar(range(1, 100)))
    assert_close(scheduler.network_time(t), torch.arange(1.0, 100))


def test_ancestral_sampling_of_a_ddpm_is_its_chain_with_the_variance_beta():
    ddpm = GaussianDiffusionScheduler(50, beta_end=0.4, clip_sample=False, variance_type="fixed_large")
    scheduler = ScoreSDEScheduler.from_config(ddpm.config, predictor="ancestral")
    x, noise, output = (torch.randn(3, 2, 4, 4, dtype=torch.float64) for _ in range(3))
    for i, t in zip(range(49, -1, -1), scheduler.timesteps, strict=True):
        assert_close(scheduler.network_time(t), torch.tensor(float(i)), atol=1e-3, rtol=0)
        # The score of the level itself, as the times end at sampling_eps above 0.
        ours = scheduler.step(output, max(i / 49, 1e-12), x, noise=noise)
        theirs = ddpm.step(output, i, x, variance_noise=noise)
        assert_close(ours.prev_sample_mean, ddpm.p_mean_variance(output, i, x).mean)
        if i > 0:
            assert_close(ours.prev_sample, theirs.prev_sample)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_the_score_follows_from_every_prediction(prediction_type):
    ddpm = GaussianDiffusionScheduler(100, beta_end=0.2, prediction_type=prediction_type, clip_sample=False)
    scheduler = ScoreSDEScheduler.from_config(ddpm.config)
    mean, variance = torch.full((1, 2), MEAN).double(), torch.full((1, 2), VARIANCE).double()
    denoiser = ExactDenoiser.from_gaussian_mixture(mean, variance, ddpm)
    x = torch.randn(5, 2, dtype=torch.float64)
    for t in (0.01, 0.3456, 1.0):  # between timesteps too
        signal, sigma = scheduler.process.levels(torch.tensor(t, dtype=torch.float64))
        output = denoiser(x, scheduler.network_time(t).double()).sample
        expected = (signal * MEAN - x) / (signal**2 * VARIANCE + sigma**2)
        assert_close(scheduler.score(output, t, x), expected, rtol=1e-4, atol=1e-5)


def test_a_chain_that_ends_without_signal_is_read():
    ddpm = DDPMScheduler(100, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    scheduler = ScoreSDEScheduler.from_config(ddpm.config)
    mean, std = scheduler.marginal(torch.ones(1, 2), 1.0)
    assert mean.abs().max() < 1e-6
    assert_close(std, torch.ones(1))
    drift, diffusion = scheduler.sde(torch.ones(1, 2), 1.0)
    assert drift.isfinite().all()
    assert diffusion.isfinite().all()


# Configs -------------------------------------------------------------------------------------------------------------


def test_from_config_reads_ours_and_those_of_diffusers(tmp_path):
    ve = ScoreSDEScheduler.from_config(ScoreSdeVeScheduler(500, snr=0.2, sigma_max=90.0, correct_steps=2).config)
    wanted = {"sde": "ve", "num_train_timesteps": 500, "snr": 0.2, "sigma_max": 90.0, "sigma_min": 0.01}
    wanted |= {"correct_steps": 2, "prediction_type": "score", "corrector": "langevin", "centered": False}
    assert wanted.items() <= dict(ve.config).items()
    assert ve.reads_sigma

    for stock in (DDPMScheduler, DDIMScheduler):
        ddpm = ScoreSDEScheduler.from_config(stock(200, beta_end=0.1, prediction_type="v_prediction").config)
        wanted = {"sde": "vp", "num_train_timesteps": 200, "beta_end": 0.1, "prediction_type": "v_prediction"}
        assert wanted.items() <= dict(ddpm.config).items()
        assert not ddpm.reads_sigma

    own = ScoreSDEScheduler(sde="sub_vp", snr=0.1, sampling_eps=1e-4, predictor="euler_maruyama", centered=False)
    own.save_pretrained(tmp_path)
    for again in (ScoreSDEScheduler.from_config(own.config), ScoreSDEScheduler.from_pretrained(tmp_path)):
        names = ("sde", "snr", "sampling_eps", "predictor", "centered")
        assert all(again.config[name] == own.config[name] for name in names)
    changed = ScoreSDEScheduler.from_config(own.config, predictor="reverse_diffusion")
    assert changed.config.predictor == "reverse_diffusion"
    assert changed.config.snr == 0.1


def test_the_stock_scheduler_agrees_with_a_step_and_a_correction():
    stock = ScoreSdeVeScheduler(50, sigma_max=50.0)
    ours = ScoreSDEScheduler.from_config(stock.config)
    for scheduler in (stock, ours):
        scheduler.set_timesteps(50)
    stock.set_sigmas(50)
    x, score = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    for i in (0, 7, 30):
        t = ours.timesteps[i]
        pairs = [
            (
                stock.step_correct(score, x, generator=torch.Generator().manual_seed(0)).prev_sample,
                ours.correct(score, t, x, generator=torch.Generator().manual_seed(0)).prev_sample,
            ),
            (
                stock.step_pred(score, t.float(), x, generator=torch.Generator().manual_seed(0)).prev_sample,
                ours.step(score, t, x, generator=torch.Generator().manual_seed(0)).prev_sample,
            ),
        ]
        for theirs, own in pairs:
            assert_close(own, theirs, rtol=1e-4, atol=1e-4)


def test_half_precision_is_computed_in_float32():
    scheduler = ScoreSDEScheduler()
    x, output, noise = (torch.randn(2, 1, 4, 4).bfloat16() for _ in range(3))
    step = scheduler.step(output, 0.5, x, noise=noise)
    assert step.prev_sample.dtype == torch.bfloat16
    exact = scheduler.step(output.float(), 0.5, x.float(), noise=noise.float())
    assert_close(step.prev_sample, exact.prev_sample.bfloat16())


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sde": "vpp"}, "sde='vpp' is not one of 'vp', 'sub_vp', 've'"),
        ({"predictor": "heun"}, "predictor='heun' is not one of"),
        ({"corrector": "ald"}, "corrector='ald' is not one of"),
        ({"prediction_type": "eps"}, "prediction_type='eps' is not one of"),
        ({"sde": "sub_vp", "predictor": "ancestral"}, "sde='sub_vp' does not have"),
        ({"predictor": "ancestral", "probability_flow": True}, "draws noise in every step"),
        ({"predictor": "none"}, "leave the noise as it is"),
        ({"num_train_timesteps": 20}, "Take more than 20 steps"),
        ({"num_train_timesteps": 10, "predictor": "euler_maruyama", "corrector": "langevin"}, "Take more than 20"),
        ({"sigma_min": 60.0}, "sigma_min=60.0 and sigma_max=50.0"),
        ({"beta_min": 30.0}, "beta_min=30.0 and beta_max=20.0"),
        ({"sampling_eps": 0.0}, "sampling_eps=0.0 must be in"),
        ({"snr": -0.1}, "snr=-0.1"),
        ({"correct_steps": 0}, "correct_steps=0"),
        ({"sde": "ve", "beta_schedule": "linear"}, "whose process is sde='vp'"),
    ],
)
def test_bad_options_are_refused_at_construction(options, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        ScoreSDEScheduler(**options)


def test_few_steps_need_no_discrete_form_with_euler_maruyama():
    scheduler = ScoreSDEScheduler(predictor="euler_maruyama")
    scheduler.set_timesteps(10)
    assert len(scheduler.timesteps) == 10
    scheduler = ScoreSDEScheduler()
    with pytest.raises(ValueError, match="10 steps are too few for beta_max=20"):
        scheduler.set_timesteps(10)


@pytest.mark.parametrize("t", [0.0, -0.1, 1.5, 999, torch.tensor([0.5, 2.0])])
def test_a_time_outside_of_the_process_is_refused(t):
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
        ScoreSDEScheduler().marginal(torch.zeros(2, 3), t)


def test_what_does_not_belong_together_is_refused():
    scheduler, x = ScoreSDEScheduler(), torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="one for all 2 samples"):
        scheduler.marginal(x, torch.full((3,), 0.5))
    with pytest.raises(ValueError, match="does not belong to samples"):
        scheduler.step(torch.zeros(2, 2, 4, 4), 0.5, x)
    with pytest.raises(ValueError, match="noise of shape"):
        scheduler.step(x, 0.5, x, noise=torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="has no correction"):
        scheduler.correct(x, 0.5, x)
    with pytest.raises(ValueError, match="give num_inference_steps"):
        scheduler.set_timesteps(timesteps=[1, 0])
    with pytest.raises(ValueError, match="of EDM or of a consistency model"):
        ScoreSDEScheduler.from_config(EDMEulerScheduler().config)


def test_a_vp_process_is_a_chain_at_the_times_of_whole_timesteps():
    sde = ScoreSDEScheduler(sde="vp", num_train_timesteps=50, prediction_type="v_prediction")
    chain = GaussianDiffusionScheduler.from_config(sde.config)
    times = torch.linspace(0, 1, 50, dtype=torch.float64)
    assert_close(sde.network_time(times), torch.arange(50.0))
    signal, sigma = sde.process.levels(times.clamp_min(1e-5))
    assert_close(chain.alphas_cumprod.double(), signal**2, rtol=1e-6, atol=0)
    assert_close(1 - chain.alpha_bar(torch.arange(50)), sigma**2, rtol=1e-6, atol=0)
    assert chain.config.prediction_type == "v_prediction" and not chain.config.clip_sample


def test_a_ddpm_read_in_continuous_time_is_its_chain_again():
    chain = GaussianDiffusionScheduler(beta_schedule="squaredcos_cap_v2", num_train_timesteps=30, clip_sample=False)
    again = GaussianDiffusionScheduler.from_config(ScoreSDEScheduler.from_config(chain.config).config)
    assert torch.equal(again.betas, chain.betas)


@pytest.mark.parametrize(
    "options", [{"sde": "ve"}, {"sde": "sub_vp"}, {"prediction_type": "score"}, {"centered": False}]
)
def test_no_chain_has_these_processes(options):
    with pytest.raises(ValueError, match="not of a DDPM but in continuous time"):
        GaussianDiffusionScheduler.from_config(ScoreSDEScheduler(**options).config)
