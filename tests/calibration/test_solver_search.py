"""The parts of a fit: exact where the flow is Gaussian, the search's order and its count of calls, and where paths end."""

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch.testing import assert_close

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.calibration import fit_solver
from ddpm_hf.calibration.fine_paths import (
    CLEAN,
    ModelOfPaths,
    Paths,
    fine_timesteps,
    level_of,
    nearest_timesteps,
)
from ddpm_hf.calibration.measured_moments import measured_moments
from ddpm_hf.calibration.path_choice import (
    PathChoice,
    best_choice,
    chosen_paths,
    distance_of_flow,
    measured_choices,
    own_features,
)
from ddpm_hf.calibration.solver_fit import FitOptions, SolverFit
from ddpm_hf.calibration.solver_rows import State, fitted_row, fitted_states
from ddpm_hf.calibration.solver_search import stretched
from ddpm_hf.calibration.spreads import spread_of
from ddpm_hf.calibration.told_paths import Told
from ddpm_hf.schedulers.data_moments import LowestFrequencies

PLAIN = GaussianDiffusionScheduler(clip_sample=False)
FLOW = GaussianDiffusionScheduler(clip_sample=False, eta=0.0, solver_order=2)


def gaussian_points(number=400):
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([1.5, 1.0, 0.6, 0.3, 0.1])
    return (torch.randn(number, 5, generator=generator) * scales + torch.tensor([0.3, 0, 0, -0.2, 0])).double()


def gaussian_denoiser(points):
    return ExactDenoiser.from_gaussian_mixture(points.mean(0)[None], points.T.cov(correction=0)[None], PLAIN)


