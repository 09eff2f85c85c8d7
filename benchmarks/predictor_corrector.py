"""Samplers of continuous time at equal numbers of network calls: predictors alone and with corrections.

python benchmarks/predictor_corrector.py [MODEL] [--calls 20 50 100 200 1000] [--samples 500] [--seeds 0 1]
python benchmarks/predictor_corrector.py EXACT --features FEATURES

MODEL is a pipeline folder of points in the plane (`ddpm-hf train --preset swiss_roll --process ve`), measured against
its data, the swiss roll; without it the exact score of 1,000 points of a swiss roll under DDPM's linear schedule, read
in continuous time. The table has the sliced Wasserstein distance to other points, a mean over seeds and the standard
deviation between them; the last row is that of as many fresh points.

EXACT is the folder of an exact model of images (`exact_images.py`), whose samples are measured by the Frechet distance
to draws of the model in the features. Networks of images are compared by `ddpm-hf compare`.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
from fitted_solvers import Model

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler, ScoreSDEScheduler
from ddpm_hf.data.point_clouds import swiss_roll
from ddpm_hf.evaluation.distances import mean_and_spread, sliced_wasserstein
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.pipelines.probability_flow import sample_by_flow
from ddpm_hf.schedulers.scheduling_edm import EDMScheduler

PROJECTIONS, BATCH = 200, 500
# Options of `ScoreSDEScheduler`, and the calls of a step.
SAMPLERS = {
    "euler_maruyama": ({"predictor": "euler_maruyama", "corrector": "none"}, 1),
    "reverse_diffusion": ({"predictor": "reverse_diffusion", "corrector": "none"}, 1),
    "reverse_diffusion, flow": (
        {"predictor": "reverse_diffusion", "corrector": "none", "probability_flow": True},
        1,
    ),
    "ancestral": ({"predictor": "ancestral", "corrector": "none"}, 1),
    "predictor-corrector": ({"predictor": "reverse_diffusion", "corrector": "langevin"}, 2),
    "predictor-corrector, paper's order": (
        {"predictor": "reverse_diffusion", "corrector": "langevin", "correct_first": False},
        2,
    ),
    "annealed Langevin": ({"predictor": "none", "corrector": "annealed_langevin", "correct_steps": 10}, 10),
}


class Subject(NamedTuple):
    """A pipeline, the distance of samples to its data, and fresh data in the units of samples."""

    pipeline: GaussianDiffusionPipeline
    distance: Callable
    fresh: Callable  # of a number and a seed


def exact_points():
    """The exact model of 1,000 points, standardised."""
    points = swiss_roll(1000, torch.Generator().manual_seed(0)).points
    scheduler = GaussianDiffusionScheduler(clip_sample=False)
    shift, scale = points.mean(0), points.std(0)
    denoiser = ExactDenoiser.from_points((points - shift) / scale, scheduler)
    return of_points(GaussianDiffusionPipeline(denoiser, scheduler), shift, scale)


def trained_points(pipeline):
    config = pipeline.unet.config
    return of_points(pipeline, torch.tensor(config.data_mean), torch.tensor(config.data_std))


def of_points(pipeline, shift, scale):
    def fresh(number, seed):
        return (swiss_roll(number, torch.Generator().manual_seed(seed)).points - shift) / scale

    reference = fresh(5000, 1000).double()

    def distance(points):
        return sliced_wasserstein(points.double(), reference, PROJECTIONS, torch.Generator().manual_seed(0))

    return Subject(pipeline, distance, fresh)


def exact_images(options):
    """The exact model of images in a folder (`exact_images.py`), by the Frechet distance to draws of its own."""
    model = Model(options)
    pipeline = GaussianDiffusionPipeline(model.network, model.scheduler)
    return Subject(
        pipeline, model.to_data, lambda number, seed: model.network.sample(number, torch.Generator().manual_seed(seed))
    )


def subject_of(options):
    if options.model is None:
        return exact_points()
    pipeline = load_pipeline(options.model)
    return trained_points(pipeline) if pipeline.samples.name == "points" else exact_images(options)


def samplers_of(scheduler):
    """For each sampler its scheduler, and the number of steps that makes so many calls."""
    if isinstance(scheduler, EDMScheduler):
        return {
            "Heun": (scheduler, lambda calls: (calls + 1) // 2),
            "Heun, churn 40": (
                EDMScheduler.from_config(scheduler.config, s_churn=40.0, s_noise=1.003),
                lambda calls: (calls + 1) // 2,
            ),
            "Euler": (EDMScheduler.from_config(scheduler.config, solver="euler"), lambda calls: calls),
        }
    return {
        name: (
            ScoreSDEScheduler.from_config(scheduler.config, **options),
            lambda calls, of_a_step=per_step: calls // of_a_step,
        )
        for name, (options, per_step) in SAMPLERS.items()
        if not (options["predictor"] == "ancestral" and scheduler.config.get("sde") == "sub_vp")
    }


def drawn(pipeline, scheduler, steps, samples, seed):
    """Samples as the network has them, in batches of at most `BATCH`."""
    pipeline.scheduler = scheduler
    generator, parts = torch.Generator().manual_seed(seed), []
    for first in range(0, samples, BATCH):
        count = min(BATCH, samples - first)
        run = pipeline(count, generator=generator, num_inference_steps=steps, output_type="latent")
        parts.append(run.images)
    return torch.cat(parts)


def cell(distances):
    mean, spread = mean_and_spread(distances)
    return f"{mean:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--calls", type=int, nargs="+", default=[20, 50, 100, 200, 1000])
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--features", help="for images: the folder of a feature network")
    options = parser.parse_args()
    options.guidance_scale = 1.0  # of `Model`
    pipeline, distance, fresh = subject_of(options)
    pipeline.set_progress_bar_config(disable=True)
    print(f"| calls | {' | '.join(map(str, options.calls))} |")
    print("|---" * (len(options.calls) + 1) + "|")
    scheduler = pipeline.scheduler
    for name, (sampler, steps_of) in samplers_of(scheduler).items():
        cells = []
        for calls in options.calls:
            try:
                sampler.set_timesteps(steps_of(calls))
            except ValueError:  # the discrete form of VP needs more steps
                cells.append("")
                continue
            runs = (drawn(pipeline, sampler, steps_of(calls), options.samples, seed) for seed in options.seeds)
            cells.append(cell([distance(samples) for samples in runs]))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    pipeline.scheduler = scheduler
    if not isinstance(scheduler, EDMScheduler):
        samples, calls = sample_by_flow(pipeline, options.samples, batch_size=BATCH, output_type="latent")
        print(f"| the flow at rtol 1e-5, {calls} calls | {distance(torch.stack(samples)):.3f} |")
    print(f"| fresh data | {cell([distance(fresh(options.samples, seed)) for seed in options.seeds])} |")


if __name__ == "__main__":
    main()
