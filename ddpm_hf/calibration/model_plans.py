"""Plans for a model: the costs of its transitions, and the cheapest timesteps for each number of steps."""

from ddpm_hf.calibration.cheapest_plans import path_cost, plan_timesteps
from ddpm_hf.calibration.error_propagation import error_growth, mean_square_in_the_data
from ddpm_hf.calibration.mean_square_epsilon import TIMESTEPS_PER_IMAGE
from ddpm_hf.calibration.transition_costs import FlowPaths, bound_costs, candidate_timesteps, local_errors
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.image_labels import labels_of
from ddpm_hf.evaluation.noised_batches import Measuring
from ddpm_hf.schedulers.noise_schedules import LARGEST_TERMINAL_ALPHA_BAR

PLAN_COSTS = ("bound", "local_error", "global_error")
# The numbers of images, of paths, and of paths with errors that plans are made from, at most; no more than the images
# that a model is calibrated with, so that fewer images make plans cheaper too.
PLAN_IMAGES, PLAN_PATHS, GROWTH_PATHS = 64, 96, 48


def calls_for_candidate(plan_cost, num_images):
    """The network calls for each candidate timestep of plans.

    A path takes two steps for each, and the ten trajectories that leave it are followed for half of the way on average.
    """
    if plan_cost == "bound":
        return min(PLAN_IMAGES, num_images)
    calls = 2 * min(PLAN_PATHS, num_images)
    return calls if plan_cost == "local_error" else calls + 6 * min(GROWTH_PATHS, num_images)


def check_plans(plans, plan_cost, chain, of_latents):
    """Raises InputError for plans that cannot be made for this model; `chain` is its scheduler as one of ours."""
    if plan_cost not in PLAN_COSTS:
        raise InputError(f"plan_cost={plan_cost!r} is not one of {', '.join(map(repr, PLAN_COSTS))}.")
    if not plans:
        return
    steps = len(chain)
    if plans[0] < 1 or plans[-1] > steps:
        wrong = plans[0] if plans[0] < 1 else plans[-1]
        raise InputError(f"A plan of {wrong} steps cannot be made: it must have 1 .. {steps}, the training timesteps.")
    if plan_cost == "bound" and of_latents:
        raise InputError("The bound is one of pixels, and this model makes latents: plan by plan_cost='local_error'.")
    if plan_cost == "bound" and chain.config.eta == 0:
        raise InputError(
            "This model samples at eta=0 (DDIM), where the bound is infinite: plan by plan_cost='local_error', or begin with "
            "a DDPM scheduler."
        )
    _check_first_timestep(chain)


def _check_first_timestep(chain):
    """Raises InputError where x_T shows the data: all plans begin at T - 1, and the scheduler refuses such plans."""
    if len(chain) == 1:
        raise InputError("This model has a single training timestep, so there is nothing to plan: leave out --plan.")
    alpha_bar = chain.alpha_bar(len(chain) - 1).item()
    if alpha_bar > LARGEST_TERMINAL_ALPHA_BAR:
        raise InputError(
            f"The noise of this model does not cover the data at its last timestep {len(chain) - 1} (alpha_bar = "
            f"{alpha_bar:.3g}, and plans need at most {LARGEST_TERMINAL_ALPHA_BAR:g}): leave out --plan, or train with more "
            "noise, by num_train_timesteps or beta_end."
        )
    if alpha_bar == 0 and chain.config.prediction_type == "epsilon":
        raise InputError(
            f"Timestep {len(chain) - 1} of this model has no signal (rescale_betas_zero_snr), so x0 does not follow from the "
            "epsilon that it predicts: plans need a model with prediction_type 'v_prediction' or 'sample'."
        )


def count_candidates(plans, num_train_timesteps):
    return min(max(TIMESTEPS_PER_IMAGE, plans[-1]), num_train_timesteps)


def make_plans(unet, scheduler, images, labels, options):
    """{"10": {"timesteps": descending, "cost": their sum}} for each K of the plans in [`CalibrationOptions`]."""
    if not options.plans:
        return {}
    candidates = candidate_timesteps(scheduler, count_candidates(options.plans, len(scheduler)))
    cost = _transition_costs(unet, scheduler, images, labels, candidates, options)
    made = {}
    for count in options.plans:
        nodes = plan_timesteps(cost, count)
        timesteps = [candidates[node - 1] for node in nodes[::-1]]
        made[str(count)] = {"timesteps": timesteps, "cost": path_cost(cost, nodes)}
    return made


def _transition_costs(unet, scheduler, images, labels, candidates, options):
    batch_size, seed = options.batch_size, options.seed
    if options.plan_cost == "bound":
        images, labels = images[:PLAN_IMAGES], labels_of(labels, 0, PLAN_IMAGES)
        return bound_costs(unet, scheduler, candidates, Measuring(images, labels, batch_size, seed))
    count, with_errors = min(PLAN_PATHS, len(images)), min(GROWTH_PATHS, len(images))
    labels = labels_of(labels, 0, count)
    paths = FlowPaths(count, labels, min(batch_size, count), seed)
    errors = local_errors(unet, scheduler, candidates, paths)
    if options.plan_cost == "local_error":
        return errors
    paths = FlowPaths(with_errors, labels_of(labels, 0, with_errors), seed=seed)
    return mean_square_in_the_data(errors, error_growth(unet, scheduler, candidates, paths))
