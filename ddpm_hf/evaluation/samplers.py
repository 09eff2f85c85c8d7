"""Samplers to set side by side: our recipes and diffusers' own, by name, in the loop of one pipeline."""

from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from ddpm_hf.errors import InputError
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.recipes import RECIPES, with_recipe

# As a user has them: made by `from_config` from the scheduler of the model, whose timestep_spacing they so inherit.
STOCK_SAMPLERS = {
    "diffusers-ddpm": (DDPMScheduler, {}),
    "diffusers-ddim": (DDIMScheduler, {}),
    "dpmpp-2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "dpmpp-2m-sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp-2m-karras": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "unipc": (UniPCMultistepScheduler, {}),
}
SAMPLERS = (*RECIPES, *STOCK_SAMPLERS)
PLANNED = "planned"


def make_sampler(name, scheduler):
    """A scheduler that samples as `name` says, on the diffusion process of `scheduler`.

    Args:
        name (`str`): one of `SAMPLERS`; `NAME@SPACING` for another `timestep_spacing` than its own, and for a recipe
            `NAME@planned` for the `timestep_plans` of the scheduler's config.
        scheduler ([`SchedulerMixin`]): the model's, stock or ours.

    Raises:
        InputError: for a name that there is not, and for a recipe that needs what this scheduler has not.
    """
    base, _, spacing = name.partition("@")
    if base in RECIPES:
        return with_recipe(scheduler, base, **_trajectory(spacing, scheduler))
    if base not in STOCK_SAMPLERS:
        raise InputError(f"The sampler {name!r} is not known; there are {', '.join(SAMPLERS)}.")
    stock, values = STOCK_SAMPLERS[base]
    if spacing:
        values = values | {"timestep_spacing": spacing}
    # Of a scheduler in memory, stock classes take over only what was set by hand; of one that was saved, all. Users load
    # their models, so that the `leading` of a DDPM comes along.
    config = {key: value for key, value in scheduler.config.items() if key != "_use_default_values"}
    return stock.from_config(config, **values)


def _trajectory(spacing, scheduler):
    if spacing == PLANNED:
        plans = scheduler.config.get("timestep_plans")
        if not plans:
            raise InputError(
                "The model has no timestep_plans: `ddpm-hf calibrate MODEL --dataset DATA --plan 10,25` makes them."
            )
        return {"timestep_plans": plans}
    return {"timestep_spacing": spacing} if spacing else {}


def check_sampler(name, scheduler, steps):
    """Raises InputError unless the sampler makes exactly `steps` network calls for `steps` steps.

    Args:
        name (`str`): as in `make_sampler`.
        scheduler: the model's.
        steps (`int`): K.
    """
    check_steps(name, make_sampler(name, scheduler), steps)


def check_steps(name, sampler, steps):
    """As `check_sampler`, for what `make_sampler` gave for this name."""
    if name.endswith("@" + PLANNED) and str(steps) not in sampler.config.timestep_plans:
        planned = ", ".join(sampler.config.timestep_plans)
        raise InputError(f"Sampler {name!r} has plans for {planned} steps and none for {steps}.")
    try:
        sampler.set_timesteps(steps)
    except (ValueError, IndexError, ZeroDivisionError) as error:  # stock schedulers do not check their arguments
        raise InputError(f"Sampler {name!r} cannot take {steps} steps: {error}") from error
    if len(sampler.timesteps) != steps:
        raise InputError(f"Sampler {name!r} makes {len(sampler.timesteps)} network calls when asked for {steps}.")


def pipeline_with(sampler, unet):
    """A pipeline that takes the steps of `sampler` as it is: the constructor makes a stock DDPM or DDIM scheduler ours."""
    pipeline = GaussianDiffusionPipeline(unet, sampler)
    pipeline.register_modules(scheduler=sampler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
