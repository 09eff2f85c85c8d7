"""The samplers of a comparison by name: our recipes and diffusers' schedulers, in the loop of one pipeline.

A number of network calls is one of steps for all of them but predictor-corrector sampling and Langevin dynamics.
"""

import diffusers

from ddpm_hf.errors import InputError
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.pipelines.schedulers import updates
from ddpm_hf.recipes import with_recipe
from ddpm_hf.schedulers.sampler_table import (
    CONTINUOUS_TIME_SAMPLERS,
    FITTED,
    PLANNED,
    RECIPES,
    SDE_RECIPES,
    STOCK_SAMPLERS,
    check_sampler_name,
)
from ddpm_hf.schedulers.scheduling_edm import EDMScheduler
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler
from ddpm_hf.schedulers.scheduling_score_sde import ScoreSDEScheduler
from ddpm_hf.schedulers.score_sde_config import is_chain

DEFAULT_SAMPLERS = (
    *("ddpm", "ddpm-large", "ddim", "ddim-2m"),
    *("diffusers-ddpm", "diffusers-ddim", "dpmpp-2m", "dpmpp-2m-sde", "dpmpp-2m-karras", "unipc"),
)


def make_sampler(name, scheduler):
    """The scheduler of a named sampler, on the diffusion process of `scheduler`.

    Args:
        name (`str`): one of `sampler_table.SAMPLERS` or of `SDE_RECIPES`; `NAME@SPACING` for another `timestep_spacing`,
            and for a recipe `NAME@planned` for the `timestep_plans` of the scheduler's config.
        scheduler ([`SchedulerMixin`]): the scheduler of the model, stock or ours.

    Raises:
        InputError: for an unknown name, and for a recipe that needs a calibration or plans that the scheduler lacks.
    """
    check_sampler_name(name)
    base, _, spacing = name.partition("@")
    if name == FITTED:
        return _with_fitted_solvers(scheduler)
    if base in RECIPES or base in SDE_RECIPES:
        return with_recipe(scheduler, name)
    if in_continuous_time(scheduler):
        scheduler = _as_chain(name, scheduler)
    stock, values = STOCK_SAMPLERS[base]
    if spacing:
        values = values | {"timestep_spacing": spacing}
    # Stock classes inherit only values that were set by hand from a scheduler in memory, and all values from a saved
    # one. Users load their models, so the key that marks the difference is left out, and `leading` is inherited.
    config = {key: value for key, value in scheduler.config.items() if key != "_use_default_values"}
    return getattr(diffusers, stock).from_config(config, **values)


def _as_chain(name, scheduler):
    try:
        return GaussianDiffusionScheduler.from_config(scheduler.config)
    except ValueError as error:
        raise InputError(
            f"Sampler {name!r} is for a chain of betas, which the model's process in continuous time is not: take "
            f"some of {', '.join(SDE_RECIPES)}."
        ) from error


def _with_fitted_solvers(scheduler):
    if not scheduler.config.get("fitted_solvers"):
        raise InputError(
            "The model has no fitted_solvers: `ddpm-hf calibrate MODEL --dataset DATA --solver 5,10` makes them."
        )
    return GaussianDiffusionScheduler.from_config(scheduler.config)


def in_continuous_time(scheduler):
    """Whether the process of a scheduler has real times and no betas."""
    return isinstance(scheduler, (ScoreSDEScheduler, EDMScheduler))


def is_sampled_as_sde(scheduler):
    """Whether a process has real times and is no chain of betas either, as a VP process is."""
    return in_continuous_time(scheduler) and not is_chain(scheduler.config)


def default_samplers(scheduler):
    """The names of the samplers that a comparison of a model with this scheduler takes, if it is told none."""
    if not is_sampled_as_sde(scheduler):
        return DEFAULT_SAMPLERS
    # The ancestral step of sub-VP has no formula (Song et al. 2021, appendix F, give VP's and VE's).
    sub_vp = scheduler.config.get("sde") == "sub_vp"
    return tuple(name for name in CONTINUOUS_TIME_SAMPLERS if not (sub_vp and name == "ancestral"))


def calls_of_a_step(sampler):
    """The network calls of one step of a sampler: one, and in predictor-corrector sampling one for each correction."""
    return len(updates(sampler, 1))


def check_sampler(name, scheduler, calls):
    """Raises InputError unless the sampler can make exactly `calls` network calls.

    Args:
        name (`str`): as in `make_sampler`.
        scheduler: the scheduler of the model.
        calls (`int`): K.
    """
    check_calls(name, make_sampler(name, scheduler), calls)


def check_calls(name, sampler, calls):
    """Raises InputError as `check_sampler`; `sampler` is the result of `make_sampler` for this name."""
    of_a_step = calls_of_a_step(sampler)
    if calls % of_a_step:
        raise InputError(
            f"Sampler {name!r} makes {of_a_step} network calls in each step: give a multiple of {of_a_step} calls, and "
            f"not {calls}."
        )
    _check_steps(name, sampler, calls // of_a_step)


def _check_steps(name, sampler, steps):
    if name.endswith("@" + PLANNED) and str(steps) not in sampler.config.timestep_plans:
        planned = ", ".join(sampler.config.timestep_plans)
        raise InputError(f"Sampler {name!r} has plans for {planned} steps and none for {steps}.")
    if name == FITTED and str(steps) not in sampler.config.fitted_solvers["solvers"]:
        fitted = ", ".join(sampler.config.fitted_solvers["solvers"])
        raise InputError(f"The model has solvers fitted for {fitted} steps and none for {steps}.")
    set_steps(sampler, steps, f"Sampler {name!r}")
    if len(sampler.timesteps) != steps:
        raise InputError(f"Sampler {name!r} makes {len(sampler.timesteps)} network calls when asked for {steps}.")
    # Then the stock class takes the second for its place, and runs past its last sigma.
    if (sampler.timesteps == sampler.timesteps[0]).sum() > 1:
        raise InputError(
            f"Sampler {name!r} begins twice at timestep {int(sampler.timesteps[0])} in {steps} steps of this noise "
            "schedule, where the class of diffusers fails: leave it out, or give another number of steps."
        )


def set_steps(sampler, steps, name):
    """Sets the timesteps of any scheduler.

    Raises:
        InputError: for a number of steps that it cannot take; the message begins with `name`.
    """
    try:
        sampler.set_timesteps(steps)
    except (ValueError, IndexError, ZeroDivisionError) as error:  # stock schedulers do not check their arguments
        raise InputError(f"{name} cannot take {steps} steps: {error}") from error


def with_sampler(pipeline, sampler):
    """The pipeline of the same parts with another scheduler, as `pipeline_with`."""
    parts = {name: pipeline.components[name] for name in ("vae", "text_encoder", "tokenizer")}
    return pipeline_with(sampler, pipeline.unet, **parts)


def pipeline_with(sampler, unet, vae=None, **parts):
    """A pipeline with this very scheduler; the constructor would replace a stock DDPM or DDIM scheduler with ours."""
    pipeline = GaussianDiffusionPipeline(unet, sampler, vae=vae, **parts)
    pipeline.register_modules(scheduler=sampler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
