"""The samplers that have names: recipes of ours, and schedulers of diffusers.

The tables are read without waiting for torch, so that the command line refuses an unknown name at once.
"""

from ddpm_hf.errors import InputError
from ddpm_hf.nearest_names import did_you_mean, not_one_of
from ddpm_hf.schedulers.choices import OWN_SPACINGS, STOCK_SPACINGS


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
    "dct-ddpm": _recipe(eta=1.0, variance_type="dct", clip_variance_pixels=2),  # the same for each spatial frequency
    "dct-ddim": _recipe(eta=0.0, variance_type="dct", clip_variance_pixels=1),
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

# The model's process in continuous time (Song et al. 2021), as arguments of `ScoreSDEScheduler`. A step takes one call
# of the network for the predictor and one for each correction.
SDE_RECIPES = {
    "euler-maruyama": {"predictor": "euler_maruyama", "corrector": "none"},
    "reverse-diffusion": {"predictor": "reverse_diffusion", "corrector": "none"},
    "ancestral": {"predictor": "ancestral", "corrector": "none"},
    "predictor-corrector": {"predictor": "reverse_diffusion", "corrector": "langevin", "snr": 0.16},
    "flow-euler": {"predictor": "euler_maruyama", "corrector": "none", "probability_flow": True},
    # Annealed Langevin dynamics (Song & Ermon 2019); the paper's step size has snr = sqrt(2e-5) / (2 * 0.01)
    "langevin": {"predictor": "none", "corrector": "annealed_langevin", "snr": 0.2236, "correct_steps": 10},
}

# What is good in few steps for every model of a process, without any measurement: a recipe, where there is one, and
# steps. The own sampler of an SDE leaves noise in fewer steps; EDM's is that of Karras et al. 2022, two calls in each.
USUAL_RECIPE, OWN_OF_AN_SDE = "ddim-2m", (None, 200)
USUAL_SAMPLERS = {
    "ddpm": (USUAL_RECIPE, 25),
    "vp": (USUAL_RECIPE, 25),
    "sub_vp": OWN_OF_AN_SDE,
    "ve": ("ancestral", 100),
    "edm": (None, 18),
}


def usual_options(process, most):
    """The options of `ddpm-hf sample` for a model of a process of `training`, with at most so many steps."""
    recipe, steps = USUAL_SAMPLERS[process]
    return f"{f'--recipe {recipe} ' if recipe else ''}--steps {min(steps, most)}"


# The class of diffusers and its options. Users make these by `from_config` from the scheduler of the model, whose
# timestep_spacing they inherit.
STOCK_SAMPLERS = {
    "diffusers-ddpm": ("DDPMScheduler", {}),
    "diffusers-ddim": ("DDIMScheduler", {}),
    "dpmpp-2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmpp-2m-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp-2m-karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    "unipc": ("UniPCMultistepScheduler", {}),
}
SAMPLERS = (*RECIPES, *STOCK_SAMPLERS)
# Langevin dynamics alone needs hundreds of calls, and is compared where it is asked for.
CONTINUOUS_TIME_SAMPLERS = tuple(name for name in SDE_RECIPES if name != "langevin")
# The solvers that were fitted to the model, which no recipe has.
FITTED = "fitted"
# The spacing of a recipe that visits the timesteps of the model's plans.
PLANNED = "planned"
SPACINGS = (*STOCK_SPACINGS, *OWN_SPACINGS, PLANNED)


def check_recipe(name):
    """Raises InputError, with the nearest name, unless `name` is a recipe, or RECIPE@SPACING."""
    _check("recipe", name, (*RECIPES, *SDE_RECIPES))


def check_sampler_name(name):
    """Raises InputError, with the nearest name, unless `name` is a sampler, or SAMPLER@SPACING."""
    if name != FITTED:
        _check("sampler", name, (*SAMPLERS, *SDE_RECIPES, FITTED))


def _check(kind, name, names):
    base, at, spacing = name.partition("@")
    if base not in names or (base == FITTED and at):
        raise InputError(f"The {kind} {name!r} is not known; there are {', '.join(names)}{did_you_mean(base, names)}")
    if at and base in SDE_RECIPES:
        raise InputError(f"The {kind} {name!r} visits even times and takes no spacing: give {base!r} alone.")
    spacings = SPACINGS if base in RECIPES else STOCK_SPACINGS
    if at and spacing not in spacings:
        raise InputError(f"The spacing of the {kind} {name!r} {not_one_of(spacing, spacings)}")
