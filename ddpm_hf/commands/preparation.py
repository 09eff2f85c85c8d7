"""Preparations of the verbs: opening the model, checking that a batch fits, and telling how long the work takes."""

import typer

# For fewer calls, timing one would be a large part of the work.
CALLS_WORTH_SAYING = 200


def open_pipeline(model, device, classifier=None, recipe=None, steps=None, takes=()):
    """The pipeline of a folder or repository, on its device, with the named sampler.

    Args:
        takes: kinds of models that are taken beside the usual: `texts`, which are told a text, and `cascades`, whose
            stages all get the named sampler.

    Raises:
        InputError: for what is no model, a device that is not there, a sampler that the model does not have, and for
            `steps` that its scheduler cannot take.
    """
    from ddpm_hf.devices import open_device
    from ddpm_hf.evaluation.samplers import set_steps
    from ddpm_hf.hub.model_folder import is_cascade, load_cascade, load_pipeline
    from ddpm_hf.models.noisy_image_classifier import NoisyImageClassifier
    from ddpm_hf.recipes import changes_for, check_head, with_recipe

    parts = {} if classifier is None else {"classifier": NoisyImageClassifier.from_pretrained(classifier)}
    device = open_device(device)
    if "cascades" in takes and is_cascade(model):
        pipeline = load_cascade(model).to(device)
    else:
        pipeline = load_pipeline(model, texts="texts" in takes, **parts).to(device)
    for network, name in pipeline.stage_parts:
        unet, scheduler = getattr(pipeline, network), getattr(pipeline, name)
        if recipe is not None:
            scheduler = with_recipe(scheduler, recipe, **changes_for(unet.config))
            check_head(unet, scheduler)
            pipeline.register_modules(**{name: scheduler})
        if steps is not None:
            set_steps(scheduler, steps, f"{type(scheduler).__name__} of {model}")
    return pipeline


def open_for_editing(model, device, steps):
    """The pipeline of a model as a chain, which can begin at any timestep; a VP process in continuous time is one.

    Raises:
        InputError: as `open_pipeline`.
        ValueError: for a process that is no chain.
    """
    from ddpm_hf.evaluation.discrete_chains import discrete_chain
    from ddpm_hf.evaluation.samplers import set_steps

    pipeline = open_pipeline(model, device, takes=("texts",))
    scheduler = discrete_chain(pipeline.scheduler, "edit")
    pipeline.register_modules(scheduler=scheduler)
    if steps is not None:
        set_steps(scheduler, steps, f"{type(scheduler).__name__} of {model}")
    return pipeline


def check_batch(pipeline, batch_size, advice):
    """Raises InputError for a batch that no memory of this machine can hold; `advice` says what to lower."""
    from ddpm_hf.limits import check_fits_memory
    from ddpm_hf.models.batch_bytes import least_batch_bytes

    needed = max(least_batch_bytes(stage.unet.config, batch_size) for stage in pipeline.stages)
    check_fits_memory("a batch takes at least", needed, advice)


def say_duration(pipeline, batch_size, calls, advice):
    """Prints how long the calls of the network will take, unless they are few.

    Raises:
        InputError: for calls that take more than a year, and for a batch that the device does not hold; `advice` says
            what to lower.
    """
    from ddpm_hf.limits import expected_duration, fitting_into_memory, seconds_of
    from ddpm_hf.pipelines.network_speed import one_call

    if calls < CALLS_WORTH_SAYING or None in pipeline.samples.shape:
        return
    call = one_call(pipeline, batch_size)
    with fitting_into_memory(advice):
        seconds = seconds_of(lambda: call(pipeline.unet))
    typer.echo(f"{calls} network calls of {batch_size}: about {expected_duration(calls * seconds, advice)} (h:mm:ss)")
