"""`ddpm-hf compare` measures how far the samples of many samplers of one model are from the data, by steps."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import diffusers
import torch
from accelerate import Accelerator
from PIL import Image
from tqdm.auto import tqdm

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.model_range import to_levels
from ddpm_hf.distributed import gather_parts, join_processes, main_process_first, main_process_in, own_part, together
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.comparison_report import Measurement, write_report
from ddpm_hf.evaluation.distances import FeatureStatistics, frechet_distance
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.evaluation.likelihood import bits_per_dim
from ddpm_hf.evaluation.run import load_data
from ddpm_hf.evaluation.samplers import check_steps, make_sampler, pipeline_with
from ddpm_hf.files import moved_in_whole
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.limits import check_fits_memory, expected_duration, fitting_into_memory, seconds_of
from ddpm_hf.number_checks import check_all_finite
from ddpm_hf.pipelines.image_grids import enlargement
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.recipes import check_head
from ddpm_hf.reports.report_files import COMPARISON
from ddpm_hf.results import alone_in_free_folder
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler

DEFAULT_SAMPLERS = (
    *("ddpm", "ddpm-large", "ddim", "ddim-2m"),
    *("diffusers-ddpm", "diffusers-ddim", "dpmpp-2m", "dpmpp-2m-sde", "dpmpp-2m-karras", "unipc"),
)
SHOWN_IMAGES = 10
# Pictures have 1 (grey), 3 or 4 channels.
PICTURE_CHANNELS = (1, 3, 4)
LARGEST_SEED = 2**63 - 1
FINITE_SAMPLES = (
    "The network's output, or the step of this sampler, overflows: are the weights right, and is it float32?"
)


class Request(NamedTuple):
    """The arguments of `compare`, with their defaults."""

    model: str
    output: Path
    features: str
    data: DataArguments
    samplers: Sequence[str] = DEFAULT_SAMPLERS
    steps: Sequence[int] = (5, 10, 25, 50)
    num_images: int = 1000
    seeds: Sequence[int] = (0, 1, 2)
    batch_size: int = 100
    device: str | None = None
    bound_images: int | None = None


class Task(NamedTuple):
    """The parts of a comparison that all samplers share: the model, its labels, the features and the data."""

    pipeline: GaussianDiffusionPipeline
    labels: torch.Tensor | None  # one for each sample; the labels of `held_out` come first
    held_out: torch.Tensor
    see: Callable
    target: FeatureStatistics
    num_images: int
    batch_size: int
    seeds: Sequence[int]
    accelerator: Accelerator


def compare(model, output, features, data=None, **options):
    """Samples a model by many samplers and measures each: Frechet distance to the data, seconds, bits per dimension.

    Every sampler makes K network calls for K steps, begins with the same noise, and draws the noise of its steps from
    the same generators. Images are clamped to [-1, 1] and rounded to 8 bits. A class-conditional model samples the
    classes of the data. The files `compare.json`, `compare.md`, `compare.png`, and for each sampler `samples_NAME.png`
    with a row for each number of steps, are moved in together at the end.

    It runs on one process, or on all that `accelerate launch` starts, which share the images; the images and their
    distances do not depend on the number of processes.

    Args:
        model: a pipeline folder, or the id of a repository on the Hub.
        output: the folder, which is made if it does not exist.
        features: as in `load_features`: a folder of an image classifier, or "inception".
        data (`DataArguments`): the images to compare with, all of the split; by default the test split of the embedded
            Fashion-MNIST. Prefer images that the feature network was not trained on.
        samplers (`list[str]`): as in `make_sampler`; by default `DEFAULT_SAMPLERS`.
        steps (`list[int]`): numbers of steps, each for every sampler; by default 5, 10, 25 and 50.
        num_images (`int`): samples for each distance, by default 1000. Distances of other numbers do not compare.
        seeds (`list[int]`): seeds of the noise, each with its own distance; by default 0, 1 and 2.
        batch_size (`int`): images at a time and process, by default 100.
        device (`str`, *optional*): the device of the networks; by default the fastest.
        bound_images (`int`, *optional*): images of the data for bits per dimension, at most `num_images`, which is the
            default and takes as many network calls as one seed; 0 leaves them out.

    Returns:
        `list[Measurement]`

    Raises:
        InputError: before the work, for what any of the samplers cannot do, and for an output folder that is not empty
            or cannot be written.
    """
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
    samplers = _make_samplers(pipeline, request)
    task = _task(request, pipeline, load_features(request.features, device), accelerator)
    scored = {name for name, sampler in samplers.items() if request.bound_images and _has_bound(sampler)}
    calls = _announce(task, request, len(scored))
    measurements, rows = [], {name: [] for name in samplers}
    with tqdm(total=calls, desc="compare", unit="call", disable=not accelerator.is_main_process) as bar:
        for name, sampler in samplers.items():
            for count in request.steps:
                bar.set_postfix_str(f"{name}, {count} steps")
                bound = _bound(task, sampler, count, bar) if name in scored else None
                measurement, images = _measure(task, name, sampler, count, bar)
                measurements.append(replace(measurement, bits_per_dim=bound))
                rows[name].append(images)
    settings = _settings(task, request, device, bool(scored))
    together(accelerator, lambda: _write(request.output, settings, measurements, rows), main_process_only=True)
    return measurements


def _open_model(request):
    """The pipeline of the model, checked to make images that a picture can show, as many as the memory holds."""
    pipeline = load_pipeline(request.model)
    channels, height, width = pipeline.samples.image_shape(
        otherwise=InputError(
            f"{request.model} makes points, and images are compared by their features: use sliced_wasserstein of "
            "`ddpm_hf.evaluation.distances` for points."
        )
    )
    if channels not in PICTURE_CHANNELS:
        raise InputError(
            f"{request.model} makes images of {channels} channels, and pictures have "
            f"{', '.join(map(str, PICTURE_CHANNELS))}: its samplers cannot be compared by features of pictures."
        )
    if None not in (height, width):
        needed = request.num_images * channels * height * width
        check_fits_memory("the samples take", needed, f"lower --num_images, which is {request.num_images}")
    pipeline.unet.eval()
    return pipeline


def _announce(task, request, num_scored):
    """Prints how long the comparison will take, and returns the number of network calls of this process."""
    batches = math.ceil(len(own_part(task.num_images, task.accelerator)) / task.batch_size) * len(task.seeds)
    num_samplers = len(request.samplers)
    calls = sum(request.steps) * (num_samplers * batches + num_scored * _bound_batches(task))
    with fitting_into_memory(f"lower --batch_size, which is {task.batch_size}"):
        seconds = calls * _seconds_per_call(task)
    duration = expected_duration(seconds, "give fewer --num_images, --steps, --seeds or --samplers")
    task.accelerator.print(
        f"{num_samplers} samplers: {calls} network calls of {task.batch_size} images in each process, about {duration} "
        "(h:mm:ss)"
    )
    return calls


def _settings(task, request, device, is_scored):
    return {
        "model": str(request.model),
        "features": str(request.features),
        "data": f"{request.data.dataset or 'embedded Fashion-MNIST'}, {request.data.split}, {task.target.count} images",
        "samples": f"{task.num_images} for each of the seeds {', '.join(map(str, task.seeds))}",
        "bits per dimension": f"of {len(task.held_out)} images of the data" if is_scored else "not measured",
        "batch size and device": f"{task.batch_size}, {device}, {torch.get_num_threads()} threads, "
        f"{task.accelerator.num_processes} process(es)",
        "versions": f"torch {torch.__version__}, diffusers {diffusers.__version__}",
    }


def _write(output, settings, measurements, rows):
    with moved_in_whole(output, last=COMPARISON.name) as aside:
        for name, shown in rows.items():
            _save_rows(shown, aside / f"samples_{name}.png")
        write_report(aside, COMPARISON.stem, "Samplers of one model", "Frechet distance", settings, measurements)


def _task(request, pipeline, see, accelerator):
    num_images, batch_size = request.num_images, min(request.batch_size, request.num_images)
    images, labels = main_process_first(accelerator, lambda: load_data(request.data, pipeline.unet.config))
    # Data sets are often sorted by class, and the first images should represent all.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return Task(
        pipeline=pipeline,
        labels=None if labels is None else labels[order[torch.arange(num_images) % len(order)]],
        held_out=images[order[: request.bound_images]],
        see=see,
        target=_statistics(_own(images, accelerator), see, batch_size, accelerator),
        num_images=num_images,
        batch_size=batch_size,
        seeds=request.seeds,
        accelerator=accelerator,
    )


# Checks --------------------------------------------------------------------------------------------------------------


def _check_request(request):
    samplers, steps, seeds, num_images = request.samplers, request.steps, request.seeds, request.num_images
    for name, values in (("samplers", samplers), ("steps", steps), ("seeds", seeds)):
        if len(values) == 0 or len(set(values)) < len(values):
            raise InputError(f"{name}={list(values)} must name at least one, and each once.")
    if min(steps) < 1 or num_images < 2 or request.batch_size < 1 or not 0 <= request.bound_images <= num_images:
        raise InputError(
            f"steps={list(steps)} and batch_size={request.batch_size} must be at least 1, num_images={num_images} at least "
            f"2, bound_images={request.bound_images} in 0 .. num_images."
        )
    # The generator of place i under seed s has the seed s * num_images + i.
    most = LARGEST_SEED // num_images - 1
    if min(seeds) < 0 or max(seeds) > most:
        raise InputError(f"seeds={list(seeds)} must be in 0 .. {most} for num_images={num_images}.")


def _make_samplers(pipeline, request):
    """{name: scheduler}, each checked for every number of steps."""
    samplers = {}
    for name in request.samplers:
        samplers[name] = make_sampler(name, pipeline.scheduler)
        if isinstance(samplers[name], GaussianDiffusionScheduler):
            check_head(pipeline.unet, samplers[name])
        for count in request.steps:
            check_steps(name, samplers[name], count)
    return samplers


# Measurements --------------------------------------------------------------------------------------------------------


def _has_bound(sampler):
    """Whether a sampler has the bound, which needs a Markov chain with noise: neither DDIM nor second order."""
    ours = isinstance(sampler, GaussianDiffusionScheduler)
    return ours and sampler.config.eta > 0 and sampler.config.solver_order == 1


def _bound(task, sampler, count, bar):
    labels = None if task.labels is None else task.labels[: len(task.held_out)]
    result = bits_per_dim(
        task.pipeline.unet,
        sampler,
        task.held_out,
        count,
        class_labels=labels,
        batch_size=task.batch_size,
        accelerator=task.accelerator,
        progress_bar=False,
    )
    bar.update(count * _bound_batches(task))
    return result.total


def _bound_batches(task):
    """The number of batches of the main process, which has as many as any other process or one more."""
    return math.ceil(len(task.held_out) / (task.batch_size * task.accelerator.num_processes))


def _measure(task, name, sampler, count, bar):
    """The [`Measurement`] of a sampler at `count` steps, and the first images of the first seed."""
    places = own_part(task.num_images, task.accelerator)
    shown, distances, seconds = [], [], []
    for seed in task.seeds:
        images, of_batches = _sample(task, sampler, count, seed, places, bar)
        seconds += of_batches
        statistics_of_all = _statistics(images, task.see, task.batch_size, task.accelerator)
        distances.append(frechet_distance(statistics_of_all, task.target))
        check_all_finite(
            torch.tensor(distances),
            lambda i: f"The distance of {name!r} at {count} steps with seed {task.seeds[i]}",
            "Are the features finite, and do the images differ from each other?",
        )
        if seed == task.seeds[0]:
            shown = [image for place, image in zip(places, images, strict=True) if place < SHOWN_IMAGES]
    measurement = Measurement(
        sampler=name,
        steps=count,
        distances=distances,
        timesteps=sampler.timesteps.tolist(),
        seconds=statistics.median(gather_parts(seconds, task.accelerator)),
    )
    return measurement, gather_parts(shown, task.accelerator)


@torch.no_grad()
def _sample(task, sampler, count, seed, places, bar):
    """The uint8 images (N, C, H, W) of `places`, and the seconds for an image in each batch.

    Each place has its own generator, whatever the sampler and the batches. The caller takes the median of the seconds,
    which ignores batches that other work on the machine delayed.
    """
    pipeline, seconds = pipeline_with(sampler, task.pipeline.unet), []
    images = [torch.empty(0, *pipeline.samples.shape, dtype=torch.uint8)]

    def count_call(*_):
        bar.update()

    for first in range(0, len(places), task.batch_size):
        batch, started = places[first : first + task.batch_size], time.perf_counter()
        x_0 = pipeline(
            len(batch),
            class_labels=None if task.labels is None else task.labels[torch.tensor(batch)],
            generator=[torch.Generator().manual_seed(seed * task.num_images + place) for place in batch],
            num_inference_steps=count,
            output_type="latent",
            callback_on_step_end=count_call,
        ).images
        check_all_finite(x_0, lambda image, *_, first=batch[0]: f"Sample {first + image}", FINITE_SAMPLES)
        images.append(to_levels(x_0).cpu())
        seconds.append((time.perf_counter() - started) / len(batch))
    return torch.cat(images), seconds


def _own(images, accelerator):
    part = own_part(len(images), accelerator)
    return images[part.start : part.stop]


def _statistics(own_images, see, batch_size, accelerator):
    """The [`FeatureStatistics`] of the images of all processes; every process must call this."""
    own, of_all = FeatureStatistics(), FeatureStatistics()
    for batch in own_images.split(batch_size) if len(own_images) else ():
        own.update(see(batch))
    for part in gather_parts([own], accelerator):
        of_all.merge(part)
    return of_all


def _seconds_per_call(task):
    """The duration of one network call on a batch in seconds."""
    sampler, places = make_sampler("diffusers-ddim", task.pipeline.scheduler), range(task.batch_size)
    with tqdm(disable=True) as bar:
        return seconds_of(lambda: _sample(task, sampler, 1, 0, places, bar))


# Pictures ------------------------------------------------------------------------------------------------------------


def _save_rows(rows, png_path):
    """Writes the images (C, H, W) of each row into one picture, enlarged."""
    pixels = torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)  # (C, rows * H, columns * W)
    picture = Image.fromarray(pixels.permute(1, 2, 0).squeeze(-1).numpy())
    factor = enlargement(rows[0][0].shape[-1])
    picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST).save(png_path)
