"""The exact denoiser against numerical integration, its own derivative, sampling, and limits."""

import itertools
import math

import pytest
import torch
from scipy import integrate, stats
from torch.testing import assert_close

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.calibration import estimate_mean_square_epsilon
from ddpm_hf.data.point_clouds import swiss_roll
from ddpm_hf.evaluation import bits_per_dim
from ddpm_hf.models import exact_denoiser
from ddpm_hf.schedulers.choices import COVARIANCE_HEADS

SCHEDULER = GaussianDiffusionScheduler()
MEANS = torch.tensor([-1.0, 0.2, 1.5], dtype=torch.float64)
VARIANCES = torch.tensor([0.04, 0.25, 0.01], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)


def on_a_line(scheduler=SCHEDULER):
    return ExactDenoiser.from_gaussian_mixture(MEANS[:, None], VARIANCES[:, None], scheduler, WEIGHTS)


def on_a_line_by_axes():
    """The mixture is the same, but an axis has a part of the variance and the noise the rest."""
    noise = torch.tensor([0.03, 0.25, 0.002], dtype=torch.float64)
    arguments = MEANS[:, None], torch.ones(3, 1, 1).double(), (VARIANCES - noise)[:, None], noise
    return ExactDenoiser.from_low_rank_mixture(*arguments, SCHEDULER, WEIGHTS)


def in_the_plane():
    """Makes a mixture in two dimensions for each form of covariance."""
    means = torch.tensor([[-1.0, 0.5], [0.8, -0.3], [0.2, 0.9]], dtype=torch.float64)
    turned = torch.tensor([[0.3, 0.2], [0.2, 0.4]], dtype=torch.float64)
    covariances = torch.stack([turned, 0.2 * torch.eye(2).double(), turned.inverse() / 40])
    axes = torch.tensor([[[0.6, 0.8]], [[1.0, 0.0]], [[0.0, -1.0]]], dtype=torch.float64)
    lengths = torch.tensor([[0.4], [0.05], [0.2]], dtype=torch.float64)
    mixture = ExactDenoiser.from_gaussian_mixture
    return {
        "none": ExactDenoiser.from_points(some_points(), SCHEDULER),
        "diagonal": mixture(means, covariances.diagonal(dim1=1, dim2=2), SCHEDULER, WEIGHTS),
        "full": mixture(means, covariances, SCHEDULER, WEIGHTS),
        "low_rank": ExactDenoiser.from_low_rank_mixture(means, axes, lengths, 0.02, SCHEDULER, WEIGHTS),
    }


FORMS = tuple(exact_denoiser.COVARIANCE_FORMS)


def some_points(count=30):
    points = swiss_roll(count, torch.Generator().manual_seed(0)).points
    return (points - points.mean(0)) / points.std(0)


def noisy(points, t, draws, seed=1):
    """x_t and eps of `draws` draws from the points."""
    generator = torch.Generator().manual_seed(seed)
    x0 = points[torch.randint(len(points), (draws,), generator=generator)]
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    return SCHEDULER.add_noise(x0, noise, t), noise


# Against numerical integration ----------------------------------------------------------------------------------------


def normal(x, mean, variance):
    return torch.exp(-((x - mean) ** 2) / (2 * variance)) / (2 * math.pi * variance) ** 0.5


def integral(values, x):
    """Simpson's rule gives the integrals; the grids are fine enough for all digits that are compared."""
    return float(integrate.simpson(values.numpy(), x=x.numpy()))


def posterior_by_integration(x_t, alpha_bar):
    """Mean and variance of x_0 given x_t, one number each."""
    # The likelihood is narrow at little noise: the integral is taken where it, or the data, are.
    middle, width = x_t / alpha_bar**0.5, ((1 - alpha_bar) / alpha_bar) ** 0.5
    x0 = torch.linspace(max(-4.0, middle - 12 * width), min(4.0, middle + 12 * width), 4001, dtype=torch.float64)
    density = (WEIGHTS * normal(x0[:, None], MEANS, VARIANCES)).sum(1)
    joint = density * normal(x_t, alpha_bar**0.5 * x0, 1 - alpha_bar)
    total, first, second = (integral(x0**power * joint, x0) for power in range(3))
    return first / total, second / total - (first / total) ** 2


