"""Samplers where the noise predictor is exact: sliced Wasserstein distance to a swiss roll against network calls.

python benchmarks/point_cloud.py [--points 2000] [--samples 2000] [--steps 5 10 25 50] [--seeds 0 1 2] [--clip]

What differs between the samplers here is the samplers' own doing: the predictor, the variance heads and Gamma are those of
the data, a finite set of points, and all begin with the same noise. Writes JSON, Markdown and PNG into benchmarks/results.
"""

import argparse

import torch
from side_by_side import RESULTS, machine
from tqdm.auto import tqdm

from ddpm_hf import GaussianDiffusionScheduler
from ddpm_hf.data.point_clouds import exact_noise_moments, swiss_roll
from ddpm_hf.evaluation.comparison_report import Measurement, distance_table, write_report
from ddpm_hf.evaluation.distances import mean_and_spread, sliced_wasserstein
from ddpm_hf.evaluation.samplers import SAMPLERS, check_sampler, draw, make_sampler
from ddpm_hf.schedulers.covariances import COVARIANCE_HEADS

# Every sampler at its own timesteps, and the best of them at others: the trajectory is a choice of its own.
COMPARED = (
    *SAMPLERS,
    *("ddim@karras", "analytic-ddpm@karras", "analytic-ddim@karras", "sn-ddpm@karras", "sn-ddim@karras"),
    *("analytic-ddpm@optimal", "analytic-ddim@optimal", "sn-ddpm@optimal", "ddpm-2m@logsnr", "ddim-2m@logsnr"),
    *("dpmpp-2m@linspace", "unipc@linspace"),
)
PROJECTIONS = 500
DATA_SEED = 1234
# x_t for each timestep: Gamma is a mean over them, with a standard error below 0.01.
GAMMA_SAMPLES = 1000


def exact_mean_square_epsilon(points, scheduler):
    """Gamma_t of the exact predictor, T floats: 1 - E Var[eps | x_t] / d, the mean being over one x_t for each point."""
    generator = torch.Generator().manual_seed(DATA_SEED)
    x0 = points[torch.randperm(len(points), generator=generator)[:GAMMA_SAMPLES]]
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    gamma = []
    for t in tqdm(range(len(scheduler)), desc="Gamma", unit="timestep"):
        variance = exact_noise_moments(points, scheduler.add_noise(x0, noise, t), scheduler.alpha_bar(t).item())[1]
        gamma.append(1 - variance.mean().item())
    return gamma


def exact_network(points, scheduler, variance_type):
    """(x_t, t) -> the exact eps and, for the variance types that read one, the exact head."""

    def predict(x_t, t):
        mean, variance = exact_noise_moments(points, x_t, scheduler.alpha_bar(t).item())
        heads = {
            **dict.fromkeys(COVARIANCE_HEADS, lambda: variance),
            "learned_range": lambda: full_chain_range(variance, scheduler.alpha_bar(t), scheduler.alpha_bar(t - 1)),
        }
        parts = [mean, heads[variance_type]()] if variance_type in heads else [mean]
        return torch.cat(parts, dim=1).to(x_t.dtype)

    return predict


def full_chain_range(noise_variance, alpha_bar_t, alpha_bar_s):
    """v of Improved DDPM (eq. 15) that gives the optimal variance of the step t -> s = t - 1, on which it is trained."""
    if alpha_bar_s == 1:  # the decoder's, which sampling does not use
        return torch.zeros_like(noise_variance)
    beta = 1 - alpha_bar_t / alpha_bar_s
    beta_tilde = (1 - alpha_bar_s) / (1 - alpha_bar_t) * beta
    # posterior_x0^2 Cov[x0 | x_t], with Cov[x0 | x_t] = (1 - abar_t) / abar_t Var[eps | x_t]
    extra = alpha_bar_s * beta**2 / ((1 - alpha_bar_t) * alpha_bar_t) * noise_variance
    share = ((beta_tilde + extra).log() - beta_tilde.log()) / (beta.log() - beta_tilde.log())
    return 2 * share - 1


def distance(samples, points):
    return sliced_wasserstein(samples, points, PROJECTIONS, torch.Generator().manual_seed(DATA_SEED))


def without_pixels(sampler):
    """Without the clip of the last noise: it is made for images, and points have no levels to be within."""
    if not isinstance(sampler, GaussianDiffusionScheduler):
        return sampler
    return sampler.from_config(sampler.config, clip_variance_pixels=None)


def measure(name, model, points, num_samples, steps, seeds, clip=False):
    """One sampler at one number of steps, on the diffusion process of `model`, a scheduler that has Gamma."""
    sampler = make_sampler(name, model) if clip else without_pixels(make_sampler(name, model))
    predict = exact_network(points, model, sampler.config.get("variance_type"))
    distances = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x_T = torch.randn(num_samples, points.shape[1], generator=generator)
        distances.append(distance(draw(sampler, predict, x_T, steps, generator), points))
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
    points = swiss_roll(options.points, torch.Generator().manual_seed(DATA_SEED))
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
