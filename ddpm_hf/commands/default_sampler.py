"""The sampler and the number of steps of `sample` where the user names none."""

from ddpm_hf.errors import InputError

ALL = "all"
# Twice the fewest that are good, for a first picture.
USUAL_STEPS = 50


def steps_from(text):
    """The number of steps, ALL, or None for None.

    Raises:
        InputError: for any other text.
    """
    if text in (None, ALL):
        return text
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"steps={text!r} must be a whole number from 1 on, or {ALL!r} for all of training.")
    return int(text)


def choose_steps(pipeline, steps, keeps_sampler):
    """Puts the usual sampler into a pipeline that has none of its own, if no steps are named.

    Args:
        pipeline: the pipeline, with the recipe that the user named.
        steps: as from `steps_from`.
        keeps_sampler (`bool`): whether the user's other options choose the sampler.

    Returns:
        The number of steps, and what is to be said of it: "" where the user named it.
    """
    from ddpm_hf.recipes import changes_for, own_steps, prepared_count, usual_sampler, with_recipe

    every = pipeline.scheduler.config.num_train_timesteps
    if steps is not None:
        return (every if steps == ALL else steps), ""
    prepared = prepared_count(pipeline.scheduler)
    if prepared is not None:
        return prepared, f"No --steps was given: {prepared}, the most that the model has a solver or a plan for."
    name, (recipe, few) = "its sampler", usual_sampler(pipeline.scheduler.config)
    if not keeps_sampler and recipe is not None and _is_as_trained(pipeline.scheduler):
        name, changes = recipe, changes_for(pipeline.unet.config)
        pipeline.register_modules(scheduler=with_recipe(pipeline.scheduler, name, **changes))
    else:
        few = own_steps(pipeline.scheduler.config)
    steps = min(max(USUAL_STEPS, few) if recipe else few, every)
    return steps, f"No --steps was given: {steps} of {name}; --steps {ALL} takes the {every} of training."


def _is_as_trained(scheduler):
    """Whether a scheduler is as training leaves it, with no choice of a sampler in its config."""
    config = scheduler.config
    if config.get("sde") is not None:
        return (config.predictor, config.corrector, config.probability_flow) == ("reverse_diffusion", "none", False)
    plain = (config.get("eta"), config.get("solver_order"), config.get("corrector")) == (1.0, 1, False)
    return plain and config.variance_type in ("fixed_small", "fixed_large")