@pytest.mark.parametrize("make", [on_a_line, on_a_line_by_axes])
@pytest.mark.parametrize("t", [0, 30, 300, 999])
def test_a_mixture_on_a_line_has_the_moments_of_the_integral(t, make):
    alpha_bar = SCHEDULER.alpha_bar(t).item()
    # Where x_t is likely to be: a factor of e^-700 would leave the integral no digits.
    x_t = alpha_bar**0.5 * torch.tensor([[-1.1], [0.3], [1.5]], dtype=torch.float64)
    posterior = make().posterior(x_t, t)
    for i, x in enumerate(x_t.flatten().tolist()):
        mean, variance = posterior_by_integration(x, alpha_bar)
        assert posterior.mean[i].item() == pytest.approx(mean, rel=1e-7, abs=1e-9)
        assert posterior.variance[i].item() == pytest.approx(variance, rel=1e-6)


def test_gamma_is_the_integral_over_x_t():
    """The one that `estimate_mean_square_epsilon` finds, within its errors: 1 - E Var[eps | x_t]."""
    steps = 20
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=steps, beta_start=0.01, beta_end=0.5)
    exact = on_a_line(scheduler)
    generator = torch.Generator().manual_seed(0)
    component = torch.multinomial(WEIGHTS, 8000, replacement=True, generator=generator)
    noise = torch.randn(8000, generator=generator, dtype=torch.float64)
    data = (MEANS[component] + VARIANCES[component].sqrt() * noise)[:, None]
    gamma = estimate_mean_square_epsilon(
        exact, scheduler, data, timesteps_per_image=5, batch_size=8000, progress_bar=False
    )
    for t in range(0, steps, 3):
        alpha_bar = scheduler.alpha_bar(t).item()

        x_t = torch.linspace(-7, 7, 2001, dtype=torch.float64)[:, None]
        marginal = (WEIGHTS * normal(x_t, alpha_bar**0.5 * MEANS, alpha_bar * VARIANCES + 1 - alpha_bar)).sum(1)
        variance = exact.posterior(x_t, t).variance[:, 0] * alpha_bar / (1 - alpha_bar)
        truth = 1 - integral(variance * marginal, x_t[:, 0])
        assert abs(gamma.values[t] - truth) < 4 * gamma.standard_errors[t]
        assert abs(1 - gamma.residuals[t] - truth) < 4 * gamma.residual_errors[t]
        assert gamma.residual_errors[t] < 0.03


