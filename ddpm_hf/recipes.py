"""Named samplers of the literature, each a few choices of the reverse kernel."""

from ddpm_hf.errors import InputError
from ddpm_hf.models.network_config import has_head
from ddpm_hf.portable.config import own_value
from ddpm_hf.samples import kind_of
from ddpm_hf.schedulers.choices import COVARIANCE_HEADS, LEARNED_VARIANCE_TYPES
from ddpm_hf.schedulers.sampler_table import (
    OWN_OF_AN_SDE,
    PLANNED,
    RECIPES,
    SDE_RECIPES,
    USUAL_SAMPLERS,
    check_recipe,
)
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler
from ddpm_hf.schedulers.scheduling_score_sde import ScoreSDEScheduler
from ddpm_hf.schedulers.score_sde_config import is_chain

# Analytic-DPM's code clips to this for DDPM on cosine schedules too.
COSINE_CLIP_VARIANCE_PIXELS = 1


def with_recipe(scheduler, name, **changes):
    """A new [`GaussianDiffusionScheduler`] with the choices of the recipe and otherwise the config of `scheduler`.

    A recipe of `SDE_RECIPES` gives a [`ScoreSDEScheduler`] of the same process in continuous time, without changes.

    Timestep plans in the config are dropped, because they were made for one kernel; `timestep_plans=` restores them.

    Args:
        scheduler ([`SchedulerMixin`]): the model's scheduler, stock or ours.
        name (`str`): a key of `RECIPES` or `SDE_RECIPES`; for the former also `NAME@SPACING` for another
            `timestep_spacing`, and `NAME@planned` for the `timestep_plans` of the scheduler's config.
        changes: changes of the recipe, as arguments of the scheduler: `timestep_spacing="optimal"`.

    Raises:
        InputError: for an unknown name, and for a recipe that needs values that this scheduler lacks.
    """
    check_recipe(name)
    base, _, spacing = name.partition("@")
    if base in SDE_RECIPES:
        return _in_continuous_time(scheduler, base)
    recipe = RECIPES[base]
    values = recipe | _trajectory(spacing, scheduler) | changes
    if values["clip_variance_pixels"] is not None and "clip_variance_pixels" not in changes:
        cosine = scheduler.config.beta_schedule == "squaredcos_cap_v2"
        values["clip_variance_pixels"] = COSINE_CLIP_VARIANCE_PIXELS if cosine else recipe["clip_variance_pixels"]
    try:
        return GaussianDiffusionScheduler.from_config(scheduler.config, **values)
    except ValueError as error:
        raise InputError(f"Recipe {name!r}: {error}") from error


def usual_sampler(scheduler_config):
    """The recipe that is good in few steps for every model of such a process, None for its own sampler, and the steps.

    Args:
        scheduler_config: the config of the model's scheduler, in memory or from its file.
    """
    if scheduler_config.get("sde") == "vp" and not is_chain(scheduler_config):
        return OWN_OF_AN_SDE
    return USUAL_SAMPLERS[scheduler_config.get("sde") or ("edm" if "P_mean" in scheduler_config else "ddpm")]


def own_steps(scheduler_config):
    """The fewest steps that are good with the sampler that a model of such a process has after its training."""
    return OWN_OF_AN_SDE[1] if scheduler_config.get("sde") else usual_sampler(scheduler_config)[1]


def _in_continuous_time(scheduler, name):
    try:
        return ScoreSDEScheduler.from_config(scheduler.config, **SDE_RECIPES[name])
    except ValueError as error:
        raise InputError(f"Recipe {name!r}: {error}") from error


def _trajectory(spacing, scheduler):
    if spacing == PLANNED:
        plans = scheduler.config.get("timestep_plans")
        if not plans:
            raise InputError(
                "The model has no timestep_plans: `ddpm-hf calibrate MODEL --dataset DATA --plan 10,25` makes them."
            )
        return {"timestep_plans": plans}
    return {"timestep_spacing": spacing} if spacing else {}


def changes_for(config):
    """The options that recipes must change for the samples of a network.

    Args:
        config: the network's config.
    """
    return kind_of(config).recipe_changes


def prepared_count(scheduler):
    """The largest number of steps for which a scheduler has a plan or a fitted solver; None if it has neither."""
    config = scheduler.config
    counts = {*(config.get("timestep_plans") or {}), *(config.get("fitted_solvers") or {}).get("solvers", {})}
    return max(map(int, counts), default=None)


def check_head(unet, scheduler):
    """Raises InputError if the scheduler's variance is read from a head that the network does not have.

    Args:
        unet ([`UNet2DModel`]): stock or ours; a network of 2C channels that does not name its head is trusted.
        scheduler ([`GaussianDiffusionScheduler`]): the scheduler with the `variance_type`.
    """
    wanted = scheduler.config.get("variance_type")  # none in continuous time
    if wanted not in LEARNED_VARIANCE_TYPES + COVARIANCE_HEADS:
        return
    head = own_value(unet.config, "variance_head")
    if head == wanted or (head is None and has_head(unet.config)):
        return
    has = f"the head {head!r}" if head else "no variance head"
    raise InputError(
        f"variance_type={wanted!r} needs a network with that head; this one has {has}. `ddpm-hf train --init_from "
        f"MODEL --variance_head {wanted} --train_head_only` puts one on it and leaves its other weights as they are."
    )
