"""The terms of the bound against published implementations (tests/reference), and their general properties."""

import math

import pytest
import torch
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionScheduler
from ddpm_hf.evaluation import variational_bound
from ddpm_hf.evaluation.variational_bound import (
    bound_term,
    discretized_gaussian_log_likelihood,
    normal_kl,
    prior_term,
)

SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
PREDICTIONS = {"EPSILON": ("epsilon", "model_eps"), "START_X": ("sample", "model_x0")}
HEADS = {"LEARNED": "head_logvar", "LEARNED_RANGE": "head_range"}
VARIANCES = ("FIXED_SMALL", "FIXED_LARGE", "LEARNED", "LEARNED_RANGE")
CLOSE = {"rtol": 1e-6, "atol": 1e-12}
BITS_PER_DIM = 48 * math.log(2)  # of images (3, 4, 4), in nats


def tanh_log_likelihood(x, mean, log_std, levels=256):
    """Improved DDPM's approximation of the normal distribution function, and its floor: for comparisons only."""
    half_bin = 1 / (levels - 1)

    def cdf(z):
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    above, below = (cdf((x - mean + h) / log_std.exp()) for h in (half_bin, -half_bin))
    probability = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return probability.clamp(min=1e-12).log()


@pytest.fixture
def approximate_decoder(monkeypatch):
    monkeypatch.setattr(variational_bound, "discretized_gaussian_log_likelihood", tanh_log_likelihood)


def make_scheduler(schedule, timesteps=None, **kwargs):
    """`timesteps` ascending; all by default."""
    scheduler = GaussianDiffusionScheduler(beta_schedule=SCHEDULES[schedule], **kwargs)
    if timesteps is not None:
        scheduler.set_timesteps(timesteps=timesteps.flip(0))
    return scheduler


# Against the references ----------------------------------------------------------------------------------------------


def test_kl(reference):
    arrays = reference("idiff_losses")
    kl = normal_kl(*(arrays[f"kl/{name}"] for name in ("mean1", "logvar1", "mean2", "logvar2")))
    assert_close(kl, arrays["kl/value"], **CLOSE)


