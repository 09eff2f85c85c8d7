"""`variance_type="dct"`: exact for Gaussian images of independent frequencies, and Analytic-DPM for an even spectrum."""

import json
import math

import pytest
import torch
from diffusers import DDPMScheduler
from scipy.fft import dctn
from torch.testing import assert_close

from ddpm_hf import ExactDenoiser, GaussianDiffusionScheduler
from ddpm_hf.calibration import estimate_mean_square_epsilon
from ddpm_hf.evaluation.variational_bound import bound_term, discretized_gaussian_log_likelihood
from ddpm_hf.schedulers.cosine_transform import cosine_transform
from ddpm_hf.schedulers.covariance_spectrum import CovarianceSpectrum, frequency_bands, knots, spectrum_from_config

STEPS, SHAPE = 20, (3, 8, 6)
PROCESS = {"num_train_timesteps": STEPS, "beta_start": 0.005, "beta_end": 0.5, "clip_sample": False}
# The spectrum is kept in float32.
CLOSE = {"rtol": 1e-6, "atol": 1e-7}


def in_bands(values):
    """Values of each band, (.., C, bands, bands), as those of each frequency, (.., *SHAPE)."""
    rows, columns = (frequency_bands(side) for side in SHAPE[1:])
    return values[..., rows, :][..., columns]


def band_values(seed=0):
    """A variance of the data for each band, from 0.01 to 3 of its unit."""
    counts = [int(frequency_bands(side)[-1]) + 1 for side in SHAPE[1:]]
    generator = torch.Generator().manual_seed(seed)
    return 0.01 + 3 * torch.rand(SHAPE[0], *counts, generator=generator, dtype=torch.float64) ** 3


def measured(variances):
    """What calibration would find with the exact predictor of Gaussian images with these variances of each band.

    E (U' (eps - eps_hat))_f^2 = a^2 L_f / (a^2 L_f + sigma^2).
    """
    alphas_bar = GaussianDiffusionScheduler(**PROCESS).alpha_bar(range(STEPS)).reshape(-1, 1, 1, 1)
    residuals = alphas_bar * variances / (alphas_bar * variances + 1 - alphas_bar)
    means = in_bands(residuals).mean((1, 2, 3))
    spectrum = CovarianceSpectrum(SHAPE, knots(STEPS), (residuals / means.reshape(-1, 1, 1, 1))[knots(STEPS)])
    return {"mean_square_epsilon": (1 - means).tolist(), "covariance_spectrum": spectrum.to_config()}


def scheduler_of(variances=None, **options):
    given = {"variance_type": "dct", "clip_covariance": False} | PROCESS | options
    return GaussianDiffusionScheduler(**given, **measured(band_values() if variances is None else variances))


def exact_network(variances, scheduler):
    """The exact predictor of images U c with independent c_f of variance L_f."""
    dimensions = math.prod(SHAPE)
    basis = cosine_transform(torch.zeros(1, *SHAPE, dtype=torch.float64)).lift(
        torch.eye(dimensions, dtype=torch.float64).reshape(-1, *SHAPE)
    )
    basis = basis.flatten(1).T
    covariance = basis @ torch.diag(in_bands(variances).flatten()) @ basis.T
    means = torch.zeros(1, *SHAPE, dtype=torch.float64)
    return ExactDenoiser.from_gaussian_mixture(means, covariance[None], scheduler)


def frequencies(x):
    return cosine_transform(x).project(x)


# The transform -------------------------------------------------------------------------------------------------------


def test_the_transform_is_the_orthonormal_cosine_transform():
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    transform = cosine_transform(x)
    expected = torch.from_numpy(dctn(x.numpy(), axes=(1, 2, 3), norm="ortho"))
    assert_close(transform.project(x), expected)
    assert_close(transform.lift(expected), x)


def test_the_variance_of_each_value():
    variances = torch.rand(2, *SHAPE, dtype=torch.float64)
    transform = cosine_transform(variances)
    unit = torch.eye(math.prod(SHAPE), dtype=torch.float64).reshape(-1, *SHAPE)
    for one, diagonal in zip(variances, transform.diagonal(variances), strict=True):
        assert_close(transform.scaled(unit, one).flatten(1).diagonal().reshape(SHAPE), diagonal)


