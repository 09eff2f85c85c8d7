"""Mixtures of low-rank normals are tested against the form with full covariances, torch's density, draws, and the fit to images."""

import math

import pytest
import torch
from PIL import Image
from torch.distributions import LowRankMultivariateNormal
from torch.testing import assert_close
from typer.testing import CliRunner

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler, cli
from ddpm_hf.calibration import estimate_mean_square_epsilon
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation import bits_per_dim
from ddpm_hf.models.low_rank_mixture import clusters_of, fit_low_rank_mixture, principal_axes
from ddpm_hf.pipelines.conditioning import Conditioning, Guidance
from ddpm_hf.schedulers.choices import VARIANCE_HEADS

SCHEDULER = GaussianDiffusionScheduler(clip_sample=False)
NOISE = torch.tensor([0.01, 0.04, 0.0025], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
CLASSES = torch.tensor([1, 0, 1])


def parts(shape=(1, 2, 3), num_axes=2, components=3, seed=0):
    """Means, orthonormal axes and variances, in float64."""
    generator = torch.Generator().manual_seed(seed)
    dimensions = math.prod(shape)
    draw = {"generator": generator, "dtype": torch.float64}
    means = 0.7 * torch.randn(components, dimensions, **draw)
    axes = torch.linalg.qr(torch.randn(components, dimensions, num_axes, **draw)).Q.mT
    variances = 0.3 * torch.rand(components, num_axes, **draw)
    return means.reshape(-1, *shape), axes.reshape(components, num_axes, *shape), variances


def low_rank(scheduler=SCHEDULER, shape=(1, 2, 3), **options):
    return ExactDenoiser.from_low_rank_mixture(*parts(shape), NOISE, scheduler, WEIGHTS, **options)


def covariances(axes, variances, noise):
    axes = axes.flatten(2)
    return axes.mT @ (variances[:, :, None] * axes) + torch.diag_embed(noise[:, None].expand(-1, axes.shape[2]))


def full(scheduler=SCHEDULER, shape=(1, 2, 3), **options):
    """The same mixture with its covariances written out."""
    means, axes, variances = parts(shape)
    covariance = covariances(axes, variances, NOISE)
    return ExactDenoiser.from_gaussian_mixture(means, covariance, scheduler, WEIGHTS, **options)


def noisy(x0, t, seed=1):
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed), dtype=x0.dtype)
    return SCHEDULER.add_noise(x0, noise, torch.as_tensor(t)), noise


