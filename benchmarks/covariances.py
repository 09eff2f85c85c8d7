"""The covariance of x0 as one number for each step, and as one for each spatial frequency, in few network calls.

python benchmarks/covariances.py MODEL --features FOLDER --dataset D [--steps 5 10 25 50] [--samples 2000]
    [--seeds 1 2 3] [--bits_images 500] [--recipes analytic-ddpm dct-ddpm ..] [--precision bf16] [--compile]

MODEL is a model of images from `ddpm-hf calibrate`. Each recipe and number of steps has two figures: the Frechet
distance in the features to half of the test split, with its standard deviation over the seeds of x_T and of the
steps' noise, which all recipes share; and the bits per dimension of images of the other half, with their standard
error, where the kernel has a density. Networks with classes are given all of them in turn, and the labels of the
images.
"""

import argparse
import json
from pathlib import Path

import torch
from fitted_solvers import FIT_IMAGES
from image_distance import ImageDistance, drawn, split_of
from side_by_side import RESULTS, machine, told_options
from tqdm.auto import tqdm

from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.evaluation import bits_per_dim
from ddpm_hf.evaluation.distances import mean_and_spread
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.execution import DTYPES, Execution
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.recipes import with_recipe

RECIPES = ("analytic-ddpm", "dct-ddpm", "analytic-ddim", "dct-ddim")


def distances(pipeline, distance, options):
    """{"recipe, K steps": [Frechet distance for each seed]}"""
    found = {}
    for seed in tqdm(options.seeds, desc="seeds"):
        shape = (options.samples, *pipeline.samples.shape)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        for name in options.recipes:
            sampler = GaussianDiffusionPipeline(pipeline.unet, with_recipe(pipeline.scheduler, name))
            sampler.set_progress_bar_config(disable=True)
            for steps in options.steps:
                samples = drawn(sampler, noise, steps, generator=torch.Generator().manual_seed(seed))
                found.setdefault(f"{name}, {steps} steps", []).append(distance(samples))
    return found


def bits(pipeline, images, labels, options):
    """{"recipe, K steps": (bits per dimension, standard error)}, of the kernels with a density."""
    found, scheduler = {}, pipeline.scheduler
    for name in tqdm(options.recipes, desc="bits per dimension"):
        chain = with_recipe(scheduler, name)
        for steps in options.steps if chain.config.eta > 0 else ():
            result = bits_per_dim(pipeline.unet, chain, images, steps, class_labels=labels, progress_bar=False)
            found[f"{name}, {steps} steps"] = result.total, result.standard_error
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--features", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 25, 50])
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3], help="none: bits per dimension alone")
    parser.add_argument("--bits_images", type=int, default=500)
    parser.add_argument("--precision", choices=DTYPES, help="of the network in sampling; by default its own")
    parser.add_argument("--compile", action="store_true", help="in sampling")
    parser.add_argument("--name", help="of the table; by default that of the model")
    options = parser.parse_args()
    pipeline = load_pipeline(options.model)
    images, labels = split_of(options.dataset, "test", pipeline.unet.config)
    distance = ImageDistance(load_features(options.features), images[1::2][:FIT_IMAGES])
    unseen = slice(0, 2 * options.bits_images, 2)
    measured = {"bits": bits(pipeline, images[unseen], None if labels is None else labels[unseen], options)}
    Execution(options.precision, compiled=options.compile).apply(pipeline.unet)
    measured["distances"] = distances(pipeline, distance, options)
    result = {"machine": machine(), "options": told_options(options), "measured": measured}
    file = RESULTS / f"covariances_{options.name or Path(options.model).name}"
    file.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    table = tables(measured, options)
    file.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    print(table)


def tables(measured, options):
    """Markdown: the distances, and the bits per dimension; a row is a recipe, a column a number of steps."""
    return "\n\n".join(
        f"{title}:\n\n| recipe | {' | '.join(map(str, options.steps))} |\n{'|---' * (1 + len(options.steps))}|\n"
        + "\n".join(
            f"| {name} | " + " | ".join(cell(cells.get(f"{name}, {steps} steps")) for steps in options.steps) + " |"
            for name in options.recipes
        )
        for title, cells, cell in (
            ("Frechet distance", measured["distances"], of_seeds),
            ("Bits per dimension", measured["bits"], of_images),
        )
        if cells
    )


def of_seeds(values):
    mean, spread = mean_and_spread(values)
    return f"{mean:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


def of_images(value):
    return "" if value is None else f"{value[0]:.3f} ± {value[1]:.3f}"


if __name__ == "__main__":
    main()
