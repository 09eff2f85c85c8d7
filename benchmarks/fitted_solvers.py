"""Solvers fitted to a model beside those of diffusers, in few network calls and from common noise.

python benchmarks/fitted_solvers.py MODEL [--features FOLDER] [--dataset D] [--steps 3 4 5 6 8 10 15 25 50]
    [--samplers ..] [--samples 2000] [--seeds 1 2 3] [--paths 96] [--fits 1] [--guidance_scale 1] [--without_images]
    [--precision bf16] [--compile]

MODEL is the folder of a model of images, a network or an exact denoiser (`exact_images.py`), the folder of a network
trained on a swiss roll, or `swiss_roll`: the exact predictor of 2,000 points. Points need no features. Each sampler
and number of calls has two figures: the root mean square distance to the flow (`--flow_calls`) from the same
noise; and, with its standard deviation over the seeds, the distance to data, which is a Frechet distance in the
features to half of the test split, or to fresh draws from an exact denoiser, or the sliced Wasserstein distance to the
points. Solvers are fitted with the other half, unless `--without_images` is given; fits and samples use different
noise. A model with solvers from `ddpm-hf calibrate --solver` is measured with these. With `--fits 3`, two more fits
stand beside the first: from half the paths, and from another seed. `--name` tells the tables of several runs apart.
With `--precision bf16` and `--compile` the network runs so for every sampler alike; fits are made in float32, as by
`ddpm-hf calibrate`.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import UNet2DModel, UniPCMultistepScheduler
from image_distance import ImageDistance, drawn, split_of
from point_cloud import DATA_SEED, distance, unit_swiss_roll
from side_by_side import RESULTS, machine, told_options
from tqdm.auto import tqdm

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.calibration import fit_solver
from ddpm_hf.data import open_points
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.model_range import to_levels
from ddpm_hf.evaluation.distances import mean_and_spread
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.execution import DTYPES, Execution
from ddpm_hf.hub.model_folder import load_pipeline

FIT_SEED = 1000
FRESH_DRAWS = 20_000
FIT_IMAGES = 4096
ROLL_POINTS = 2000


class Model:
    """A network, the scheduler of its training, and the distance of samples to its data."""

    def __init__(self, options):
        self.options, self.scale = options, options.guidance_scale
        if options.model == "swiss_roll":
            points = unit_swiss_roll(2000, torch.Generator().manual_seed(DATA_SEED))
            self.scheduler = GaussianDiffusionScheduler(clip_sample=False)
            self.network = ExactDenoiser.from_points(points, self.scheduler)
            self.shape, self.images = (2,), points.float()
            self.to_data = lambda samples: distance(samples.double(), points.double())
            return
        pipeline = load_pipeline(options.model)
        self.network, self.scheduler = pipeline.unet, pipeline.scheduler
        self.shape = pipeline.samples.shape
        if pipeline.samples.name == "points":
            fresh, self.images = (roll(split, pipeline.unet.config) for split in ("test", "train"))
            self.to_data = lambda samples: distance(samples.double(), fresh.double())
            return
        real, self.images = self._data(pipeline.unet)
        self.to_data = ImageDistance(load_features(options.features), real)

    def _data(self, unet):
        """The images that samples are compared with, and those that solvers are fitted with, uint8."""
        if isinstance(unet, ExactDenoiser):
            fresh = to_levels(unet.sample(FRESH_DRAWS + FIT_IMAGES, torch.Generator().manual_seed(DATA_SEED)))
            return fresh[FIT_IMAGES:], fresh[:FIT_IMAGES]
        unseen = split_of(self.options.dataset, "test", unet.config)[0]
        return unseen[1::2], unseen[::2][:FIT_IMAGES]

    def fits(self):
        """The fitted schedulers by name: the model's own, if `ddpm-hf calibrate --solver` has given it any."""
        if self.scheduler.config.get("fitted_solvers"):
            return {"fitted": self.scheduler} if self.options.fits else {}
        options, paths = self.options, self.options.paths
        fits = {
            "fitted": (paths, FIT_SEED),
            "half the paths": (paths // 2, FIT_SEED),
            "another seed": (paths, FIT_SEED + 1),
        }
        given = {"images": None if options.without_images else self.images, "guidance_scale": self.scale}
        if isinstance(self.network, UNet2DModel):
            given["features"] = self.to_data.features_of
        return {
            name: fit_solver(self.network, self.scheduler, options.steps, num_paths=count, seed=seed, **given)
            for name, (count, seed) in list(fits.items())[: options.fits]
        }

    def draw(self, scheduler, noise, steps):
        pipeline = GaussianDiffusionPipeline(self.network, scheduler)
        pipeline.set_progress_bar_config(disable=True)
        return drawn(pipeline, noise, steps, guidance_scale=self.scale)


def roll(split, config):
    """Standardised points of a draw of a swiss roll."""
    return open_points(DataArguments(dataset="swiss_roll", split=split, num_points=ROLL_POINTS), config).points


def samplers_of(scheduler):
    """The samplers of diffusers; our classes take DDIM and 2M, with the same samples, faster."""
    deterministic = {"eta": 0.0, "variance_type": "fixed_small", "timestep_plans": None, "fitted_solvers": None}
    kernels = {
        "DDIM, trailing": {"timestep_spacing": "trailing"},
        "2M, trailing": {"timestep_spacing": "trailing", "solver_order": 2},
        "2M, Karras": {"timestep_spacing": "karras", "solver_order": 2},
    }
    made = {
        name: GaussianDiffusionScheduler.from_config(scheduler.config, **deterministic, **changes)
        for name, changes in kernels.items()
    }
    made["2M, leading"] = GaussianDiffusionScheduler.from_config(
        scheduler.config, **deterministic, timestep_spacing="leading", solver_order=2
    )
    # bh1 gives NaN at 5 steps with a last sigma of 0, and is left out.
    for name, spacing in {"UniPC bh2": "trailing", "UniPC bh2, leading": "leading"}.items():
        made[name] = UniPCMultistepScheduler.from_config(
            scheduler.config, timestep_spacing=spacing, final_sigmas_type="zero"
        )
    return made


def measure(model, options):
    """Yields {"sampler, K calls": [[rms, distance] for each seed]} after every seed; rms is None without the flow."""
    fits, measured = model.fits(), {}
    Execution(options.precision, compiled=options.compile).apply(model.network)
    print(json.dumps({name: told(scheduler) for name, scheduler in fits.items()}), flush=True)
    samplers = {
        name: s
        for name, s in samplers_of(model.scheduler).items()
        if options.samplers is None or name in options.samplers
    } | fits
    fine = GaussianDiffusionScheduler.from_config(
        model.scheduler.config, eta=0.0, variance_type="fixed_small", solver_order=2, timestep_spacing="logsnr"
    )
    for seed in tqdm(options.seeds, desc="seeds"):
        noise = torch.randn(options.samples, *model.shape, generator=torch.Generator().manual_seed(seed))
        flow = model.draw(fine, noise, options.flow_calls) if options.flow_calls else None
        if flow is not None:
            measured.setdefault(f"flow, {options.flow_calls} calls", []).append([0.0, model.to_data(flow)])
        for name, sampler in samplers.items():
            for steps in options.steps:
                samples = model.draw(sampler, noise, steps)
                rms = None if flow is None else (samples - flow).square().mean().sqrt().item()
                measured.setdefault(f"{name}, {steps} calls", []).append([rms, model.to_data(samples)])
        yield measured


def told(scheduler):
    solvers = scheduler.config.fitted_solvers["solvers"]
    return {count: [*solver["timesteps"], solver.get("free_first_call", False)] for count, solver in solvers.items()}


def table(measured, steps):
    """Markdown: a row for each sampler, a column for each number of calls, `rms / distance to data ± its spread`."""
    names = list(dict.fromkeys(key.rsplit(", ", 1)[0] for key in measured))
    lines = ["| sampler | " + " | ".join(map(str, steps)) + " |", "|---" * (1 + len(steps)) + "|"]
    for name in names:
        if name != "flow":
            cells = [cell_of(measured[f"{name}, {count} calls"]) for count in steps]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    flows = [f"\n{key}: {cell_of(results)}" for key, results in measured.items() if key.startswith("flow")]
    return "\n".join([*lines, *flows])


def cell_of(results):
    distances, data = zip(*results, strict=True)
    mean, spread = mean_and_spread(data)
    to_data = f"{mean:.3f}" + ("" if spread is None else f" ± {spread:.3f}")
    return to_data if None in distances else f"{mean_and_spread(distances)[0]:.3f} / {to_data}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--features")
    parser.add_argument("--dataset")
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 4, 5, 6, 8, 10, 15, 25, 50])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--paths", type=int, default=96)
    parser.add_argument("--fits", type=int, default=1, choices=(0, 1, 2, 3))
    parser.add_argument("--samplers", nargs="*", default=None, help="by default all of them")
    parser.add_argument("--flow_calls", type=int, default=200, help="0 for no comparison with the flow")
    parser.add_argument("--guidance_scale", type=float, default=1.0)
    parser.add_argument("--without_images", action="store_true")
    parser.add_argument("--precision", choices=DTYPES, help="of the network; by default its own")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--name", help="of the table; by default that of the model")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"fitted_solvers_{options.name or Path(options.model).name}"
    for done, measured in enumerate(measure(Model(options), options), start=1):
        given = told_options(options) | {"seeds": options.seeds[:done]}
        result = {"machine": machine(), "options": given, "measured": measured}
        file.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        file.with_suffix(".md").write_text(table(measured, options.steps) + "\n", encoding="utf-8")
    print(table(measured, options.steps))


if __name__ == "__main__":
    main()