def test_the_bands_widen_with_the_frequency():
    assert frequency_bands(32).bincount().tolist() == [1, 1, 1, 1, 2, 2, 3, 4, 6, 8, 3]
    assert frequency_bands(2).tolist() == [0, 1]
    assert int(frequency_bands(512)[-1]) + 1 == 19


# The kernel ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_of_gaussian_images_have_the_right_spectrum_whatever_the_steps(eta):
    """The variance of each frequency, followed through a run of six steps in closed form."""
    variances = band_values()
    scheduler = scheduler_of(variances, eta=eta)
    network, truth = exact_network(variances, scheduler), in_bands(variances)
    trajectory = knots(STEPS).flip(0)[::3].tolist()
    scheduler.set_timesteps(timesteps=trajectory)
    of_unit = cosine_transform(torch.zeros(1, *SHAPE, dtype=torch.float64)).lift(
        torch.ones(1, *SHAPE, dtype=torch.float64)
    )
    alpha_bar = scheduler.alpha_bar(trajectory[0])
    variance = alpha_bar * truth + 1 - alpha_bar
    for t in trajectory:
        kernel = scheduler.p_mean_variance(network(of_unit, t).sample, t, of_unit)
        variance = frequencies(kernel.mean)[0] ** 2 * variance + kernel.frequency_variance[0]
        alpha_bar = scheduler.alpha_bar(scheduler.previous_timestep(t))
        assert_close(variance, alpha_bar * truth + 1 - alpha_bar, **CLOSE)


def test_draws_have_the_variance_of_the_kernel():
    scheduler = scheduler_of()
    x_t = torch.zeros(20_000, *SHAPE)
    x_t += torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    output = torch.zeros_like(x_t)
    scheduler.set_timesteps(4)
    t = scheduler.timesteps[1]
    kernel = scheduler.p_mean_variance(output[:1], t, x_t[:1])
    drawn = scheduler.step(output, t, x_t, generator=torch.Generator().manual_seed(2)).prev_sample
    of_frequencies = frequencies(drawn).var(0) / kernel.frequency_variance[0]
    assert (of_frequencies - 1).abs().max() < 5 * math.sqrt(2 / len(x_t))
    assert (drawn.var(0) / kernel.variance[0] - 1).abs().max() < 5 * math.sqrt(2 / len(x_t))
    assert_close(drawn.mean(0), kernel.mean[0], rtol=0, atol=5 * math.sqrt(kernel.variance.max().item() / len(x_t)))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_even_spectrum_is_analytic_dpm(eta):
    ones = CovarianceSpectrum(SHAPE, knots(STEPS), torch.ones(len(knots(STEPS)), *band_values().shape)).to_config()
    options = PROCESS | {"eta": eta, "mean_square_epsilon": [0.9] * STEPS, "clip_variance_pixels": 2}
    even = GaussianDiffusionScheduler(variance_type="dct", covariance_spectrum=ones, **options)
    analytic = GaussianDiffusionScheduler(variance_type="analytic", **options)
    x_t, output = torch.randn(2, 2, *SHAPE)
    for scheduler in (even, analytic):
        scheduler.set_timesteps(5)
    for t in even.timesteps:
        drawn = [
            scheduler.step(output, t, x_t, generator=torch.Generator().manual_seed(0)).prev_sample
            for scheduler in (even, analytic)
        ]
        assert_close(*drawn, rtol=1e-4, atol=1e-5)
        assert_close(*(s.p_mean_variance(output, t, x_t).variance for s in (even, analytic)), rtol=1e-4, atol=1e-6)


def test_a_timestep_may_be_one_for_all_or_one_for_each():
    scheduler = scheduler_of()
    x_t, output = torch.randn(2, 3, *SHAPE)
    each = scheduler.p_mean_variance(output, torch.tensor([19, 7, 1]), x_t)
    for i, t in enumerate((19, torch.tensor(7), 1)):
        one = scheduler.p_mean_variance(output[i : i + 1], t, x_t[i : i + 1])
        assert_close(one.frequency_variance[0], each.frequency_variance[i], rtol=1e-5, atol=1e-7)
        assert_close(one.variance[0], each.variance[i], rtol=1e-5, atol=1e-7)


