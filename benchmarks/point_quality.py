"""A trained model of a swiss roll: distance of its samples to fresh data, by sampler and number of network calls.

python benchmarks/point_quality.py MODEL [--points 5000] [--steps 25] [--seeds 0 1 .. 9]

MODEL is the folder of `ddpm-hf train --preset swiss_roll`, calibrated by `ddpm-hf calibrate MODEL --dataset
swiss_roll`. The distance is the sliced Wasserstein distance of the standardised points, beside that of two draws of
the data.
"""

import argparse

import torch
from side_by_side import RESULTS, machine
from tqdm.auto import tqdm

from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.data import open_points
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.evaluation.comparison_report import Measurement, distance_table, write_report
from ddpm_hf.evaluation.distances import mean_and_spread, sliced_wasserstein
from ddpm_hf.evaluation.samplers import make_sampler
from ddpm_hf.recipes import changes_for

RECIPES = (
    *("ddpm", "ddpm-large", "ddim", "analytic-ddpm", "analytic-ddim", "ddim-2m", "ddim-2m-pc", "ddpm-2m"),
    *("analytic-ddpm@quadratic", "ddim-2m@logsnr", "ddpm-2m@logsnr", "ddpm-2m@quadratic"),
)
PROJECTIONS = 500


def fresh(config, split, count):
    """Standardised points of a fresh draw."""
    return open_points(DataArguments(dataset="swiss_roll", split=split, num_points=count), config).points


def distance(samples, points):
    return sliced_wasserstein(samples, points, PROJECTIONS, torch.Generator().manual_seed(0))


def measure(pipeline, name, steps, count, seeds):
    """Measures the recipe `name`, or RECIPE@SPACING for a recipe with other timesteps."""
    config = pipeline.unet.config
    sampler = make_sampler(name, pipeline.scheduler)
    own = GaussianDiffusionPipeline(pipeline.unet, sampler.from_config(sampler.config, **changes_for(config)))
    own.set_progress_bar_config(disable=True)
    distances = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        samples = own(count, generator=generator, num_inference_steps=steps, output_type="latent").images
        distances.append(distance(samples, fresh(config, f"test{seed}", count)))
    return Measurement(name, steps, distances, own.scheduler.timesteps.tolist())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--points", type=int, default=5000)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 25])
    parser.add_argument("--seeds", type=int, nargs="+", default=range(10))
    options = parser.parse_args()
    pipeline = GaussianDiffusionPipeline.from_pretrained(options.model)
    config, count = pipeline.unet.config, options.points
    between_draws = [
        distance(fresh(config, f"other{seed}", count), fresh(config, f"test{seed}", count)) for seed in options.seeds
    ]
    mean, spread = mean_and_spread(between_draws)
    jobs = [(recipe, steps) for recipe in RECIPES for steps in options.steps]
    measurements = [
        measure(pipeline, recipe, steps, count, options.seeds)
        for recipe, steps in tqdm([*jobs, ("ddpm", len(pipeline.scheduler))], unit="sampler")
    ]
    settings = {
        "samples": f"{count} for each of the seeds {', '.join(map(str, options.seeds))}, "
        "and as many fresh points of the data",
        "distance of two draws of the data": f"{mean:.4f} ± {spread or 0:.4f}",
        "machine": ", ".join(map(str, machine().values())),
    }
    title, unit = "A trained model of a swiss roll", "Sliced Wasserstein distance of the standardised points"
    write_report(RESULTS, "point_quality", title, unit, settings, measurements)
    print(f"two draws of the data: {mean:.4f} ± {spread or 0:.4f}\n{distance_table(measurements)}")


if __name__ == "__main__":
    main()