# Against full covariances ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0, 20, 300, 999, [0, 3, 150, 700, 999]])
def test_it_is_the_mixture_with_full_covariances(t):
    one, other, t = low_rank(), full(), torch.tensor(t)
    x_t = noisy(one.sample(5, torch.Generator().manual_seed(0)), t)[0]
    expected = other.posterior(x_t, t)
    assert_close(one.posterior(x_t, t).mean, expected.mean, rtol=1e-10, atol=1e-12)
    assert_close(one.posterior(x_t, t).variance, expected.variance, rtol=1e-9, atol=0)
    for method in ("responsibilities", "posterior_covariance", "log_likelihood"):
        assert_close(getattr(one, method)(x_t, t), getattr(other, method)(x_t, t), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("head", VARIANCE_HEADS)
def test_predictions_and_heads_are_those_of_full_covariances(head, prediction_type):
    scheduler = GaussianDiffusionScheduler(variance_type=head, prediction_type=prediction_type)
    t = torch.tensor([0, 1, 40, 500, 999])
    x_t = noisy(low_rank().sample(5, torch.Generator().manual_seed(0)), t)[0]
    output = low_rank(scheduler)(x_t, t).sample
    assert output.shape == (5, 2, 2, 3)
    assert_close(output, full(scheduler)(x_t, t).sample, rtol=1e-8, atol=1e-9)


def test_each_pixel_has_the_variance_that_its_head_says():
    """E (eps - eps_hat)^2 = E Var[eps | x_t] for each pixel, by draws."""
    denoiser, t, draws = low_rank(GaussianDiffusionScheduler(variance_type="npr")), 120, 20_000
    x_t, noise = noisy(denoiser.sample(draws, torch.Generator().manual_seed(0)), t)
    prediction, head = denoiser(x_t, t).sample.chunk(2, dim=1)
    off = (noise - prediction).square() - head
    assert (off.mean(0).abs() < 4 * off.std(0) / draws**0.5).all()
    assert head.mean(0).max() > 1.5 * head.mean(0).min()  # so that one number for all pixels would not do


# Densities and draws --------------------------------------------------------------------------------------------------


def log_density_of_torch(x, means, axes, variances, noise, signal, sigma):
    loadings = (signal * variances.sqrt()[:, :, None] * axes.flatten(2)).mT
    diagonals = (signal**2 * noise + sigma**2)[:, None].expand(-1, loadings.shape[1])
    each = LowRankMultivariateNormal(signal * means.flatten(1), loadings, diagonals)
    return (WEIGHTS.log() + each.log_prob(x.flatten(1)[:, None])).logsumexp(1)


@pytest.mark.parametrize("t", [-1, 0, 200, 999])
def test_the_density_is_torch_s(t):
    denoiser, (means, axes, variances) = low_rank(), parts()
    x = torch.randn(7, 1, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alpha_bar = SCHEDULER.alpha_bar(t)
    expected = log_density_of_torch(x, means, axes, variances, NOISE, alpha_bar.sqrt(), (1 - alpha_bar).sqrt())
    assert_close(denoiser.log_likelihood(x, t), expected, rtol=1e-10, atol=1e-10)


def test_the_bound_is_above_the_entropy_and_near_it():
    """The bound of any chain is at least the entropy of the data, and in many steps no more than a little above it."""
    scheduler = GaussianDiffusionScheduler(variance_type="npr", clip_sample=False)
    denoiser = low_rank(scheduler, (4,))
    data = denoiser.sample(2000, torch.Generator().manual_seed(0))
    exact = -denoiser.log_likelihood(data) / (4 * math.log(2))
    above = {}
    for steps in (10, 50):
        bound = bits_per_dim(denoiser, scheduler, data, steps, batch_size=2000, progress_bar=False)
        difference = torch.tensor(bound.per_image, dtype=torch.float64) - exact
        above[steps], error = difference.mean().item(), difference.std().item() / 2000**0.5
        assert above[steps] > 4 * error
    assert above[50] < above[10] / 2


def test_gamma_is_that_of_the_posterior():
    """E |eps_hat|^2 / d as calibration measures it, and as 1 - E Var[eps | x_t] / d over draws of its own."""
    steps = 10
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=steps, beta_start=0.01, beta_end=0.6)
    denoiser = low_rank(scheduler, (4,))
    data = denoiser.sample(4000, torch.Generator().manual_seed(0))
    gamma = estimate_mean_square_epsilon(
        denoiser, scheduler, data, timesteps_per_image=5, batch_size=4000, progress_bar=False
    )
    fresh = denoiser.sample(4000, torch.Generator().manual_seed(1))
    for t in range(steps):
        x_t = scheduler.add_noise(fresh, torch.randn(fresh.shape, generator=torch.Generator().manual_seed(t)), t)
        alpha_bar = scheduler.alpha_bar(t)
        variance = (denoiser.posterior(x_t, t).variance * alpha_bar / (1 - alpha_bar)).mean(1)
        error = (gamma.standard_errors[t] ** 2 + (variance.std().item() / 4000**0.5) ** 2) ** 0.5
        assert abs(gamma.values[t] - (1 - variance.mean().item())) < 4 * error
        assert error < 0.02


# Classes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [low_rank, full])
def test_labels_leave_the_components_of_a_class(make):
    denoiser, plain = make(classes=CLASSES), make()
    means, axes, variances = parts()
    of_one = ExactDenoiser.from_low_rank_mixture(
        means[[0, 2]], axes[[0, 2]], variances[[0, 2]], NOISE[[0, 2]], SCHEDULER, WEIGHTS[[0, 2]]
    )
    assert denoiser.config.num_classes == 2
    x_t = noisy(plain.sample(4, torch.Generator().manual_seed(0)), 300)[0]
    labels = torch.tensor([1, 1, 2, 2])  # 2 is the null label
    output, density = denoiser(x_t, 300, labels).sample, denoiser.log_likelihood(x_t, 300, labels)
    assert_close(output[:2], of_one(x_t[:2], 300).sample, rtol=1e-9, atol=1e-9)
    assert_close(density[:2], of_one.log_likelihood(x_t[:2], 300))
    assert_close(output[2:], plain(x_t[2:], 300).sample)
    assert_close(denoiser(x_t, 300).sample, plain(x_t, 300).sample)
    drawn = denoiser.sample(200, torch.Generator().manual_seed(0), class_labels=0)
    assert (denoiser.responsibilities(drawn, 0).argmax(1) == 1).float().mean() > 0.9


def test_guidance_is_exact():
    """The score of the null density plus the scale times the difference of the scores, which are derivatives."""
    denoiser, t, scale = low_rank(classes=CLASSES), torch.tensor(250), 2.5
    x_t = noisy(denoiser.sample(4, torch.Generator().manual_seed(0)), t)[0].requires_grad_()
    labels, null = torch.tensor([0, 1, 1, 0]), torch.full((4,), 2)
    log_null = denoiser.log_likelihood(x_t, t)
    log_guided = log_null + scale * (denoiser.log_likelihood(x_t, t, labels) - log_null)
    score = torch.autograd.grad(log_guided.sum(), x_t)[0]
    pipeline = GaussianDiffusionPipeline(denoiser, SCHEDULER)
    guided = pipeline.predict(x_t.detach(), t, t, Conditioning(torch.cat([labels, null]), Guidance(scale)))
    expected = -((1 - SCHEDULER.alpha_bar(t)).sqrt()) * score
    assert_close(guided.double(), expected, rtol=1e-5, atol=1e-5)


def test_sampling_with_labels_draws_of_the_class():
    means, axes, variances = parts()
    means = torch.tensor([-1.0, 0.0, 1.0])[:, None, None, None].expand_as(means).double()
    denoiser = ExactDenoiser.from_low_rank_mixture(
        means, axes, 0.01 * variances, 0.001, SCHEDULER, classes=torch.arange(3)
    )
    pipeline = GaussianDiffusionPipeline(denoiser, SCHEDULER)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 20, "generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    drawn = pipeline(class_labels=[0, 1, 2, 2], guidance_scale=1.5, **options).images
    assert_close(drawn.flatten(1).mean(1).double(), torch.tensor([-1.0, 0, 1, 1]).double(), rtol=0, atol=0.1)


# The size of images ---------------------------------------------------------------------------------------------------


def of_images(dtype):
    means, axes, variances = (part.to(dtype) for part in parts((1, 28, 28), 24, 8))
    return ExactDenoiser.from_low_rank_mixture(means, axes, 20 * variances, 0.0004, SCHEDULER)


@pytest.mark.parametrize("t", [0, 10, 300])
def test_single_precision_is_enough_for_images(t):
    single, exact = of_images(torch.float32), of_images(torch.float64)
    x_t = noisy(exact.sample(8, torch.Generator().manual_seed(0)), t)[0]
    assert_close(single(x_t.float(), t).sample, exact(x_t, t).sample.float(), rtol=0, atol=1e-4)
    one, other = (d.posterior(x_t, t).variance.double() for d in (single, exact))
    assert_close(one, other, rtol=1e-4, atol=0)
    # The components' densities are in float64, as the smallest tau leaves float32 no digits behind the point.
    assert_close(single.log_likelihood(x_t, t), exact.log_likelihood(x_t, t), rtol=0, atol=0.02)


def test_the_pipeline_draws_what_the_mixture_is(tmp_path):
    """Its images have the mean and the variance of the mixture's draws; the command draws from the same folder."""
    means, axes, variances = (part.float() for part in parts((1, 4, 4), 3))
    scheduler = GaussianDiffusionScheduler(clip_sample=False, eta=0.0, solver_order=2)
    denoiser = ExactDenoiser.from_low_rank_mixture(means, axes, variances, 0.01, scheduler, WEIGHTS)
    GaussianDiffusionPipeline(denoiser, scheduler).save_pretrained(tmp_path / "model")
    pipeline = GaussianDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert pipeline.unet.config.num_axes == 3 and pipeline.unet.dtype == torch.float32
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    drawn = pipeline(2000, num_inference_steps=40, generator=generator, output_type="latent").images
    own = denoiser.sample(50_000, generator)
    assert_close(drawn.mean(0), own.mean(0), rtol=0, atol=0.08)
    assert_close(drawn.std(0), own.std(0), rtol=0.08, atol=0)
    arguments = ["sample", str(tmp_path / "model"), "--num_images", "4", "--steps", "3"]
    result = CliRunner().invoke(cli.app, [*arguments, "--output", str(tmp_path / "grid.png"), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "grid.png").mode == "L"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"axes": lambda a: 2 * a}, "not orthonormal: a product of two is 3 off"),
        ({"axes": lambda a: a[:, :, 0]}, r"axes of shape \(3, 2, 2, 3\) and variances of shape \(3, 2\) must be"),
        ({"variances": lambda v: v[:, :1]}, r"variances of shape \(3, 1\) must be"),
        ({"variances": lambda v: v - 1}, "variances must be at least 0, and that of the noise above 0"),
        ({"noise_variance": lambda s: 0}, "variances must be at least 0, and that of the noise above 0"),
        ({"classes": lambda c: torch.tensor([0, 2, 2])}, r"classes=\[0, 2\] must be 0 .. 1, each with a component"),
        ({"classes": lambda c: torch.tensor([0.0, 1, 1])}, "must be 3 whole numbers"),
    ],
)
def test_mixtures_that_are_none(change, message):
    means, axes, variances = parts()
    arguments = {"means": means, "axes": axes, "variances": variances, "noise_variance": 0.01, "classes": None}
    arguments |= {name: make(arguments[name]) for name, make in change.items()}
    with pytest.raises(ValueError, match=message):
        ExactDenoiser.from_low_rank_mixture(**arguments, scheduler=SCHEDULER)