def test_between_two_timesteps_it_is_linear():
    spectrum = spectrum_from_config(measured(band_values())["covariance_spectrum"], STEPS)
    like = torch.zeros(1, *SHAPE, dtype=torch.float64)
    long = CovarianceSpectrum(SHAPE, torch.tensor([0, 4, 10]), spectrum.values[:3])
    assert_close(long.at(1, like), 0.75 * long.at(0, like) + 0.25 * long.at(4, like))
    assert_close(long.at(torch.tensor([10, 7]), like)[1], 0.5 * long.at(4, like) + 0.5 * long.at(10, like))


def test_images_of_another_size_have_the_spectrum_in_cycles_per_pixel():
    scheduler = scheduler_of()
    small, large = torch.zeros(1, *SHAPE), torch.zeros(1, 3, 16, 12)
    variances = [scheduler.p_mean_variance(x, 7, x).frequency_variance[0] for x in (small, large)]
    assert_close(variances[1][:, ::2, ::2], variances[0])
    assert_close(variances[1][:, 1::2, 1::2], variances[0])


def test_guidance_of_the_mean_shifts_by_the_covariance():
    scheduler = scheduler_of()
    x_t, output, gradient = torch.randn(3, 2, *SHAPE)
    noise = torch.zeros_like(x_t)
    steps = {"variance_noise": noise, "guidance_form": "mean"}
    kernel = scheduler.p_mean_variance(output, 9, x_t)
    shifted = scheduler.step(output, 9, x_t, classifier_gradient=gradient, **steps).prev_sample
    expected = cosine_transform(x_t).scaled(gradient, kernel.frequency_variance)
    assert_close(shifted - scheduler.step(output, 9, x_t, variance_noise=noise).prev_sample, expected)
    conditioned = scheduler.condition_mean(kernel, gradient)
    assert_close(conditioned.mean - kernel.mean, expected)
    for steered in (conditioned, scheduler.condition_score(kernel, gradient, 9, x_t)):
        assert torch.equal(steered.frequency_variance, kernel.frequency_variance)


# The bound -----------------------------------------------------------------------------------------------------------


def correlated_normal(kernel, image=0, least=0.0):
    """The normal of a kernel for one image, whose variances are at least that much."""
    unit = torch.eye(math.prod(SHAPE), dtype=torch.float64).reshape(-1, *SHAPE)
    variance = kernel.frequency_variance[image].clamp(min=least)
    covariance = cosine_transform(unit).scaled(unit, variance).flatten(1)
    return torch.distributions.MultivariateNormal(kernel.mean[image].flatten(), covariance)


def test_the_bound_is_that_of_the_whole_covariance():
    scheduler = scheduler_of()
    x0, x_t, output = torch.randn(3, 2, *SHAPE, dtype=torch.float64).mul_(0.3)
    q, p = scheduler.q_posterior(x0, x_t, 9, 4), scheduler.p_mean_variance(output, 9, x_t, 4)
    for i, told in enumerate(bound_term(scheduler, output, 9, x0, x_t, 4)):
        posterior = torch.distributions.MultivariateNormal(q.mean[i].flatten(), q.variance[i].flatten().diag())
        expected = torch.distributions.kl_divergence(posterior, correlated_normal(p, i))
        assert_close(told, expected, rtol=1e-6, atol=1e-9)


