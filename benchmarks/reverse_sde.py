"""The kernel against the reverse SDE, and the effect of a wrong start at several eta, with the exact score.

    python benchmarks/reverse_sde.py [--points 300] [--samples 500] [--seeds 0 1 2]

Writes two tables, Markdown, into benchmarks/results.
"""

import argparse

import torch
from side_by_side import RESULTS, machine
from tqdm.auto import tqdm

from ddpm_hf import ExactDenoiser, GaussianDiffusionScheduler
from ddpm_hf.data.point_clouds import two_moons
from ddpm_hf.evaluation.distances import mean_and_spread, sliced_wasserstein
from ddpm_hf.visualization import score

ETAS, SCALES = (0.0, 0.5, 1.0), (1.0, 1.3)
PROJECTIONS = 500


def exact_process(data, steps):
    """The discretization of one SDE in any number of steps, and its exact noise predictor."""
    scheduler = GaussianDiffusionScheduler(steps, beta_start=0.1 / steps, beta_end=20 / steps, clip_sample=False)
    denoiser = ExactDenoiser.from_points(data, scheduler)
    return scheduler, lambda x_t, t: denoiser(x_t, t).sample


def difference_of_means(data, steps, eta):
    """The largest difference between the means of the kernel and of an Euler-Maruyama step, mid-chain."""
    scheduler, predict = exact_process(data, steps)
    t = steps // 2
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(1), dtype=data.dtype)
    x_t = scheduler.add_noise(data, noise, t)
    beta = scheduler.betas[t].double()
    mean = x_t + beta / 2 * x_t + (1 + eta**2) / 2 * beta * score(scheduler, predict, x_t, t)
    kernel = scheduler.p_mean_variance(predict(x_t, t), t, x_t, prev_timestep=t - 1, eta=eta)
    return (kernel.mean - mean).abs().max().item()


def distances(data, steps, scale, eta, num_samples, seeds):
    """Sliced Wasserstein distances to the data of samples that start from `scale` times the noise."""
    scheduler, predict = exact_process(data, 1000)
    scheduler.set_timesteps(steps)
    found = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x = scale * torch.randn(num_samples, 2, generator=generator, dtype=data.dtype)
        for t in scheduler.timesteps:
            x = scheduler.step(predict(x, t), t, x, eta=eta, generator=generator).prev_sample
        found.append(distance(x, data))
    return found


def distance(samples, data):
    return sliced_wasserstein(samples, data, PROJECTIONS, torch.Generator().manual_seed(1234))


def with_spread(values):
    mean, spread = mean_and_spread(values)
    return f"{mean:.3f} ± {spread or 0:.3f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=300)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    data = two_moons(options.points, torch.Generator().manual_seed(1234)).points
    data = (data - data.mean(0)) / data.std(0)

    chains = (100, 1000, 10_000)
    lines = ["| eta | " + " | ".join(f"T = {steps:,}" for steps in chains) + " |", "|---" * (len(chains) + 1) + "|"]
    for eta in ETAS:
        lines.append(f"| {eta:g} | " + " | ".join(f"{difference_of_means(data, n, eta):.1e}" for n in chains) + " |")
    lines += ["", "| steps | begins with | " + " | ".join(f"eta = {eta:g}" for eta in ETAS) + " |"]
    lines += ["|---" * (len(ETAS) + 2) + "|"]
    for steps in tqdm((20, 100, 500), desc="steps"):
        for scale in SCALES:
            row = [with_spread(distances(data, steps, scale, eta, options.samples, options.seeds)) for eta in ETAS]
            lines.append(f"| {steps:,} | {scale:g} x N(0, I) | " + " | ".join(row) + " |")
    drawn = []
    for seed in options.seeds:
        chosen = torch.randint(len(data), (options.samples,), generator=torch.Generator().manual_seed(seed))
        drawn.append(distance(data[chosen], data))
    head = [
        "# The kernel and the reverse SDE, exact score",
        "",
        f"{options.points} points of two moons, standardised; {options.samples} samples for each of the seeds "
        f"{', '.join(map(str, options.seeds))}. As many draws from the data: {with_spread(drawn)}. Machine: "
        f"{', '.join(map(str, machine().values()))}.",
        "",
        "First: the largest difference of the means of one step. Second: sliced Wasserstein distance, mean over the "
        "seeds ± standard deviation between them.",
        "",
    ]
    (RESULTS / "reverse_sde.md").write_text("\n".join(head + lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
