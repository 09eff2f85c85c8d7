"""Time of a step by fitted rows, with and without the data's moments, against those of DPM-Solver++ 2M.

python benchmarks/solver_step.py

The first contender is diffusers' DPMSolverMultistepScheduler; the network is left out of all.
"""

import torch
from diffusers import DPMSolverMultistepScheduler
from side_by_side import report, time_in_turns

from ddpm_hf import GaussianDiffusionScheduler
from ddpm_hf.calibration.measured_moments import measured_moments
from ddpm_hf.schedulers.fitted_solvers import described_for_fit

SHAPES = ((1, 3, 32, 32), (64, 3, 32, 32))
COUNTS = (5, 10, 25)
REPEATS = 60


def with_rows(count, moments):
    """A scheduler with a solver of any numbers for so many calls."""
    plain = GaussianDiffusionScheduler(eta=0.0)
    plain.set_timesteps(count)
    more = 0 if moments is None else 1
    rows = [[0.5] + [0.1] * (n + 1 + more) for n in range(count)]
    described = described_for_fit(plain.config, plain.alpha_bar(range(len(plain))).numpy()) | {"guidance_scale": 1.0}
    solver = {"timesteps": plain.timesteps.tolist(), "rows": rows}
    fitted = {"fitted_for": described, "solvers": {str(count): solver}}
    if moments is not None:
        fitted["moments"] = moments.to_config()
    return GaussianDiffusionScheduler(eta=0.0, fitted_solvers=fitted)


def run_of(scheduler, count, model_output, sample):
    scheduler.set_timesteps(count)

    def run():
        x = sample
        for t in scheduler.timesteps:
            x = scheduler.step(model_output, t, x).prev_sample
        if isinstance(scheduler, DPMSolverMultistepScheduler):
            scheduler.set_timesteps(count)  # it counts its steps

    return run


def main():
    measured = {}
    for shape in SHAPES:
        moments = measured_moments(torch.randn(500, *shape[1:]))
        model_output, sample = torch.randn(2, *shape)
        for count in COUNTS:
            schedulers = {
                "DPMSolverMultistepScheduler": DPMSolverMultistepScheduler(),
                "ddim-2m": GaussianDiffusionScheduler(eta=0.0, solver_order=2),
                "fitted rows": with_rows(count, None),
                "fitted rows and moments": with_rows(count, moments),
            }
            contenders = {name: run_of(s, count, model_output, sample) for name, s in schedulers.items()}
            times = time_in_turns(contenders, REPEATS)
            for row in times.values():
                row["microseconds_per_step"] = row.pop("seconds") / count * 1e6
            measured[f"{shape}, {count} steps"] = times
    report("solver_step_cpu", measured)


if __name__ == "__main__":
    main()
