"""The figures of a scheduler that `ddpm-hf show` draws without loading a network."""

from pathlib import Path

from ddpm_hf.hub.reading import read_index, reading
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler
from ddpm_hf.visualization.calibration import draw_gamma, draw_timesteps
from ddpm_hf.visualization.schedules import draw_schedules

# The schedules with which a network can be trained.
SHOWN_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")


def schedules(model=None):
    """The noise schedule of a model, or else the schedules with which a network can be trained."""
    if model is not None:
        return draw_schedules({Path(model).name: load_scheduler(model)})
    return draw_schedules({name: GaussianDiffusionScheduler(beta_schedule=name) for name in SHOWN_SCHEDULES})


def gamma(model):
    return draw_gamma(load_scheduler(model))


def timesteps(model, num_inference_steps):
    return draw_timesteps(load_scheduler(model), num_inference_steps)


def load_scheduler(model):
    """The scheduler of a pipeline folder or a repository, without loading its networks."""
    read_index(model)
    with reading(model):
        return GaussianDiffusionScheduler.from_pretrained(model, subfolder="scheduler")
