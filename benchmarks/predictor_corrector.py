"""Samplers of continuous time at equal numbers of network calls, on points: predictors alone and with corrections.

python benchmarks/predictor_corrector.py [MODEL] [--calls 20 50 100 200 1000] [--samples 500] [--seeds 0 1]

MODEL is a pipeline folder of points in the plane (`ddpm-hf train --preset swiss_roll --process ve`), measured against
its data, the swiss roll; without it the exact score of 1,000 points of a swiss roll under DDPM's linear schedule, read
in continuous time. The table has the sliced Wasserstein distance to other points, a mean over seeds and the standard
deviation between them; the last row is that of as many fresh points.
"""

import argparse

import torch

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler, ScoreSDEScheduler
from ddpm_hf.data.point_clouds import swiss_roll
from ddpm_hf.evaluation.distances import mean_and_spread, sliced_wasserstein
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.pipelines.probability_flow import sample_by_flow
from ddpm_hf.schedulers.scheduling_edm import EDMScheduler

PROJECTIONS = 200
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


def exact_pipeline():
    """The exact model of 1,000 points, standardised, and their mean and deviation."""
    points = swiss_roll(1000, torch.Generator().manual_seed(0)).points
    scheduler = GaussianDiffusionScheduler(clip_sample=False)
    shift, scale = points.mean(0), points.std(0)
    return (
        GaussianDiffusionPipeline(ExactDenoiser.from_points((points - shift) / scale, scheduler), scheduler),
        shift,
        scale,
    )


def trained_pipeline(folder):
    pipeline = load_pipeline(folder)
    config = pipeline.unet.config
    return pipeline, torch.tensor(config.data_mean), torch.tensor(config.data_std)


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


def distance(pipeline, scheduler, steps, reference, samples, seed):
    pipeline.scheduler = scheduler
    generator = torch.Generator().manual_seed(seed)
    drawn = pipeline(samples, generator=generator, num_inference_steps=steps, output_type="latent").images
    return distance_of(drawn, reference)


def distance_of(points, reference):
    generator = torch.Generator().manual_seed(0)
    return sliced_wasserstein(points.double(), reference.double(), PROJECTIONS, generator)


def cell(distances):
    return "{:.3f} ± {:.3f}".format(*mean_and_spread(distances))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--calls", type=int, nargs="+", default=[20, 50, 100, 200, 1000])
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    pipeline, shift, scale = exact_pipeline() if options.model is None else trained_pipeline(options.model)
    pipeline.set_progress_bar_config(disable=True)

    def fresh(number, seed):
        return (swiss_roll(number, torch.Generator().manual_seed(seed)).points - shift) / scale

    reference = fresh(5000, 1000)
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
            run = [distance(pipeline, sampler, steps_of(calls), reference, options.samples, s) for s in options.seeds]
            cells.append(cell(run))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    pipeline.scheduler = scheduler
    if not isinstance(scheduler, EDMScheduler):
        points, calls = sample_by_flow(pipeline, options.samples, batch_size=options.samples, output_type="latent")
        print(f"| the flow at rtol 1e-5, {calls} calls | {distance_of(torch.stack(points), reference):.3f} |")
    print(
        f"| fresh points | {cell([distance_of(fresh(options.samples, seed), reference) for seed in options.seeds])} |"
    )


if __name__ == "__main__":
    main()