def test_configs_that_are_none():
    with pytest.raises(ValueError, match="num_axes=None belongs to covariance='low_rank' alone"):
        ExactDenoiser(covariance="low_rank")
    with pytest.raises(ValueError, match=r"num_axes=3 must be in 1 .. 2, the dimensions"):
        ExactDenoiser(covariance="low_rank", num_axes=3)
    with pytest.raises(ValueError, match=r"are 1,050,625,000 numbers, .* or fewer axes"):
        ExactDenoiser(num_components=1000, in_channels=1024, covariance="low_rank", num_axes=1024)


# The fit --------------------------------------------------------------------------------------------------------------


def as_levels(images):
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def known_mixture():
    """Three components far apart, with spread along two axes each, in images of 1x4x4."""
    means, axes, _ = parts((1, 4, 4))
    means = torch.tensor([-0.5, 0.0, 0.5])[:, None, None, None].expand_as(means).double()
    variances = torch.tensor([[0.09, 0.02], [0.05, 0.03], [0.06, 0.01]], dtype=torch.float64)
    return means, axes, variances


def test_the_fit_finds_the_mixture_that_drew_the_images():
    means, axes, variances = known_mixture()
    truth = ExactDenoiser.from_low_rank_mixture(means, axes, variances, 0.03**2, SCHEDULER, WEIGHTS)
    images = as_levels(truth.sample(6000, torch.Generator().manual_seed(0)))
    fitted = fit_low_rank_mixture(images, num_components=3, num_axes=3, noise_std=0.03)
    order = fitted.means.flatten(1).mean(1).argsort()
    assert_close(fitted.means[order].double(), means, rtol=0, atol=0.02)
    assert_close(fitted.weights[order].double(), WEIGHTS, rtol=0, atol=0.03)
    assert_close(fitted.variances[order, :2].double(), variances, rtol=0.1, atol=0)
    assert fitted.variances[:, 2].max() < 3e-4  # only two axes have more than the noise, but for chance and levels
    along = torch.einsum("krd,kqd->krq", fitted.axes[order, :2].flatten(2).double(), axes.flatten(2))
    assert_close(along.square().sum(2), torch.ones(3, 2).double(), rtol=0, atol=0.02)  # they span the same plane


