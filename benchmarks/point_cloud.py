"""Samplers with the exact noise predictor: sliced Wasserstein distance to a swiss roll against network calls.

python benchmarks/point_cloud.py [--points 2000] [--samples 2000] [--steps 5 10 25 50] [--seeds 0 1 2] [--clip]

Differences come from the samplers alone: the predictor, the variance heads and Gamma are exact for the data, a finite
set of points, and all samplers start from the same noise. Writes JSON, Markdown and PNG into benchmarks/results.
"""

import argparse
import math

import torch
from side_by_side import RESULTS, machine
from tqdm.auto import tqdm

from ddpm_hf import ExactDenoiser, GaussianDiffusionScheduler
from ddpm_hf.data.point_clouds import swiss_roll
from ddpm_hf.evaluation.comparison_report import Measurement, distance_table, write_report
from ddpm_hf.evaluation.distances import mean_and_spread, sliced_wasserstein
from ddpm_hf.evaluation.samplers import check_sampler, make_sampler, pipeline_with
from ddpm_hf.schedulers.sampler_table import SAMPLERS

# Every sampler at its own timesteps, and the best at others, because the trajectory is a separate choice.
COMPARED = (
    *SAMPLERS,
    *("ddim@karras", "analytic-ddpm@karras", "analytic-ddim@karras", "sn-ddpm@karras", "sn-ddim@karras"),
    *("analytic-ddpm@optimal", "analytic-ddim@optimal", "sn-ddpm@optimal", "ddpm-2m@logsnr", "ddim-2m@logsnr"),
    *("dpmpp-2m@linspace", "unipc@linspace"),
)
PROJECTIONS = 500
DATA_SEED = 1234
# Number of x_t per timestep, over which Gamma is averaged, with a standard error below 0.01.
GAMMA_SAMPLES = 1000


def unit_swiss_roll(num_points, generator):
    """A swiss roll within [-1, 1]^2, (N, 2), so that clipping samples to this range suits the data."""
    scale = 0.95 / (4.5 * math.pi)
    return (swiss_roll(num_points, generator, noise=0.01 / scale).points * scale).clamp(-1, 1)


def exact_mean_square_epsilon(points, scheduler):
    """Gamma_t of the exact predictor, T floats: 1 - E Var[eps | x_t] / d, averaged over one x_t per point."""
    generator = torch.Generator().manual_seed(DATA_SEED)
    x0 = points[torch.randperm(len(points), generator=generator)[:GAMMA_SAMPLES]]
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    exact = ExactDenoiser.from_points(points, scheduler)
    alphas_bar = scheduler.alpha_bar(range(len(scheduler))).tolist()
    gamma = []
    for t, alpha_bar in enumerate(tqdm(alphas_bar, desc="Gamma", unit="timestep")):
        variance = exact.posterior(scheduler.add_noise(x0, noise, t), t).variance.mean().item()
        gamma.append(1 - alpha_bar / (1 - alpha_bar) * variance)
    return gamma


def exact_network(points, model, sampler):
    """It predicts the exact eps and, where the sampler reads one, the exact head."""
    return ExactDenoiser.from_points(points, sampler if isinstance(sampler, GaussianDiffusionScheduler) else model)


def distance(samples, points):
    return sliced_wasserstein(samples, points, PROJECTIONS, torch.Generator().manual_seed(DATA_SEED))


def without_pixels(sampler):
    """Removes the clip of the last noise, which is meant for the levels of images."""
    if not isinstance(sampler, GaussianDiffusionScheduler):
        return sampler
    return sampler.from_config(sampler.config, clip_variance_pixels=None)


def measure(name, model, points, num_samples, steps, seeds, clip=False):
    """Measures one sampler at one number of steps, on the process of `model`, a scheduler with Gamma."""
    sampler = make_sampler(name, model) if clip else without_pixels(make_sampler(name, model))
    pipeline = pipeline_with(sampler, exact_network(points, model, sampler))
    distances = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        samples = pipeline(num_samples, generator=generator, num_inference_steps=steps, output_type="latent").images
        distances.append(distance(samples, points))
    return Measurement(name, steps, distances, sampler.timesteps.tolist())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--samplers", nargs="+", default=COMPARED)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 25, 50])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--clip", action="store_true", help="clip the last noise, as the recipes do for images")
    options = parser.parse_args()
    points = unit_swiss_roll(options.points, torch.Generator().manual_seed(DATA_SEED))
    scheduler = GaussianDiffusionScheduler()
    model = GaussianDiffusionScheduler(mean_square_epsilon=exact_mean_square_epsilon(points, scheduler))
    jobs = [(name, steps) for name in options.samplers for steps in options.steps]
    for name, steps in jobs:
        check_sampler(name, model, steps)
    resampled = []
    for seed in options.seeds:
        chosen = torch.randint(len(points), (options.samples,), generator=torch.Generator().manual_seed(seed))
        resampled.append(distance(points[chosen], points))
    mean, spread = mean_and_spread(resampled)
    measurements = [
        measure(name, model, points, options.samples, steps, options.seeds, options.clip)
        for name, steps in tqdm(jobs, desc="samplers", unit="sampler")
    ]
    settings = {
        "data": f"{options.points} points of a swiss roll in [-1, 1]^2, equally likely; schedule linear, T = 1000",
        "samples": f"{options.samples} for each of the seeds {', '.join(map(str, options.seeds))}",
        "distance of as many draws from the data themselves": f"{mean:.4f} ± {spread or 0:.4f}",
        "machine": ", ".join(map(str, machine().values())),
    }
    title, unit = "Samplers of a swiss roll, exact predictor", "Sliced Wasserstein distance"
    write_report(RESULTS, f"point_cloud{'_clipped' * options.clip}", title, unit, settings, measurements)
    print(distance_table(measurements))


if __name__ == "__main__":
    main()
