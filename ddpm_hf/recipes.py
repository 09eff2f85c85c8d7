"""Named samplers of the literature, each a few choices of the reverse kernel."""

from ddpm_hf.errors import InputError
from ddpm_hf.portable.config import PACKED_KEY
from ddpm_hf.samples import kind_of
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler
from ddpm_hf.schedulers.variances import COVARIANCE_HEADS, LEARNED_VARIANCE_TYPES


def _recipe(
    eta,
    variance_type="fixed_small",
    clip_variance_pixels=None,
    solver_order=1,
    timestep_spacing="linspace",
    corrector=False,
):
    return {
        "eta": eta,
        "variance_type": variance_type,
        "clip_variance_pixels": clip_variance_pixels,
        "solver_order": solver_order,
        "corrector": corrector,
        "timestep_spacing": timestep_spacing,
        # A plan and a fitted solver are made for one kernel: with another they are arbitrary.
        "timestep_plans": None,
        "fitted_solvers": None,
    }


# Improved DDPM and Analytic-DPM use even timesteps with both ends (`linspace`). Second-order samplers suit (nearly)
# even steps in the logarithm of the noise level (`karras`). Analytic-DPM's code clips the last noise to 2 pixels for
# DDPM and to 1 for DDIM, and its published results need that.
RECIPES = {
    "ddpm": _recipe(eta=1.0),  # Ho et al. 2020, with beta~
    "ddpm-large": _recipe(eta=1.0, variance_type="fixed_large"),  # the same, with beta
    "ddim": _recipe(eta=0.0),  # Song et al. 2020
    "iddpm": _recipe(eta=1.0, variance_type="learned_range"),  # Nichol & Dhariwal 2021
    "analytic-ddpm": _recipe(eta=1.0, variance_type="analytic", clip_variance_pixels=2),  # Bao et al. 2022a
    "analytic-ddim": _recipe(eta=0.0, variance_type="analytic", clip_variance_pixels=1),
    "npr-ddpm": _recipe(eta=1.0, variance_type="npr", clip_variance_pixels=2),  # Bao et al. 2022b
    "npr-ddim": _recipe(eta=0.0, variance_type="npr", clip_variance_pixels=1),
    "sn-ddpm": _recipe(eta=1.0, variance_type="sn", clip_variance_pixels=2),
    "sn-ddim": _recipe(eta=0.0, variance_type="sn", clip_variance_pixels=1),
    "ocm-ddpm": _recipe(eta=1.0, variance_type="ocm", clip_variance_pixels=2),  # Ou et al. 2025
    "ocm-ddim": _recipe(eta=0.0, variance_type="ocm", clip_variance_pixels=1),
    "ddim-2m": _recipe(eta=0.0, solver_order=2, timestep_spacing="karras"),  # Lu et al. 2022b
    "ddpm-2m": _recipe(eta=1.0, solver_order=2, timestep_spacing="karras"),
    "ddim-2m-pc": _recipe(eta=0.0, solver_order=2, timestep_spacing="karras", corrector=True),  # Zhao et al. 2023
}

# Analytic-DPM's code clips to this for DDPM on cosine schedules too.
COSINE_CLIP_VARIANCE_PIXELS = 1


def with_recipe(scheduler, name, **changes):
    """A new [`GaussianDiffusionScheduler`] with the choices of the recipe and otherwise the config of `scheduler`.

    Timestep plans in the config are dropped, because they were made for one kernel; `timestep_plans=` restores them.

    Args:
        scheduler ([`SchedulerMixin`]): the model's scheduler, stock or ours.
        name (`str`): a key of `RECIPES`.
        changes: changes of the recipe, as arguments of the scheduler: `timestep_spacing="optimal"`.

    Raises:
        InputError: for an unknown name, and for a recipe that needs values that this scheduler lacks.
    """
    if name not in RECIPES:
        raise InputError(f"The recipe {name!r} is not known; there are {', '.join(RECIPES)}.")
    values = RECIPES[name] | changes
    if values["clip_variance_pixels"] is not None and "clip_variance_pixels" not in changes:
        cosine = scheduler.config.beta_schedule == "squaredcos_cap_v2"
        values["clip_variance_pixels"] = (
            COSINE_CLIP_VARIANCE_PIXELS if cosine else RECIPES[name]["clip_variance_pixels"]
        )
    try:
        return GaussianDiffusionScheduler.from_config(scheduler.config, **values)
    except ValueError as error:
        raise InputError(f"Recipe {name!r}: {error}") from error


def changes_for(config):
    """The options that recipes must change for the samples of a network.

    Args:
        config: the network's config.
    """
    return kind_of(config).recipe_changes


def check_head(unet, scheduler):
    """Raises InputError if the scheduler's variance is read from a head that the network does not have.

    Args:
        unet ([`UNet2DModel`]): stock or ours; a network of 2C channels that does not name its head is trusted.
        scheduler ([`GaussianDiffusionScheduler`]): the scheduler with the `variance_type`.
    """
    wanted = scheduler.config.variance_type
    if wanted not in LEARNED_VARIANCE_TYPES + COVARIANCE_HEADS:
        return
    config = unet.config
    head = config.get("variance_head", config.get(PACKED_KEY, {}).get("variance_head"))
    if head == wanted or (head is None and config.out_channels == 2 * config.in_channels):
        return
    has = f"the head {head!r}" if head else "no variance head"
    raise InputError(
        f"variance_type={wanted!r} needs a network with that head; this one has {has}. `ddpm-hf train --init_from "
        f"MODEL --variance_head {wanted} --train_head_only` puts one on it and leaves its other weights as they are."
    )