def test_the_fit_follows_from_its_seed():
    images = as_levels(torch.randn(300, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    one, again, other = (fit_low_rank_mixture(images, 8, 3, seed=seed) for seed in (5, 5, 6))
    for name in ("means", "axes", "variances", "weights"):
        assert torch.equal(getattr(one, name), getattr(again, name))
    assert not torch.equal(one.means, other.means)


def test_the_fit_of_classes_mixes_none():
    means, axes, variances = known_mixture()
    truth = ExactDenoiser.from_low_rank_mixture(means, axes, variances, 0.03**2, SCHEDULER, classes=CLASSES)
    labels = torch.arange(400) % 2
    images = as_levels(truth.sample(400, torch.Generator().manual_seed(0), class_labels=labels))
    fitted = fit_low_rank_mixture(images, 4, 2, class_labels=labels)
    assert fitted.classes.tolist() == [0, 0, 1, 1] and fitted.weights[:2].sum() == 0.5
    for label in (0, 1):
        mine = fitted.classes == label
        mean = (fitted.weights[mine, None, None, None] * fitted.means[mine]).sum(0) / 0.5
        assert_close(mean, images[labels == label].float().mean(0) / 127.5 - 1, rtol=0, atol=1e-4)


def test_clusters_that_are_too_small():
    """Single images have no directions, and of equal ones there are fewer than clusters."""
    images = torch.zeros(20, 1, 3, 3, dtype=torch.uint8)
    images[10:] = 255
    images[0, 0, 0, 0] = 40
    fitted = fit_low_rank_mixture(images, num_components=6, num_axes=4)
    assert len(fitted.means) == 3 and (fitted.variances == 0).all()
    assert sorted(fitted.weights.tolist()) == pytest.approx([0.05, 0.45, 0.5])
    denoiser = ExactDenoiser.from_low_rank_mixture(*fitted[:4], SCHEDULER, fitted.weights)
    assert denoiser(torch.zeros(2, 1, 3, 3), 10).sample.isfinite().all()


def test_principal_axes_are_the_eigenvectors_of_the_covariance():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7)
    mean, axes, variances = principal_axes(x, 4)
    values, vectors = torch.linalg.eigh(torch.cov(x.double().T, correction=0))
    assert_close(mean, x.double().mean(0))
    assert_close(variances, values.flip(0)[:4])
    assert_close((axes @ vectors.flip(1)[:, :4]).abs(), torch.eye(4).double(), rtol=0, atol=1e-8)


def test_clusters_are_where_no_vector_is_nearer_to_another_mean():
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    clusters = clusters_of(x, 7, torch.Generator().manual_seed(0))
    means = torch.stack([cluster.mean(0) for cluster in clusters])
    assert len(clusters) == 7 and sum(map(len, clusters)) == 500
    for k, cluster in enumerate(clusters):
        assert (torch.cdist(cluster, means).argmin(1) == k).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_components": 0}, "num_components=0 must be at least 1, one for each class"),
        ({"num_components": 11}, "num_components=11 asks for 11 clusters and there are 10 images"),
        ({"num_axes": 17}, r"num_axes=17 must be in 1 .. 16, the dimensions of an image"),
        ({"noise_std": 0.0}, "noise_std=0.0 must be above 0"),
        ({"class_labels": torch.arange(10)}, "num_components=3 must be at least 10, one for each class"),
        ({"class_labels": torch.tensor([0] * 9 + [2])}, "asks for 1 clusters of each class, and class 1 has 0 images"),
    ],
)
def test_fits_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        fit_low_rank_mixture(
            torch.zeros(10, 1, 4, 4, dtype=torch.uint8), **{"num_components": 3, "num_axes": 2} | options
        )
