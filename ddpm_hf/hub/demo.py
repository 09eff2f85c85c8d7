"""The demo of a model: its samplers, and a local web page."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ddpm_hf.errors import InputError
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.hub.reading import read_captions
from ddpm_hf.installation import install_extra
from ddpm_hf.pipelines.image_inputs import PIL_MODES
from ddpm_hf.recipes import RECIPES, check_head, prepared_count, with_recipe
from ddpm_hf.schedulers.sampler_table import USUAL_SAMPLERS
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler
from ddpm_hf.schedulers.scheduling_score_sde import ScoreSDEScheduler
from ddpm_hf.schedulers.score_sde_config import is_chain

LOOPBACK = "127.0.0.1"
OWN = "the model's own"
MOST_PROMPTS = 4


def serve(model, port=None, device="cpu"):
    """Serves the page of a model on this machine only, until interrupted.

    Args:
        model (`str`): a pipeline folder, or the id of a repository.
        port (`int`, *optional*): by default the first free port from 7860 on.
        device (`str`): the device of the model.

    Raises:
        InputError: without gradio, for a model that cannot be shown, and for a port in use.
    """
    gradio_version()
    pipeline = load_for_demo(model).to(device)
    from ddpm_hf.hub.demo_page import LOOK, demo_page, with_samplers

    pipelines = with_samplers(pipeline, samplers_of(pipeline))
    told = {"link": address_of(model), "prompts": prompts_of(model, pipeline)}
    page = demo_page(pipelines, model_name(model), *first_choice(pipeline), **told)
    try:
        _, address, _ = page.launch(
            server_name=LOOPBACK, server_port=port, share=False, quiet=True, prevent_thread_lock=True, **LOOK
        )
    except OSError as error:
        raise InputError(f"Cannot serve on port {port or 'any'} of {LOOPBACK}: choose another --port.") from error
    print(f"The demo of {model} is at {address} (Ctrl-C ends it).", flush=True)
    page.block_thread()


def gradio_version():
    """The installed version of gradio; raises InputError if there is none."""
    try:
        return version("gradio")
    except PackageNotFoundError:
        raise InputError(f"A demo needs gradio: {install_extra('demo')}.") from None


def load_for_demo(model):
    """The pipeline of a folder or a Hub id, as in `load_pipeline`; raises InputError if a page cannot show it."""
    pipeline = load_pipeline(model, texts=True)
    refusal = InputError(f"{model} makes no images of a size of its own: give a model that has a `sample_size`.")
    if None in pipeline.samples.image_shape(otherwise=refusal):
        raise refusal
    condition = pipeline.samples.condition
    if condition is not None and condition.condition_channels not in PIL_MODES:
        raise InputError(
            f"{model} is told images of {condition.condition_channels} channels, and a page takes pictures of "
            f"{', '.join(map(str, PIL_MODES))}: draw in Python."
        )
    if isinstance(pipeline.scheduler, ScoreSDEScheduler) and is_chain(pipeline.scheduler.config):
        pipeline.register_modules(scheduler=GaussianDiffusionScheduler.from_config(pipeline.scheduler.config))
    if not isinstance(pipeline.scheduler, GaussianDiffusionScheduler):
        raise InputError(
            f"{model} has a {type(pipeline.scheduler).__name__}, from which no recipe is made: give the model with "
            "the scheduler that it was trained with."
        )
    return pipeline


def samplers_of(pipeline):
    """{name: changes of the scheduler's config}: the model's own sampler, and the recipes that the model can run."""
    samplers = {OWN: {}}
    for name, recipe in RECIPES.items():
        try:
            scheduler = with_recipe(pipeline.scheduler, name)
            check_head(pipeline.unet, scheduler)
        except InputError:
            continue
        samplers[name] = {key: scheduler.config[key] for key in recipe}
    return samplers


def prompts_of(model, pipeline):
    """Some captions of a model's training, as examples of prompts; none for a model that is told no text."""
    return read_captions(model).get("examples", [])[:MOST_PROMPTS] if pipeline.text_encoder is not None else []


def first_choice(pipeline):
    """The initial sampler and number of steps of a page, from the model's longest plan or fitted solver."""
    count = prepared_count(pipeline.scheduler)
    if count is not None:
        return OWN, count
    recipe, steps = USUAL_SAMPLERS["ddpm"]
    return recipe, min(steps, len(pipeline.scheduler))


def model_name(model):
    return Path(model).resolve().name if Path(model).exists() else model


def address_of(model):
    """The page of a repository on the Hub; None for a folder."""
    return None if Path(model).exists() else f"https://huggingface.co/{model}"
