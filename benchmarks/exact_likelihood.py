"""The likelihood by the probability flow against the true log-density of exact models.

python benchmarks/exact_likelihood.py [--images 4] [--probes 8] [--points 50] [--rtols 1e-3,1e-5,1e-6]

Points: a mixture of 500 normals along a swiss roll, with probes that give the trace itself, so that the error is the
solver's alone. Images: a low-rank mixture fitted to the embedded Fashion-MNIST, 28x28, with random probes, so that the
mean difference has a standard error. The true density at t = 1 takes the place of the prior's.
"""

import argparse
import math

import torch

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.data import DataArguments, draw_images, open_images
from ddpm_hf.data.point_clouds import swiss_roll
from ddpm_hf.evaluation.flow_likelihood import flow_likelihood
from ddpm_hf.models.low_rank_mixture import fit_low_rank_mixture
from ddpm_hf.ode_solver import OdeOptions
from ddpm_hf.pipelines.probability_flow import Score, in_continuous_time


def differences(denoiser, chain, samples, probes, rtol):
    """log p by the flow minus the true one, in nats, (probes, B), and the calls of a solution."""
    pipeline = in_continuous_time(GaussianDiffusionPipeline(denoiser, chain))
    scheduler, last = pipeline.scheduler, len(chain) - 1
    score, exact, rows = Score(pipeline, batch_size=len(samples)), denoiser.log_likelihood(samples, 0), []
    for probe in probes:
        found = flow_likelihood(score, scheduler, samples, probe.expand_as(samples), OdeOptions(rtol, rtol))
        true_end = denoiser.log_likelihood(found.latents, last) - scheduler.prior_log_prob(found.latents)
        rows.append(found.log_prob + true_end - exact)
    return torch.stack(rows), found.calls


def roll_model(chain):
    points = swiss_roll(500, torch.Generator().manual_seed(0)).points.double()
    points = (points - points.mean(0)) / points.std(0)
    return ExactDenoiser.from_gaussian_mixture(points, torch.full_like(points, 0.05**2), chain)


def image_model(chain):
    data = draw_images(open_images(DataArguments(), None), 2000, 0).decode()["images"]
    mixture = fit_low_rank_mixture(data, 16, 12, 0.05, 0)
    parts = (part.double() if isinstance(part, torch.Tensor) else part for part in mixture[:4])
    return ExactDenoiser.from_low_rank_mixture(*parts, chain, weights=mixture.weights)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--rtols", default="1e-3,1e-5,1e-6")
    options = parser.parse_args()
    chain, generator = GaussianDiffusionScheduler(clip_sample=False), torch.Generator().manual_seed(1)
    roll = roll_model(chain)
    points = roll.sample(options.points, generator)
    print("| model | rtol | difference (nats) | largest of a sample | calls |\n|---|---|---|---|---|")
    for rtol in map(float, options.rtols.split(",")):
        signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        rows, calls = differences(roll, chain, points, signs, rtol)
        each = rows.mean(0)
        print(f"| swiss roll | {rtol:g} | {each.mean():+.2e} | {each.abs().max():.2e} | {calls} |", flush=True)
    images_of = image_model(chain)
    images = images_of.sample(options.images, generator)
    probes = torch.randint(2, (options.probes, *images.shape), generator=generator).double() * 2 - 1
    rows, calls = differences(images_of, chain, images, probes, 1e-5)
    error = rows.std() / math.sqrt(rows.numel())
    mean = f"{rows.mean():+.3f} ± {error:.3f} of {images[0].numel()} dimensions"
    print(f"| images, {options.probes} probes | 1e-05 | {mean} | {rows.mean(0).abs().max():.3f} | {calls} |")


if __name__ == "__main__":
    main()
