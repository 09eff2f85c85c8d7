"""`ddpm-hf compare` measures how far the samples of many samplers of one model are from the data, by steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.distributed import join_processes, main_process_first, main_process_in, together
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.comparison_report import DISTANCE, Comparison
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.evaluation.run import load_data, with_own_captions
from ddpm_hf.evaluation.sampler_measurements import (
    Amounts,
    calls_for,
    check_pictures,
    check_seeds,
    in_execution,
    make_task,
    measure_samplers,
    seconds_per_call,
    settings_of,
)
from ddpm_hf.evaluation.samplers import check_calls, default_samplers, is_sampled_as_sde, make_sampler
from ddpm_hf.files import moved_in_whole
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.limits import check_fits_memory, expected_duration, fitting_into_memory
from ddpm_hf.pipelines.conditioning import Guidance
from ddpm_hf.pipelines.network_speed import choose_execution
from ddpm_hf.recipes import check_head
from ddpm_hf.reports.report_files import COMPARED_SAMPLES, COMPARISON
from ddpm_hf.results import alone_in_free_folder
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler

# In place of the defaults of `Request`: about a fourteenth of the network calls, with the fewer `QUICK_CALLS`.
QUICK = {"num_images": 500, "seeds": (0,), "bound_images": 0}
CALLS, QUICK_CALLS = (5, 10, 25, 50), (5, 10, 25)
# The samplers of an SDE are of no use in fewer, and predictor-corrector sampling makes two in each step.
CALLS_OF_AN_SDE, QUICK_CALLS_OF_AN_SDE = (50, 100, 200, 500), (50, 100)


class Request(NamedTuple):
    """The arguments of `compare`, with their defaults."""

    model: str
    output: Path
    features: str
    data: DataArguments
    samplers: Sequence[str] | None = None
    quick: bool = False
    steps: Sequence[int] | None = None
    num_images: int = 1000
    seeds: Sequence[int] = (0, 1, 2)
    batch_size: int = 100
    device: str | None = None
    bound_images: int | None = None
    guidance_scale: float = 1.0
    precision: str = "auto"
    channels_last: str = "auto"
    compile: str = "auto"


def compare(model, output, features, data=None, quick=False, **options):
    """Samples a model by many samplers and measures each: Frechet distance to the data, seconds, bits per dimension.

    Every sampler makes K network calls, begins with the same noise, and draws the noise of its steps from the same
    generators. K calls are K steps, and fewer where a step has corrections. Images are clamped to [-1, 1] and rounded to 8
    bits. A class-conditional model samples the classes of the data, and one that is told a text their captions. The table
    is printed, and moved in at the end, together, are `compare.json` and `compare.md`,
    the curves `compare.png`, and `compare_samples.png`, a table of samples with a row for each sampler and a column for
    each number of steps.

    It runs on one process, or on all that `accelerate launch` starts, which share the images; the images and their
    distances do not depend on the number of processes, except with Langevin corrections, whose step size is that of a
    batch (Song et al. 2021, algorithms 4 and 5).

    Args:
        model: a pipeline folder, or the id of a repository on the Hub.
        output: the folder, which is made if it does not exist.
        features: as in `load_features`: a folder of an image classifier, or "inception".
        data (`DataArguments`): the images to compare with, all of the split; by default the test split of the embedded
            Fashion-MNIST. Prefer images that the feature network was not trained on.
        quick (`bool`): fewer images, one seed, fewer steps and no bits per dimension, where `options` say nothing else.
        samplers (`list[str]`): as in `make_sampler`; by default those of `default_samplers`.
        steps (`list[int]`): numbers of network calls, each for every sampler; by default 5, 10, 25 and 50,
            and 50 to 500 in continuous time.
        num_images (`int`): samples for each distance, by default 1000. Distances of other numbers do not compare.
        seeds (`list[int]`): seeds of the noise, each with its own distance; by default 0, 1 and 2.
        batch_size (`int`): images at a time and process, by default 100.
        device (`str`, *optional*): the device of the networks; by default the fastest.
        bound_images (`int`, *optional*): images of the data for bits per dimension, at most `num_images`, which is the
            default and takes as many network calls as one seed; 0 leaves them out. There are none of models of latents,
            whose bound is one of latents, and of models that are told a text.
        guidance_scale (`float`): of classifier-free guidance, by default 1, none.
        precision, channels_last, compile: how the network is called that draws samples, as in `choose_execution`. Bits per
            dimension are always computed in float32.

    Returns:
        `list[Measurement]`

    Raises:
        InputError: before the work, for what any of the samplers cannot do, and for an output folder that is not empty
            or cannot be written.
    """
    options = (QUICK if quick else {}) | options | {"quick": quick}
    request = Request(model, Path(output), features, data or DataArguments(split="test"), **options)
    bound_images = request.num_images if request.bound_images is None else request.bound_images
    return _compare(request._replace(bound_images=bound_images))


def _compare(request):
    _check_request(request)
    accelerator = join_processes(request.device)
    with main_process_in(alone_in_free_folder(request.output), accelerator):
        return _compare_with(request, accelerator)


def _compare_with(request, accelerator):
    device = request.device or str(accelerator.device)
    pipeline = _open_model(request).to(device)
    request = request._replace(
        data=with_own_captions(request.data, request.model),
        steps=request.steps or _usual_calls(pipeline.scheduler, request.quick),
    )
    samplers = _make_samplers(pipeline, request, accelerator)
    task = _task(request, pipeline, load_features(request.features, device), accelerator)
    task = _set_up_network(task, request, samplers)
    calls = _announce(task, request, samplers)
    with tqdm(total=calls, desc="compare", unit="call", disable=not accelerator.is_main_process) as bar:
        measurements, shown = measure_samplers(task, samplers, request.steps, bar)
    settings = settings_of(task, measurements, request.model, request.features, request.data)
    comparison = Comparison("Samplers of one model", DISTANCE, settings, measurements, shown)
    together(accelerator, lambda: _write(comparison, request.output), main_process_only=True)
    return measurements


def _open_model(request):
    """The pipeline of the model, checked to make images that a picture can show, as many as the memory holds."""
    pipeline = load_pipeline(request.model, texts=True)
    instead = "use sliced_wasserstein of `ddpm_hf.evaluation.distances` for points"
    channels, height, width = check_pictures(pipeline, request.model, instead)
    if None not in (height, width):
        needed = request.num_images * channels * height * width
        check_fits_memory("the samples take", needed, f"lower --num_images, which is {request.num_images}")
    pipeline.unet.eval()
    return pipeline


def _task(request, pipeline, see, accelerator):
    data = main_process_first(accelerator, lambda: load_data(request.data, pipeline.unet.config))
    # The bound of a model of latents is not one of images, and noised batches are told no texts.
    has_bound = pipeline.vae is None and pipeline.text_encoder is None
    bound_images = request.bound_images if has_bound else 0
    amounts = Amounts(request.num_images, request.seeds, request.batch_size, bound_images, request.guidance_scale)
    return make_task(pipeline, data, see, amounts, accelerator)


def _set_up_network(task, request, samplers):
    """The task with the network that draws in the [`Execution`] of the request; bounds keep the given one."""
    calls = calls_for(task._replace(held_out=task.held_out[:0]), samplers, request.steps)
    return in_execution(task, choose_execution(task.pipeline, request, task.batch_size, calls, task.accelerator))


def _announce(task, request, samplers):
    """Prints how long the comparison will take, and returns the number of network calls of this process."""
    calls = calls_for(task, samplers, request.steps)
    with fitting_into_memory(f"lower --batch_size, which is {task.batch_size}"):
        seconds = calls * seconds_per_call(task)
    duration = expected_duration(seconds, "give fewer --num_images, --steps, --seeds or --samplers")
    task.accelerator.print(
        f"{len(samplers)} samplers: {calls} network calls of {task.batch_size} images in each process, about {duration} "
        "(h:mm:ss)"
    )
    return calls


def _write(comparison, output):
    print("\n".join(comparison.lines()))
    with moved_in_whole(output, last=COMPARISON.name) as aside:
        comparison.write(aside)
    print(f"{output / COMPARED_SAMPLES} shows samples of each, and {output / COMPARISON.picture} the curves.")


# Checks --------------------------------------------------------------------------------------------------------------


def _check_request(request):
    seeds, num_images = request.seeds, request.num_images
    steps = CALLS if request.steps is None else request.steps
    for name, values in (("samplers", request.samplers), ("steps", steps), ("seeds", seeds)):
        if values is not None and len(set(values)) < max(len(values), 1):
            raise InputError(f"{name}={list(values)} must name at least one, and each once.")
    if min(steps) < 1 or num_images < 2 or request.batch_size < 1 or not 0 <= request.bound_images <= num_images:
        raise InputError(
            f"steps={list(steps)} and batch_size={request.batch_size} must be at least 1, num_images={num_images} at least "
            f"2, bound_images={request.bound_images} in 0 .. num_images."
        )
    check_seeds(seeds, num_images)


def _usual_calls(scheduler, quick):
    """The numbers of network calls, if none are named."""
    usual = (CALLS_OF_AN_SDE, QUICK_CALLS_OF_AN_SDE) if is_sampled_as_sde(scheduler) else (CALLS, QUICK_CALLS)
    return usual[quick]


def _make_samplers(pipeline, request, accelerator):
    """{name: scheduler}, each checked for every number of steps; of the default ones those that the model can run."""
    samplers = {}
    for name in request.samplers or default_samplers(pipeline.scheduler):
        try:
            samplers[name] = _checked_sampler(name, pipeline, request)
        except InputError as error:
            if request.samplers is not None:
                raise
            accelerator.print(f"{name} is left out: {error}")
    return samplers


def _checked_sampler(name, pipeline, request):
    sampler = make_sampler(name, pipeline.scheduler)
    if isinstance(sampler, GaussianDiffusionScheduler):
        check_head(pipeline.unet, sampler)
    for count in request.steps:
        check_calls(name, sampler, count)
        Guidance(request.guidance_scale).check_fitted(sampler)
    return sampler
