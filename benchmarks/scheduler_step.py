"""Time of GaussianDiffusionScheduler's `step` against diffusers' DDPMScheduler, with the same noise and result.

python benchmarks/scheduler_step.py [--clock cpu]

A third row has the random numbers alone, which every such step must draw; the last two are steps with a measured
covariance of x0, as one number and as one for each spatial frequency.
"""

import argparse

import torch
from diffusers import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from side_by_side import add_clock_option, report, time_in_turns

from ddpm_hf import GaussianDiffusionScheduler
from ddpm_hf.schedulers.covariance_spectrum import CovarianceSpectrum, frequency_bands, knots

SHAPES = ((1, 3, 32, 32), (64, 3, 32, 32))
STEPS = 50


def sampling_loop(scheduler, model_output, sample):
    """Runs all steps of a trajectory without the network."""
    generator = torch.Generator(sample.device).manual_seed(0)
    scheduler.set_timesteps(STEPS)

    def run():
        x = sample
        for t in scheduler.timesteps:
            x = scheduler.step(model_output, t, x, generator=generator).prev_sample

    return run


def calibrated(variance_type, shape):
    """A scheduler with an even spectrum, which costs what any other does."""
    bands = [int(frequency_bands(side)[-1]) + 1 for side in shape[2:]]
    spectrum = CovarianceSpectrum(shape[1:], knots(1000), torch.ones(len(knots(1000)), shape[1], *bands))
    measured = {"mean_square_epsilon": [0.9] * 1000, "covariance_spectrum": spectrum.to_config()}
    return GaussianDiffusionScheduler(variance_type=variance_type, **measured)


def random_numbers(sample):
    """Draws the noise of a trajectory; the last step has none."""
    generator = torch.Generator(sample.device).manual_seed(0)

    def run():
        for _ in range(STEPS - 1):
            randn_tensor(sample.shape, generator=generator, device=sample.device)

    return run


def main():
    parser = argparse.ArgumentParser()
    add_clock_option(parser)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    measured = {}
    for shape in SHAPES:
        model_output, sample = torch.randn(2, *shape, device=device)
        contenders = {
            "DDPMScheduler": sampling_loop(DDPMScheduler(), model_output, sample),
            "GaussianDiffusionScheduler": sampling_loop(GaussianDiffusionScheduler(), model_output, sample),
            "random numbers": random_numbers(sample),
            "analytic": sampling_loop(calibrated("analytic", shape), model_output, sample),
            "dct": sampling_loop(calibrated("dct", shape), model_output, sample),
        }
        times = time_in_turns(contenders, repeats=60, clock=options.clock)
        for row in times.values():
            row["microseconds_per_step"] = row.pop("seconds") / STEPS * 1e6
        ours, drawn = (times[name]["ratio"] for name in ("GaussianDiffusionScheduler", "random numbers"))
        times["GaussianDiffusionScheduler"]["ratio_to_random_numbers"] = ours / drawn
        measured[str(shape)] = times
    report(f"scheduler_step_{device}", measured, options.clock)


if __name__ == "__main__":
    main()