def test_a_mixture_in_the_plane_has_the_moments_of_the_integral():
    """With full covariances, on a grid: the sum over one that is fine enough is the integral to all its digits."""
    means = torch.tensor([[-1.0, 0.5], [0.8, -0.3]], dtype=torch.float64)
    covariances = torch.tensor([[[0.3, 0.2], [0.2, 0.4]], [[0.2, -0.1], [-0.1, 0.15]]], dtype=torch.float64)
    exact = ExactDenoiser.from_gaussian_mixture(means, covariances, SCHEDULER, torch.tensor([1.0, 3.0]))
    line = torch.linspace(-6, 6, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    prior = sum(
        w * torch.from_numpy(stats.multivariate_normal.pdf(grid.numpy(), m.numpy(), c.numpy()))
        for w, m, c in zip((0.25, 0.75), means, covariances, strict=True)
    )
    for t, x in itertools.product((100, 300, 900), ((0.0, 0.0), (-0.7, 0.9))):
        alpha_bar, x_t = SCHEDULER.alpha_bar(t), torch.tensor([x], dtype=torch.float64)
        weight = prior * torch.exp(-(x_t - alpha_bar.sqrt() * grid).square().sum(1) / (2 * (1 - alpha_bar)))
        weight = weight / weight.sum()
        mean = weight @ grid
        covariance = (grid - mean).T @ (weight[:, None] * (grid - mean))
        posterior = exact.posterior(x_t, t)
        assert_close(posterior.mean[0], mean, rtol=1e-8, atol=1e-8)
        assert_close(posterior.variance[0], covariance.diagonal(), rtol=1e-8, atol=1e-8)
        assert_close(exact.posterior_covariance(x_t, t)[0], covariance, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("variance_type, x0", [("fixed_small", -1.0), ("fixed_large", 0.4), ("npr", 1.4)])
def test_the_bound_is_the_integral(variance_type, x0):
    """The bound of one noisy step and the decoder, with a density on the line, has every expectation by quadrature."""
    options = {"trained_betas": [0.3, 0.99], "num_train_timesteps": 2, "variance_type": variance_type}
    scheduler = GaussianDiffusionScheduler(**options, clip_sample=False, clip_sample_range=4.0)
    exact, draws = on_a_line(scheduler), 6000
    measured = bits_per_dim(exact, scheduler, torch.full((draws, 1), x0), batch_size=draws, progress_bar=False)
    assert abs(measured.total - bound_by_integration(exact, scheduler, x0)) < 4 * measured.standard_error
    assert measured.standard_error < 0.03


def bound_by_integration(exact, scheduler, x0):
    """Prior, KL and density of the decoder in bits, written out for two steps."""
    (a0, a1), (_, beta) = scheduler.alpha_bar([0, 1]).tolist(), scheduler.betas.double().tolist()
    small = (1 - a0) / (1 - a1) * beta

    def kernel(x, t):
        """Mean and variance of p(x_s | x_t), by their definitions."""
        posterior = exact.posterior(x[:, None], t)
        mean, covariance = posterior.mean[:, 0], posterior.variance[:, 0]
        kind, least, large = scheduler.config.variance_type, small * torch.ones_like(x), beta * torch.ones_like(x)
        if t == 0:  # the decoder
            return mean, {"npr": covariance.clamp(min=small)}.get(kind, least)
        weight = a0**0.5 * beta / (1 - a1)
        mean = weight * mean + (1 - beta) ** 0.5 * (1 - a0) / (1 - a1) * x
        return mean, {"fixed_small": least, "fixed_large": large, "npr": least + weight**2 * covariance}[kind]

    def mean_over(term, alpha_bar):
        centre, std = alpha_bar**0.5 * x0, (1 - alpha_bar) ** 0.5
        x = torch.linspace(centre - 9 * std, centre + 9 * std, 4001, dtype=torch.float64)
        return integral(normal(x, centre, std**2) * term(x), x)

    def kl(x):
        mean, variance = kernel(x, 1)
        own = a0**0.5 * beta / (1 - a1) * x0 + (1 - beta) ** 0.5 * (1 - a0) / (1 - a1) * x
        return 0.5 * (small / variance - 1 - (small / variance).log() + (own - mean) ** 2 / variance)

    def decoder(x):
        mean, variance = kernel(x, 0)
        return 0.5 * ((x0 - mean) ** 2 / variance + (2 * math.pi * variance).log())

    prior = 0.5 * (a1 * x0**2 - a1 - math.log(1 - a1))
    return (prior + mean_over(kl, a1) + mean_over(decoder, a0)) / math.log(2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("t", [20, 300])
def test_the_density_is_one_altogether_and_that_of_the_mixture(form, t):
    denoiser = in_the_plane()[form]
    line = torch.linspace(-6, 6, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    density = denoiser.log_likelihood(grid, t).exp()
    assert density.sum().item() * 0.03**2 == pytest.approx(1, rel=1e-6)
    # The derivative of its logarithm is the score, -eps / sqrt(1 - abar).
    x_t = grid[:: len(grid) // 7].requires_grad_()
    score = torch.autograd.grad(denoiser.log_likelihood(x_t, t).sum(), x_t)[0]
    with torch.no_grad():
        epsilon = denoiser(x_t, t).sample
    assert_close(-((1 - SCHEDULER.alpha_bar(t)).sqrt()) * score, epsilon, rtol=1e-8, atol=1e-8)


def test_clean_data_have_a_density_where_components_are_spread_in_all_directions():
    x = torch.tensor([[0.3], [-1.0]], dtype=torch.float64)
    expected = (WEIGHTS * normal(x, MEANS, VARIANCES)).sum(1).log()
    for denoiser in (on_a_line(), on_a_line_by_axes()):
        assert_close(denoiser.log_likelihood(x), expected)
    flat = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for denoiser in (in_the_plane()["none"], ExactDenoiser.from_gaussian_mixture(flat, flat, SCHEDULER)):
        with pytest.raises(ValueError, match="timestep=-1 is data without noise, where points, .* have no density"):
            denoiser.log_likelihood(flat)
        assert denoiser.log_likelihood(flat, 0).isfinite().all()


# Against itself and against sampling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("t", [5, 250, 999])
def test_the_covariance_is_the_derivative_of_the_mean(form, t):
    """Cov[x_0 | x_t] = (1 - abar) / sqrt(abar) dE[x_0 | x_t] / dx_t, of which the variance is the diagonal."""
    denoiser, alpha_bar = in_the_plane()[form], SCHEDULER.alpha_bar(t)
    x_t = noisy(some_points(), t, 5)[0]
    jacobian = torch.autograd.functional.jacobian(lambda x: denoiser.posterior(x, t).mean.sum(0), x_t).movedim(1, 0)
    covariance = denoiser.posterior_covariance(x_t, t)
    assert_close(covariance, (1 - alpha_bar) / alpha_bar.sqrt() * jacobian, rtol=1e-8, atol=1e-10)
    assert_close(denoiser.posterior(x_t, t).variance, covariance.diagonal(dim1=1, dim2=2), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_draws_have_the_moments_of_the_mixture(form):
    """At the end of the process nothing is known of x_0, so that its posterior is the mixture itself."""
    denoiser, draws = in_the_plane()[form], 20_000
    drawn = denoiser.sample(draws, torch.Generator().manual_seed(0))
    assert drawn.shape == (draws, 2) and drawn.dtype == torch.float64
    ended = ExactDenoiser.from_config(denoiser.config)
    nothing = {"signal": 0 * denoiser.signal, "sigma": torch.ones_like(denoiser.sigma)}
    ended.load_state_dict(denoiser.state_dict() | nothing, assign=True)
    mean, covariance = ended.posterior(drawn[:1], 999).mean[0], ended.posterior_covariance(drawn[:1], 999)[0]
    assert ((drawn.mean(0) - mean).abs() < 4 * covariance.diagonal().sqrt() / draws**0.5).all()
    assert_close(drawn.T.cov(), covariance, rtol=0, atol=4 * (2 / draws) ** 0.5 * covariance.max().item())
    assert torch.equal(drawn, denoiser.sample(draws, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("form", FORMS)
def test_responsibilities_are_the_shares_of_the_components_among_draws(form):
    denoiser = in_the_plane()[form]
    x_0 = denoiser.sample(20_000, torch.Generator().manual_seed(0))
    x_t = SCHEDULER.add_noise(x_0, torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1)).double(), 100)
    shares = denoiser.responsibilities(x_t, 100)
    assert_close(shares.sum(1), torch.ones(20_000).double())
    assert_close(shares.mean(0), denoiser.log_weights.exp(), rtol=0, atol=0.02)


def test_points_are_the_mixture_without_spread():
    points, scheduler = some_points(), GaussianDiffusionScheduler(variance_type="sn")
    nothing = torch.zeros_like(points)
    exact = ExactDenoiser.from_points(points, scheduler)
    x_t = noisy(points, 50, 9)[0]
    for covariances in (nothing, torch.diag_embed(nothing)):
        other = ExactDenoiser.from_gaussian_mixture(points, covariances, scheduler)
        assert_close(other(x_t, 50).sample, exact(x_t, 50).sample, rtol=1e-9, atol=1e-9)


def test_one_point_leaves_no_doubt():
    point, x_t = torch.tensor([[0.3, -0.2]]).double(), torch.randn(5, 2).double()
    posterior = ExactDenoiser.from_points(point, SCHEDULER).posterior(x_t, 400)
    assert_close(posterior.mean, point.expand(5, 2))
    assert_close(posterior.variance, torch.zeros(5, 2).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", [1, 200, 600])
def test_the_variance_is_the_derivative_of_the_mean(t):
    """Tweedie's formulas: d eps / d x_t = (1 - Var[eps | x_t]) / sqrt(1 - abar), the head of `ocm`."""
    points = some_points()
    x_t, _ = noisy(points, t, 6)
    exact = ExactDenoiser.from_points(points, GaussianDiffusionScheduler(variance_type="ocm"))
    jacobian = torch.autograd.functional.jacobian(lambda x: exact(x, t).sample[:, :2], x_t)
    diagonal = torch.einsum("bibi->bi", jacobian)
    head = exact(x_t, t).sample[:, 2:]
    assert_close(diagonal, (1 - head) / (1 - SCHEDULER.alpha_bar(t)).sqrt(), rtol=1e-6, atol=1e-6)
    covariance = exact.posterior_covariance(x_t, t)
    assert_close(covariance.diagonal(dim1=1, dim2=2), exact.posterior(x_t, t).variance, rtol=1e-6, atol=1e-9)


def test_it_is_the_conditional_expectation():
    """E[eps] = E[E[eps | x_t]], and the error of the best guess is the variance that it states."""
    points, t = some_points(), 220
    x_t, noise = noisy(points, t, 100_000)
    exact = ExactDenoiser.from_points(points, GaussianDiffusionScheduler(variance_type="npr"))
    mean, variance = exact(x_t, t).sample.chunk(2, dim=1)
    assert_close(mean.mean(0), noise.mean(0), rtol=0, atol=0.01)
    assert_close((noise - mean).square().mean(0), variance.mean(0), rtol=0.02, atol=0)
    assert_close(((noise - mean) * x_t).mean(0), torch.zeros(2).double(), rtol=0, atol=0.01)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_predictions_convert_to_epsilon(prediction_type):
    other = GaussianDiffusionScheduler(prediction_type=prediction_type, clip_sample=False)
    points, t = some_points(), torch.tensor([0, 3, 500, 999])
    x_t = noisy(points, t, 4)[0]
    output = ExactDenoiser.from_points(points, other)(x_t, t).sample
    kernel = other.p_mean_variance(output, t, x_t)
    assert_close(
        kernel.pred_epsilon, ExactDenoiser.from_points(points, SCHEDULER)(x_t, t).sample, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("t", [1, 20, 500, 999])
def test_the_learned_range_gives_the_optimal_variance_of_a_step(t):
    points = some_points()
    x_t = noisy(points, t, 6)[0]
    kernels = []
    for variance_type in ("learned_range", *COVARIANCE_HEADS):
        scheduler = GaussianDiffusionScheduler(variance_type=variance_type, clip_sample=False, clip_covariance=False)
        output = ExactDenoiser.from_points(points, scheduler)(x_t, t).sample
        kernels.append(scheduler.p_mean_variance(output, t, x_t).variance)
    for variance in kernels[1:]:
        assert_close(variance, kernels[0], rtol=1e-6, atol=1e-12)


def test_many_samples_are_taken_some_at_a_time(monkeypatch):
    for exact in in_the_plane().values():
        x_t = torch.randn(23, exact.config.in_channels, dtype=torch.float64)
        t = torch.arange(23) * 40
        whole = exact(x_t, t).sample
        with monkeypatch.context() as patch:
            patch.setattr(exact_denoiser, "NUMBERS_AT_A_TIME", 100)
            assert_close(exact(x_t, t).sample, whole)
            assert_close(exact(x_t, 40).sample[1], whole[1])
            assert exact.posterior_covariance(x_t, t).shape == (23, 2, 2)


def test_single_precision_is_enough_for_pictures():
    points = some_points()
    x_t = noisy(points, 20, 50)[0]
    exact, single = (ExactDenoiser.from_points(p, SCHEDULER)(x_t, 20).sample for p in (points, points.float()))
    assert_close(single, exact, rtol=0, atol=1e-3)


# As a network ---------------------------------------------------------------------------------------------------------


def test_images_of_a_data_set_in_the_pipeline(tmp_path):
    """Every sample is one of the images, as it must be for a finite data set; also after a way through a file."""
    images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scheduler = GaussianDiffusionScheduler()
    pipeline = GaussianDiffusionPipeline(ExactDenoiser.from_points(images, scheduler), scheduler)
    pipeline.save_pretrained(tmp_path)
    for one in (pipeline, GaussianDiffusionPipeline.from_pretrained(tmp_path)):
        one.set_progress_bar_config(disable=True)
        drawn = one(
            20, generator=torch.Generator().manual_seed(1), num_inference_steps=50, output_type="latent"
        ).images
        nearest = torch.cdist(drawn.flatten(1), images.flatten(1)).min(1)
        assert nearest.values.max() < 0.1 and len(nearest.indices.unique()) > 1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ExactDenoiser.from_points(torch.zeros(0, 2), SCHEDULER), "at least one, and finite"),
        (lambda: ExactDenoiser.from_points(torch.tensor([[math.nan]]), SCHEDULER), "at least one, and finite"),
        (
            lambda: ExactDenoiser(num_components=60_000, in_channels=3, sample_size=(64, 64)),
            r"60000 components of 12288 dimensions are 737,280,000 numbers, .* holds 134,217,728: give at most 10,922 ",
        ),
        (
            lambda: ExactDenoiser.from_gaussian_mixture(torch.zeros(1, 2), torch.zeros(3, 2), SCHEDULER),
            r"must be the diagonals, \(1, 2\), or \(1, 2, 2\)",
        ),
        (
            lambda: ExactDenoiser.from_gaussian_mixture(torch.zeros(1, 2), -torch.ones(1, 2), SCHEDULER),
            "has the eigenvalue -1; none may be negative",
        ),
        (
            lambda: ExactDenoiser.from_gaussian_mixture(
                torch.zeros(1, 2), torch.ones(1, 2), SCHEDULER, weights=torch.zeros(1)
            ),
            "must be 1 numbers above 0",
        ),
        (lambda: ExactDenoiser(covariance="spherical"), "covariance='spherical' is not one of"),
        (lambda: ExactDenoiser(variance_head="learned"), "variance_head='learned' is not one of"),
    ],
)
def test_what_cannot_be_held(make, message):
    with pytest.raises(ValueError, match=message):
        make()