def test_discretized_likelihood(reference):
    arrays = reference("idiff_losses")
    x, mean, log_std, approximate, exact = (
        arrays[f"dgll/{name}"] for name in ("x", "means", "log_scales", "log_prob", "log_prob_exact_cdf")
    )
    assert exact.min() < -10_000  # the tails are in it
    log_likelihood = discretized_gaussian_log_likelihood(x, mean, log_std)
    assert_close(log_likelihood, exact, **CLOSE)
    assert_close(tanh_log_likelihood(x, mean, log_std), approximate, **CLOSE)
    # The two agree where the reference's approximation is good.
    bulk = exact > -3
    assert_close(log_likelihood[bulk], approximate[bulk], rtol=0, atol=0.005)
    in_float32 = discretized_gaussian_log_likelihood(x.float(), mean.float(), log_std.float())
    assert_close(in_float32.double(), exact, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("chain", ["full", "respace_25"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_terms(reference, approximate_decoder, schedule, chain, prediction, variance, clip):
    arrays, key = reference("idiff_losses"), f"{schedule}/{chain}"
    prediction_type, output = PREDICTIONS[prediction]
    timesteps = None if chain == "full" else reference("schedules")[f"{key}/timesteps"]
    options = {"prediction_type": prediction_type, "variance_type": variance.lower(), "clip_sample": bool(clip)}
    scheduler = make_scheduler(schedule, timesteps, **options)
    t, x0, x_t = (arrays[f"{key}/{name}"] for name in ("timestep", "in/x0", "in/x_t"))
    output = arrays[f"{key}/in/{output}"]
    if variance in HEADS:
        output = torch.cat([output, arrays[f"{key}/in/{HEADS[variance]}"]], dim=1)
    expected = arrays[f"{key}/vb/{prediction}/{variance}/clip{clip}"] * BITS_PER_DIM

    assert t[0] == 0  # the decoder and transitions, in one batch
    assert_close(bound_term(scheduler, output, t, x0, x_t), expected, **CLOSE)
    for row in range(len(t)):  # one timestep at a time, as evaluation does, and as a tensor of no dimensions
        one, timestep = slice(row, row + 1), t[row] if row % 2 else t[row].item()
        assert_close(bound_term(scheduler, output[one], timestep, x0[one], x_t[one]), expected[one], **CLOSE)


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("variance", ["FIXED_SMALL", "FIXED_LARGE", "LEARNED_RANGE"])
@pytest.mark.parametrize("model", ["exact", "imperfect"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_whole_bound_at_25_steps(reference, approximate_decoder, schedule, model, variance, clip):
    arrays, key = reference("idiff_bpd"), f"k25/{schedule}"
    timesteps, x0, noise = (arrays[name] for name in (f"{key}/timesteps", "k25/x0", "k25/noise"))
    scheduler = make_scheduler(schedule, timesteps, variance_type=variance.lower(), clip_sample=bool(clip))
    outputs = torch.cat([arrays[f"{key}/{model}/{head}"] for head in ("model_eps", "head_range")], dim=2)
    check_whole_bound(arrays, f"{key}/{model}/{variance}/clip{clip}", scheduler, timesteps, x0, noise, outputs)


@pytest.mark.parametrize("variance", ["FIXED_SMALL", "FIXED_LARGE", "LEARNED_RANGE"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_whole_bound_at_1000_steps(reference, approximate_decoder, schedule, variance):
    arrays, key = reference("idiff_bpd"), f"full/{schedule}"
    x0, noise, epsilon = (arrays[name] for name in ("full/x0", "full/noise", f"{key}/model_eps"))
    scheduler = make_scheduler(schedule, variance_type=variance.lower())
    t = torch.arange(1000)
    head = scheduler.add_noise(x0.expand(1000, -1, -1, -1), noise[:, 0].double(), t).sin()[:, None]
    outputs = torch.cat([epsilon, head], dim=2)
    check_whole_bound(arrays, f"{key}/{variance}/clip1", scheduler, t, x0, noise.double(), outputs)


def check_whole_bound(arrays, expected, scheduler, timesteps, x0, noise, outputs):
    """noise, outputs: (K, B, ..), timesteps ascending."""
    terms = []
    for t, eps, output in zip(timesteps.tolist(), noise, outputs, strict=True):
        terms.append(bound_term(scheduler, output, t, x0, scheduler.add_noise(x0, eps, t)))
    terms, prior = torch.stack(terms, dim=1), prior_term(scheduler, x0)
    assert_close(terms / BITS_PER_DIM, arrays[f"{expected}/vb"], **CLOSE)
    assert_close(prior / BITS_PER_DIM, arrays[f"{expected}/prior_bpd"], **CLOSE)
    assert_close((prior + terms.sum(1)) / BITS_PER_DIM, arrays[f"{expected}/total_bpd"], **CLOSE)


KINDS = {
    "small": ("fixed_small", "exact", True),
    "small_imp": ("fixed_small", "imperfect", True),
    "small_imp_noclip": ("fixed_small", "imperfect", False),
    "big": ("fixed_large", "exact", True),
    "big_imp": ("fixed_large", "imperfect", True),
    "opt_iddpm": ("learned_range", "exact", True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_bound_of_analytic_dpm(reference, approximate_decoder, schedule, kind):
    arrays, key = reference("eadpm_nelbo"), f"{schedule}/K10"
    variance_type, model, clip = KINDS[kind]
    options = {"clip_sample": clip, "use_clipped_model_output": True}
    scheduler = make_scheduler(schedule, variance_type=variance_type, **options)
    # Their decoder has the variance beta~ of the full chain's second step, whatever the transitions have.
    decoder = make_scheduler(schedule, variance_type="fixed_small", **options)
    timesteps = arrays[f"{key}/ns"] - 1
    x0, expected = arrays["x0"], arrays[f"{key}/{kind}/terms"]
    terms = []
    for i, t in enumerate(timesteps.tolist()):
        s = timesteps[i - 1].item() if i else -1
        x_t = scheduler.add_noise(x0, arrays["K10/noise"][i], t)
        output = arrays[f"{key}/model/{model}/eps"][i]
        if kind == "opt_iddpm":
            output = torch.cat([output, arrays[f"{key}/model/{model}/eps_iddpm"][i]], dim=1)
        terms.append(bound_term(scheduler if i else decoder, output, t, x0, x_t, s))
    terms.append(prior_term(scheduler, x0))
    assert_close(torch.stack(terms), expected, **CLOSE)


# What holds for all --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 32, 256])
@pytest.mark.parametrize("mean, std", [(0.0, 0.3), (0.97, 0.01), (-3.0, 1.0), (0.1, 1e-4)])
def test_probabilities_of_all_levels_sum_to_one(levels, mean, std):
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)
    log_std = torch.tensor(std, dtype=torch.float64).log()
    log_likelihood = discretized_gaussian_log_likelihood(x, torch.tensor(mean), log_std, levels)
    assert_close(log_likelihood.logsumexp(0).item(), 0.0, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_likelihood_and_gradient_are_finite_far_in_the_tails(dtype):
    x = torch.tensor([-1.0, -0.498, 1 / 255, 1.0], dtype=dtype).repeat(7)
    mean = torch.linspace(-3, 3, 28, dtype=dtype).requires_grad_()
    log_std = torch.full((28,), math.log(1e-4), dtype=dtype).requires_grad_()
    log_likelihood = discretized_gaussian_log_likelihood(x, mean, log_std)
    gradients = torch.autograd.grad(log_likelihood.sum(), (mean, log_std))
    assert log_likelihood.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients)
    # d log p / d mean of the normal density, which the bin's is close to out there: no floor has stopped it.
    far = (x - mean).abs() > 0.5
    inside = far & (x.abs() < 1)
    nearest_edge = (x - mean).abs()[inside] - 1 / 255
    assert_close(gradients[0].abs()[inside], (nearest_edge / 1e-8).detach(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned", "learned_range"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_gradient(variance_type, prediction_type):
    scheduler = GaussianDiffusionScheduler(
        variance_type=variance_type, prediction_type=prediction_type, clip_sample=False
    )
    scheduler.set_timesteps(timesteps=[800, 300, 20, 5])
    torch.manual_seed(0)
    x0 = torch.tensor([-1.0, 1 / 255, 1.0], dtype=torch.float64).expand(4, 1, 1, 3)
    t = torch.tensor([5, 20, 300, 800])
    x_t = scheduler.add_noise(x0, torch.randn_like(x0), t)
    output = 0.1 * torch.randn(4, 2, 1, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda o: bound_term(scheduler, o, t, x0, x_t), output)
    # Each image has the gradient of its own term, be it the decoder's or a transition's: no NaN from the other.
    gradient = torch.autograd.grad(bound_term(scheduler, output, t, x0, x_t).sum(), output)[0]
    for row, timestep in enumerate(t.tolist()):
        one = slice(row, row + 1)
        alone = output[one].detach().requires_grad_()
        term = bound_term(scheduler, alone, timestep, x0[one], x_t[one]).sum()
        assert_close(torch.autograd.grad(term, alone)[0], gradient[one])


def test_half_precision_is_computed_in_float32():
    scheduler = GaussianDiffusionScheduler()
    torch.manual_seed(0)
    x0 = torch.randint(256, (2, 1, 4, 4)) / 127.5 - 1
    t = torch.tensor([0, 500])
    x_t, output = scheduler.add_noise(x0, torch.randn_like(x0), t), torch.randn_like(x0).bfloat16()
    assert_close(bound_term(scheduler, output, t, x0, x_t), bound_term(scheduler, output.float(), t, x0, x_t))
    assert prior_term(scheduler, x0.bfloat16()).dtype == torch.float32


def test_decoder_variance_of_a_pair_is_that_of_the_full_chain():
    full, short = GaussianDiffusionScheduler(), GaussianDiffusionScheduler()
    short.set_timesteps(timesteps=[500, 0])
    x0, x_t = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.01)
    full_chain = bound_term(full, x_t, 0, x0, x_t)
    assert_close(bound_term(short, x_t, 0, x0, x_t, prev_timestep=-1), full_chain)
    assert not torch.isclose(bound_term(short, x_t, 0, x0, x_t), full_chain)


def test_eta_0_has_no_bound():
    scheduler, x = GaussianDiffusionScheduler(eta=0.0), torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="eta > 0"):
        bound_term(scheduler, x, 5, x, x)
