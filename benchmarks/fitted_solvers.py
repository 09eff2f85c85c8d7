"""Solvers fitted to a model beside those of diffusers, in few network calls and from common noise.

python benchmarks/fitted_solvers.py MODEL --features FOLDER [--steps 3 5 10] [--samples 500] [--seeds 1 2 3]
    [--paths 96]

MODEL is the folder of a model of images without classes, or `swiss_roll`: the exact predictor of 2,000 points, which
needs no features. For each sampler and number of calls: the root mean square distance to the flow (200 calls) from the
same noise, and the distance to data, which is a Frechet distance to the test split of the embedded Fashion-MNIST in
the features, or the sliced Wasserstein distance to the points. Fit and samples use different noise.
"""

import argparse

import torch
from diffusers import UniPCMultistepScheduler
from point_cloud import DATA_SEED, distance, unit_swiss_roll
from side_by_side import report
from tqdm.auto import tqdm

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.calibration import fit_solver
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.evaluation.distances import FeatureStatistics, frechet_distance, mean_and_spread
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.evaluation.run import load_data
from ddpm_hf.hub.model_folder import load_pipeline

BATCH = 100
FIT_SEED = 1000


def samplers_of(scheduler, fitted):
    deterministic = {"eta": 0.0, "variance_type": "fixed_small"}
    ours = {
        "ddim, trailing": {"timestep_spacing": "trailing"},
        "2M, trailing": {"timestep_spacing": "trailing", "solver_order": 2},
        "2M, karras": {"timestep_spacing": "karras", "solver_order": 2},
    }
    made = {
        name: GaussianDiffusionScheduler.from_config(scheduler.config, **deterministic, **changes)
        for name, changes in ours.items()
    }
    made["UniPC (bh2), trailing"] = UniPCMultistepScheduler.from_config(
        scheduler.config, timestep_spacing="trailing", final_sigmas_type="zero"
    )
    return made | {"fitted": fitted}


def draw(network, scheduler, noise, steps):
    pipeline = GaussianDiffusionPipeline(network, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    parts = [pipeline(latents=x, num_inference_steps=steps, output_type="latent").images for x in noise.split(BATCH)]
    return torch.cat(parts)


def exact_swiss_roll():
    points = unit_swiss_roll(2000, torch.Generator().manual_seed(DATA_SEED))
    scheduler = GaussianDiffusionScheduler()
    network = ExactDenoiser.from_points(points, scheduler)
    return network, scheduler, lambda samples: distance(samples.double(), points.double())


def images(model, folder):
    pipeline = load_pipeline(model)
    features = load_features(folder)
    data = load_data(DataArguments(split="test"), pipeline.unet.config, None)[0]
    real = FeatureStatistics(torch.cat([features(part) for part in data.split(500)]))

    def to_data(samples):
        levels = ((samples.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return frechet_distance(FeatureStatistics(torch.cat([features(part) for part in levels.split(500)])), real)

    return pipeline.unet, pipeline.scheduler, to_data


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--features")
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--paths", type=int, default=96)
    parser.add_argument("--flow_calls", type=int, default=200)
    options = parser.parse_args()
    of_points = options.model == "swiss_roll"
    network, scheduler, to_data = exact_swiss_roll() if of_points else images(options.model, options.features)
    fitted = fit_solver(network, scheduler, options.steps, num_paths=options.paths, seed=FIT_SEED)
    samplers = samplers_of(scheduler, fitted)
    fine = GaussianDiffusionScheduler.from_config(fitted.config, timestep_spacing="logsnr", fitted_solvers=None)
    shape = (options.samples, network.config.in_channels, *[network.config.get("sample_size")] * 2)[
        : 2 if of_points else 4
    ]
    measured = {}
    for seed in tqdm(options.seeds, desc="seeds"):
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        flow = draw(network, fine, noise, options.flow_calls)
        measured.setdefault(f"flow, {options.flow_calls} calls", []).append((0.0, to_data(flow)))
        for steps in options.steps:
            for name, sampler in samplers.items():
                drawn = draw(network, sampler, noise, steps)
                rms = (drawn - flow).square().mean().sqrt().item()
                measured.setdefault(f"{name}, {steps} calls", []).append((rms, to_data(drawn)))
    rows = {}
    for name, results in measured.items():
        distances, data = zip(*results, strict=True)
        (rms, _), (mean, spread) = mean_and_spread(distances), mean_and_spread(data)
        rows[name] = {"rms_to_flow": rms, "distance_to_data": mean, "spread": spread}
        print(f"{name:32} rms {rms:.4f}   to data {mean:.4f} +- {spread or 0:.4f}")
    report(f"fitted_solvers_{'swiss_roll' if of_points else 'images'}", rows)


if __name__ == "__main__":
    main()
