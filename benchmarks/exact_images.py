"""An exact model of images: a mixture of low-rank normals fitted to a data set, as the network of a pipeline folder.

python benchmarks/exact_images.py OUTPUT [--dataset FOLDER] [--num_images 20000] [--components 64] [--axes 24]
    [--noise_std 0.02] [--class_conditional] [--seed 0]

The data are drawn from the training split of the embedded Fashion-MNIST (6,000 images), unless a data set is named.
The pipeline has the linear schedule of 1000 steps and does not clip, so that a sampler's error is the sampler's alone.
`draws.png` in OUTPUT has draws of the model itself, `samples.png` images of a second-order sampler in 50 steps; they
should look alike. The script prints the seconds of the fit and the milliseconds of a network call for each image.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.data import DataArguments, draw_images, open_images
from ddpm_hf.models.low_rank_mixture import fit_low_rank_mixture
from ddpm_hf.pipelines.image_grids import image_grid

SHOWN = 64
BATCH = 96


def milliseconds_per_image(denoiser, repeats=10):
    x, t = torch.randn(BATCH, denoiser.config.in_channels, *denoiser.config.sample_size), torch.tensor(500)
    with torch.no_grad():
        denoiser(x, t)
        start = time.perf_counter()
        for _ in range(repeats):
            denoiser(x, t)
    return (time.perf_counter() - start) / repeats / BATCH * 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--dataset")
    parser.add_argument("--num_images", type=int, default=20_000)
    parser.add_argument("--components", type=int, default=64)
    parser.add_argument("--axes", type=int, default=24)
    parser.add_argument("--noise_std", type=float, default=0.02)
    parser.add_argument("--class_conditional", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    source = open_images(DataArguments(dataset=options.dataset, class_conditional=options.class_conditional), None)
    data = draw_images(source, options.num_images, options.seed).decode()
    start = time.perf_counter()
    mixture = fit_low_rank_mixture(
        data["images"], options.components, options.axes, options.noise_std, options.seed, data.get("labels")
    )
    measured = {"seconds_of_fit": time.perf_counter() - start, "components": len(mixture.means)}
    scheduler = GaussianDiffusionScheduler(clip_sample=False)
    denoiser = ExactDenoiser.from_low_rank_mixture(
        *mixture[:4], scheduler, weights=mixture.weights, classes=mixture.classes
    )
    pipeline = GaussianDiffusionPipeline(denoiser, scheduler)
    pipeline.save_pretrained(options.output)
    measured["milliseconds_per_image"] = milliseconds_per_image(denoiser)
    print(json.dumps(measured, indent=2))
    generator = torch.Generator().manual_seed(options.seed)
    draws = pipeline.samples.to_output(denoiser.sample(SHOWN, generator), "pil")
    image_grid(draws).save(options.output / "draws.png")
    pipeline.scheduler = GaussianDiffusionScheduler.from_config(scheduler.config, eta=0.0, solver_order=2)
    images = pipeline(SHOWN, num_inference_steps=50, generator=generator).images
    image_grid(images).save(options.output / "samples.png")


if __name__ == "__main__":
    main()