def test_the_bound_of_gaussian_images_is_the_information_that_a_step_gives():
    """E KL(q(x_s | x_t, x0) || p(x_s | x_t)) = sum_f log(variance_f / posterior variance) / 2 for the exact kernel."""
    variances = band_values()
    scheduler = scheduler_of(variances)
    network = exact_network(variances, scheduler)
    noise = torch.randn(2, 4000, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x0 = cosine_transform(noise[0]).lift(noise[0] * in_bands(variances).sqrt())
    x_t = scheduler.add_noise(x0, noise[1], 9)
    terms = bound_term(scheduler, network(x_t, 9).sample, 9, x0, x_t, 4)
    kernel, q = scheduler.p_mean_variance(x_t, 9, x_t, 4), scheduler.q_posterior(x0, x_t, 9, 4)
    expected = 0.5 * (kernel.frequency_variance[0] / q.variance[0]).log().sum()
    assert abs(terms.mean() - expected) < 4 * terms.std() / math.sqrt(len(terms))
    # one number for all frequencies costs more than the errors of this mean by far
    analytic = GaussianDiffusionScheduler.from_config(scheduler.config, variance_type="analytic")
    assert bound_term(analytic, network(x_t, 9).sample, 9, x0, x_t, 4).mean() > expected + 5


def test_the_decoder_of_continuous_data_has_the_whole_covariance():
    scheduler = scheduler_of()
    x0, x_t, output = torch.randn(3, 1, *SHAPE, dtype=torch.float64).mul_(0.3)
    normal = correlated_normal(scheduler.p_mean_variance(output, 0, x_t), least=scheduler.decoder_variance())
    told = bound_term(scheduler, output, 0, x0, x_t, levels=None)
    assert_close(told, -normal.log_prob(x0.flatten())[None], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("levels, above", [(256, 1e-3), (8, 3.0)])
def test_the_decoder_of_levels_is_an_even_mixture(levels, above):
    """It mixes the probabilities of x0's cell with and without correlation. Draws integrate the first of them here."""
    scheduler = scheduler_of(beta_start=0.3)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randint(1, levels - 1, (1, *SHAPE), generator=generator) * (2.0 / (levels - 1)) - 1
    x0, half = x0.double(), 1 / (levels - 1)
    x_t = scheduler.add_noise(x0, torch.randn(x0.shape, generator=generator, dtype=torch.float64), 0)
    kernel = scheduler.p_mean_variance(torch.zeros_like(x_t), 0, x_t)
    normal = correlated_normal(kernel)
    cell = (2 * torch.rand(20_000, x0.numel(), generator=generator, dtype=torch.float64) - 1) * half
    unit = torch.eye(x0.numel(), dtype=torch.float64) * (half**2 / 3)
    widened = torch.distributions.MultivariateNormal(normal.loc, normal.covariance_matrix + unit)
    densities = widened.log_prob(x0.flatten() + cell)
    correlated = densities.logsumexp(0) - math.log(len(cell)) + x0.numel() * math.log(2 * half)
    alone = discretized_gaussian_log_likelihood(x0, kernel.mean, 0.5 * kernel.variance.log(), levels).sum()
    expected = math.log(2) - torch.logaddexp(correlated, alone)
    told = bound_term(scheduler, torch.zeros_like(x_t), 0, x0, x_t, levels=levels).item()
    assert expected - 1e-3 < told < expected + above


def test_data_at_the_end_of_their_range_keep_the_decoder_of_pixels():
    scheduler = scheduler_of()
    x0, x_t = -torch.ones(1, *SHAPE), torch.full((1, *SHAPE), -3.0)
    kernel = scheduler.p_mean_variance(torch.zeros_like(x_t), 0, x_t)
    alone = -discretized_gaussian_log_likelihood(x0, kernel.mean, 0.5 * kernel.variance.log()).sum()
    assert_close(bound_term(scheduler, torch.zeros_like(x_t), 0, x0, x_t)[0], alone + math.log(2))


def test_frequencies_without_variance_have_a_decoder_of_levels():
    variances = band_values()
    variances[:, 2:] = 0
    scheduler, x_t = scheduler_of(variances), torch.zeros(1, *SHAPE)
    assert scheduler.p_mean_variance(x_t, 0, x_t).frequency_variance.min() == 0
    # 28 nats are the least that 144 normals of a cell's own variance can have.
    assert 28 < bound_term(scheduler, x_t, 0, x_t + 1 / 255, x_t) < 1000


def test_one_timestep_for_each_image_with_the_decoder_among_them():
    scheduler = scheduler_of(in_bands(band_values()).new_full(band_values().shape, 0.02))
    x0 = torch.randint(256, (3, *SHAPE), dtype=torch.float64) / 127.5 - 1
    x_t, output = torch.randn(2, 3, *SHAPE, dtype=torch.float64)
    timesteps = torch.tensor([9, 0, 3])
    together = bound_term(scheduler, output, timesteps, x0, x_t)
    for i, t in enumerate(timesteps.tolist()):
        one = slice(i, i + 1)
        assert_close(bound_term(scheduler, output[one], t, x0[one], x_t[one]), together[one])


def test_the_bound_has_gradients_after_sampling_in_inference_mode():
    scheduler = scheduler_of()
    x = torch.zeros(1, *SHAPE)
    with torch.inference_mode():
        scheduler.step(x, 9, x)
    output = torch.zeros(1, *SHAPE, requires_grad=True)
    bound_term(scheduler, output, 9, x, x + 0.1).sum().backward()
    assert output.grad.abs().sum() > 0


# Measured ------------------------------------------------------------------------------------------------------------


def test_calibration_measures_the_spectrum():
    variances = band_values(1)
    plain = GaussianDiffusionScheduler(**PROCESS)
    network = exact_network(variances, plain)
    noise = torch.randn(600, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale = 0.1  # the images must lie in [-1, 1]
    images = cosine_transform(noise).lift(noise * (scale * in_bands(variances)).sqrt()).clamp(-1, 1).float()
    network = exact_network(scale * variances, plain)
    result = estimate_mean_square_epsilon(network, plain, images, progress_bar=False)
    found = spectrum_from_config(result.covariance_spectrum, STEPS)
    truth = spectrum_from_config(measured(scale * variances)["covariance_spectrum"], STEPS)
    like = torch.zeros(1, *SHAPE)
    # 600 draws at each timestep; bands hold one frequency at least
    for t in knots(STEPS).tolist():
        ratio = found.at(t, like) / truth.at(t, like)
        assert (ratio - 1).abs().max() < 5 * math.sqrt(2 / 600)
        assert_close(found.at(t, like).mean().item(), 1.0, rtol=1e-5, atol=0)
    assert set(result.for_scheduler()) == {"mean_square_epsilon", "covariance_spectrum"}


# Configs -------------------------------------------------------------------------------------------------------------


def test_it_travels_in_a_config_and_stock_schedulers_take_another(tmp_path, caplog):
    scheduler = scheduler_of()
    scheduler.save_pretrained(tmp_path)
    again = GaussianDiffusionScheduler.from_pretrained(tmp_path)
    x = torch.randn(2, *SHAPE)
    assert torch.equal(
        *(s.p_mean_variance(x, 5, x).frequency_variance for s in (scheduler, again)),
    )
    stock = DDPMScheduler.from_pretrained(tmp_path)
    assert stock.config.variance_type == "fixed_small" and not caplog.records
    told = json.loads((tmp_path / "scheduler_config.json").read_text(encoding="utf-8"))
    assert told["variance_type"] == "fixed_small"


def changed(**changes):
    given = measured(band_values())
    return given | {"covariance_spectrum": given["covariance_spectrum"] | changes}


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "'dct' needs covariance_spectrum, which is measured of models of images: `ddpm-hf calibrate"),
        (
            measured(band_values()) | {"mean_square_epsilon": None},
            "'dct' needs mean_square_epsilon, which is measured: `ddpm-hf calibrate",
        ),
        (changed(timesteps=[0, 5, 9]), "of timesteps 0 .. 9, .* num_train_timesteps=20 .* another schedule"),
        (changed(shape=[3, 8, 12]), r"shape \(3, 8, 12\) has \d+ numbers and needs \d+: Measure it with"),
        (changed(shape=[2]), r"shape \(2,\) and needs \(channels, rows, columns\)"),
    ],
)
def test_bad_spectra(given, message):
    with pytest.raises(ValueError, match=message):
        GaussianDiffusionScheduler(variance_type="dct", **PROCESS, **given)


@pytest.mark.parametrize("value, message", [(math.nan, "is not finite"), (-1.0, "a value of -1, below 0")])
def test_spectra_with_bad_numbers(value, message):
    values = torch.ones(len(knots(STEPS)), *band_values().shape)
    values[2, 1, 0, 0] = value
    told = CovarianceSpectrum(SHAPE, knots(STEPS), values).to_config()
    with pytest.raises(ValueError, match=message):
        GaussianDiffusionScheduler(covariance_spectrum=told, **PROCESS)


@pytest.mark.parametrize("shape", [(2, 2), (2, 1, 8, 6)])
def test_samples_that_have_no_such_spectrum(shape):
    x = torch.zeros(shape)
    with pytest.raises(ValueError, match="covariance_spectrum is of samples of 3 channels .*another variance_type"):
        scheduler_of().step(x, 5, x)