def test_gaussian_data_in_one_call_with_a_free_first_call():
    """The closed form: fitted to exact paths, one row after the flow of the moments is the exact flow to 1e-6."""
    points = gaussian_points()
    moments, network = measured_moments(points), gaussian_denoiser(points)
    noise = torch.randn(64, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = ModelOfPaths(network, PLAIN, 1.0, Told(), 64, lambda share: None)
    noisy, here = level_of(PLAIN, 999), level_of(PLAIN, 600)
    end = moments.flow(noise, *noisy, 1.0, 0.0)
    start = State(moments.flow(noise, *noisy, *here), (moments.predicted_x0(noise, *noisy),))
    paths = Paths({999: noise, 600: start.x}, {}, end)
    (state,) = fitted_states(model, paths, [600], start, moments)
    assert_close(state.x, end, rtol=0, atol=1e-6)


def test_the_scheduler_takes_the_paths_where_the_fit_has_taken_them():
    points = gaussian_points().float()
    roll = ExactDenoiser.from_points(points, PLAIN)
    fit = SolverFit(roll, PLAIN, [3], points, FitOptions(num_paths=64))
    fit.prepare()
    search = fit._search(64, lambda calls: None)
    for free in (False, True):
        timesteps = nearest_timesteps(search.fine, [700 if free else 999, 400, 200])
        found = search.fitted(free, timesteps)
        solver = {"timesteps": timesteps, "rows": [list(row) for row in found.rows], "free_first_call": free}
        pipeline = GaussianDiffusionPipeline(roll, fit.scheduler({"3": solver}))
        pipeline.set_progress_bar_config(disable=True)
        drawn = pipeline(latents=fit.noise, num_inference_steps=3, output_type="latent").images
        assert_close(drawn, found.states[-1].x, rtol=1e-4, atol=1e-4)
        assert fit.distance(drawn, fit.paths.end) == pytest.approx(found.distance, rel=1e-3)


def test_a_path_that_ends_elsewhere_counts_by_its_distance_alone():
    points = gaussian_points().float()
    fit = SolverFit(ExactDenoiser.from_points(points, PLAIN), PLAIN, [3], None, FitOptions(num_paths=64))
    ends = torch.zeros(64, 5)
    near = ends + 0.1
    assert fit.distance(near, ends) == pytest.approx(0.1)
    near[0] = 6.5
    assert fit.distance(near, ends) == pytest.approx(0.2)


def test_the_bar_counts_no_more_calls_than_it_was_promised():
    points = gaussian_points().float()
    network = gaussian_denoiser(points)
    fit, made = SolverFit(network, PLAIN, [2, 7, 13, 20], points, FitOptions(num_paths=64)), []
    fit.prepare(made.append)
    for count in fit.steps:
        fit.solver(count, made.append)
    assert 0.5 * fit.calls() < sum(made) <= fit.calls()


def test_a_search_is_better_than_the_spacings_it_begins_with(stock_unet):
    fit = SolverFit(stock_unet, GaussianDiffusionScheduler(), [3], None, FitOptions(num_paths=16))
    fit.prepare()
    search = fit._search(16, lambda calls: None)
    begun = [search.fitted(free, timesteps).distance for free, timesteps in search.beginnings(3)]
    best = search.best(3)
    assert best.distance < min(begun)
    assert best.timesteps[0] == 999
    assert best.timesteps == sorted({*best.timesteps}, reverse=True)
    # Moved timesteps were fitted from the states before them; anew, they give the same.
    assert search.fitted(False, best.timesteps).distance == pytest.approx(best.distance, rel=1e-6)


def test_timesteps_of_another_number_are_stretched():
    assert stretched([900, 600, 300], 3) == [900, 600, 300]
    assert stretched([900, 600, 300], 6) == [900, 750, 600, 450, 300, 150]
    assert stretched([900, 300], 3) == [900, 500, 200]


def test_the_nearest_timesteps_are_distinct():
    assert nearest_timesteps([9, 7, 5, 3, 0], [9, 8, 1]) == [9, 7, 0]
    assert nearest_timesteps([9, 7, 5, 3, 0], [9, 9, 9]) == [9, 7, 5]
    assert nearest_timesteps([9, 7, 5, 3, 0], [0, 0, 0]) == [5, 3, 0]


def test_the_converged_flow_is_left_where_that_gains_enough():
    flow = PathChoice(None, CLEAN, 1.0, 3.0)
    near = PathChoice(700, 30, 1.02, 1.5)
    assert best_choice(
        [flow, PathChoice(None, 60, 1.0, 2.0), near], [999, 705, 500], [70, 31, CLEAN]
    ) == near._replace(begin=705, end=31)
    assert best_choice([flow, PathChoice(None, 60, 1.0, 2.99)], [999], [60, CLEAN]) == flow


def test_of_choices_that_are_nearly_as_good_the_lowest_end_is_taken():
    best = PathChoice(900, 210, 1.1, 2.00)
    tried = [best, PathChoice(None, 210, 1.1, 2.01), PathChoice(800, 140, 1.1, 2.04), PathChoice(900, 140, 1.1, 2.05)]
    plain = PathChoice(None, CLEAN, 1.0, 2.5)
    places = [999, 900, 800], [210, 140, CLEAN]
    assert best_choice([plain, *tried], *places) == tried[3]
    assert best_choice([plain, best, tried[1]], *places) == tried[1]
    assert best_choice([plain, best, tried[3]._replace(distance=2.07)], *places) == best
    # Between two choices that differ in contrast alone, the one that keeps the network's contrast is taken.
    assert best_choice([plain, tried[3], tried[3]._replace(contrast=1.0)], *places).contrast == 1.0


def test_chosen_paths_begin_by_the_moments_and_end_early_with_more_contrast():
    points = gaussian_points()
    moments, noise = measured_moments(points.float()), torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    calls = []
    model = ModelOfPaths(gaussian_denoiser(points), FLOW, 1.0, Told(), 64, calls.append)
    fine = fine_timesteps(FLOW)
    begin, end = fine[len(fine) // 3], fine[-10]
    plain = chosen_paths(model, noise, fine, PathChoice(), moments)
    assert list(plain.x) == fine and len(calls) == len(fine)
    calls.clear()
    paths = chosen_paths(model, noise, fine, PathChoice(begin, end, 1.5), moments)
    assert list(paths.x) == [t for t in fine if t >= end]
    assert len(calls) == sum(end <= t <= begin for t in fine)
    # The data are Gaussian, so that the flow of their moments is the model's own.
    for t in paths.x:
        assert_close(paths.x[t], plain.x[t], rtol=0, atol=0.02)
    uncontrasted = chosen_paths(model, noise, fine, PathChoice(begin, end), moments)
    assert spread_of(paths.end) == pytest.approx(1.5 * spread_of(uncontrasted.end), rel=1e-5)
    assert_close(paths.end.mean(0), uncontrasted.end.mean(0))
    strong = chosen_paths(model, noise, fine, PathChoice(begin, end, 9.0), moments)
    assert strong.end.abs().max() > 1
    assert strong.within(1.0).end.abs().max() == 1


class Erring(torch.nn.Module):
    """The exact network of points, whose x0_hat at each t is moved away from the data's mean by `factor(t)`."""

    def __init__(self, points, factor):
        super().__init__()
        self.exact, self.mean, self.factor = gaussian_denoiser(points), points.mean(0), factor
        self.config, self.dtype, self.device = self.exact.config, self.exact.dtype, self.exact.device

    def forward(self, x, t, *labels, **kwargs):
        a, sigma = level_of(PLAIN, int(t.flatten()[0]))
        x0 = (x - sigma * self.exact(x, t).sample) / a
        x0 = self.mean + self.factor(int(t.flatten()[0])) * (x0 - self.mean)
        return UNet2DOutput((x - a * x0) / sigma)


def tried_choices(network, points):
    noise = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    model = ModelOfPaths(network, FLOW, 1.0, Told(), 400, lambda share: None)
    return measured_choices(model, noise, points, lambda x: x, measured_moments(points))


def test_a_network_that_errs_at_high_noise_is_called_from_lower_noise_on():
    points = gaussian_points().float()
    tried = tried_choices(Erring(points, lambda t: 6.0 if t > 700 else 1.0), points)
    best = best_choice(tried, [999, 799, 699], [CLEAN])
    assert best.begin == 699 and best.distance < 0.8 * distance_of_flow(tried)


def test_ends_of_low_contrast_get_that_of_the_data():
    points = gaussian_points().float()
    tried = tried_choices(Erring(points, lambda t: 0.9 if t < 300 else 1.0), points)
    best = best_choice(tried, [999], [CLEAN])
    assert best.contrast > 1.02 and best.distance < 0.5 * distance_of_flow(tried)


def test_an_exact_network_needs_no_other_paths():
    points = gaussian_points().float()
    tried = tried_choices(gaussian_denoiser(points), points)
    assert [c for c in tried if c.begin is None][-2].contrast == 1.0
    assert distance_of_flow(tried) == pytest.approx(min(c.distance for c in tried), rel=0.5)


def test_the_spread_is_that_after_clamping():
    generator = torch.Generator().manual_seed(0)
    x, x0 = torch.randn(2, 200, 3, generator=generator)
    target = (0.7 * x + 0.2 * torch.randn(200, 3, generator=generator)).clamp(-1, 1)
    row = fitted_row([x, x0], target, torch.zeros(2).double(), bound=1.0)
    result = (row[0] * x + row[1] * x0).clamp(-1, 1)
    spreads = [(y - y.mean(0)).double().square().mean().sqrt().item() for y in (result, target)]
    assert spreads[0] == pytest.approx(spreads[1], rel=5e-3)


def test_large_images_have_the_spectrum_of_low_frequencies():
    images = torch.randn(20, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images[:] += 2 * torch.cos(torch.linspace(0, 3, 64))
    moments = measured_moments(images)
    assert isinstance(moments.axes, LowestFrequencies)
    assert moments.variances.shape == (3, 24, 24)
    total = moments.variances.sum() + moments.rest * (3 * 64 * 64 - moments.variances.numel())
    assert total.item() == pytest.approx((images - images.mean(0)).square().mean(0).sum().item(), rel=1e-4)


def test_the_network_s_own_features_are_its_middle_block(stock_unet, tiny_unet):
    samples = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    features = own_features(stock_unet, PLAIN, 2)(samples)
    assert features.shape == (5, stock_unet.config.block_out_channels[-1])
    assert_close(own_features(stock_unet, PLAIN, 5)(samples), features, rtol=1e-4, atol=1e-5)
    assert own_features(tiny_unet(num_classes=3), PLAIN, 2)(samples).isfinite().all()
    assert own_features(gaussian_denoiser(gaussian_points()), PLAIN, 2) is None
    assert own_features(ExactDenoiser.from_points(torch.zeros(1, 1, 8, 8), PLAIN), PLAIN, 2) is None


def test_a_chain_too_short_for_early_ends_has_the_end_of_its_flow_alone(stock_unet):
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=3, beta_start=0.3, beta_end=0.95)
    fit = SolverFit(stock_unet, scheduler, [2], images, FitOptions(num_paths=16))
    fit.prepare()
    assert {choice.end for choice in fit.tried} == {CLEAN}


def test_images_choose_an_end_and_give_moments(stock_unet):
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=40, beta_end=0.5)
    fitted = fit_solver(stock_unet, scheduler, [1, 2], images, num_paths=16, progress_bar=False)
    for count in (1, 2):
        fitted.set_timesteps(count)
        assert len(fitted.timesteps) == count


def test_many_steps_come_ever_nearer_to_the_flow():
    """The x0_hat of near steps are nearly one; a ridge that is too strong keeps rows from using their differences."""
    points = gaussian_points()
    network = ExactDenoiser.from_points(points.float(), PLAIN)
    fit = SolverFit(network, PLAIN, [8, 24], None, FitOptions(num_paths=256))
    fit.prepare()
    noise, end = fit.unseen_paths(100, lambda calls: None)
    fitted = fit.scheduler({str(count): fit.solver(count) for count in fit.steps})
    errors = [fit.distance(fit.sampled(GaussianDiffusionPipeline(network, fitted), noise, k), end) for k in fit.steps]
    assert errors[1] < 0.5 * errors[0]
