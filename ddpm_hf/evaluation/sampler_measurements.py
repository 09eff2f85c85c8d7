"""Samples of one model by several samplers, from the same noise, and how far they are from the data."""

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import diffusers
import numpy as np
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from ddpm_hf.data.model_range import to_model_range
from ddpm_hf.distributed import gather_parts, own_part
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.comparison_report import MOST_IN_CELL, Measurement
from ddpm_hf.evaluation.distances import FeatureStatistics, frechet_distance
from ddpm_hf.evaluation.drawn_samples import draw_levels
from ddpm_hf.evaluation.image_labels import labels_at
from ddpm_hf.evaluation.likelihood import bits_per_dim
from ddpm_hf.evaluation.samplers import calls_of_a_step, is_sampled_as_sde, make_sampler, with_sampler
from ddpm_hf.execution import Execution
from ddpm_hf.limits import seconds_of
from ddpm_hf.number_checks import check_all_finite
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler

# Pictures have 1 (grey), 3 or 4 channels.
PICTURE_CHANNELS = (1, 3, 4)
LARGEST_SEED = 2**63 - 1


class Amounts(NamedTuple):
    """How much a comparison measures.

    num_images: samples for each distance; distances of other numbers do not compare. seeds: of the noise, each with its
    own distance. batch_size: images at a time and process. bound_images: images of the data for bits per dimension.
    guidance_scale: of the samples.
    """

    num_images: int
    seeds: Sequence[int]
    batch_size: int
    bound_images: int = 0
    guidance_scale: float = 1.0


class Task(NamedTuple):
    """The parts of a comparison that all samplers share: the model, its labels, the features and the data."""

    pipeline: GaussianDiffusionPipeline  # in float32
    labels: torch.Tensor | np.ndarray | None  # a label or caption for each sample; those of `held_out` come first
    held_out: torch.Tensor
    see: Callable
    target: FeatureStatistics
    floor: float | None  # the distance between two halves of the data
    num_images: int
    batch_size: int
    seeds: Sequence[int]
    accelerator: Accelerator
    guidance_scale: float = 1.0
    told: torch.Tensor | None = None  # a condition image for each sample, in [0, 1], of networks that are told some
    execution: Execution = Execution()  # of the network that draws
    drawing: torch.nn.Module | None = None  # a copy of the network in it; None for the pipeline's own


def check_pictures(pipeline, model, instead):
    """The shape (C, H, W) of what a model makes.

    Raises:
        InputError: for points, saying what to do `instead`, and for images that no picture can show.
    """
    shape = pipeline.samples.image_shape(
        otherwise=InputError(f"{model} makes points, and images are compared by their features: {instead}.")
    )
    if pipeline.samples.value_range is not None:
        raise InputError(
            f"{model} makes images with values in {pipeline.samples.value_range}, and features are of pictures of 8 bits: "
            "measure its bits per dimension by `ddpm-hf evaluate`."
        )
    if shape[0] not in PICTURE_CHANNELS:
        raise InputError(
            f"{model} makes images of {shape[0]} channels, and pictures have {', '.join(map(str, PICTURE_CHANNELS))}: its "
            "samplers cannot be compared by features of pictures."
        )
    return shape


def check_seeds(seeds, num_images):
    """Raises InputError for seeds out of range: the generator of place i under seed s has the seed s * num_images + i."""
    most = LARGEST_SEED // num_images - 1
    if min(seeds) < 0 or max(seeds) > most:
        raise InputError(f"seeds={list(seeds)} must be in 0 .. {most} for num_images={num_images}.")


def make_task(pipeline, data, see, amounts, accelerator):
    """The [`Task`] of comparing samples with data.

    Args:
        pipeline ([`GaussianDiffusionPipeline`]): the model, on its device.
        data: the images, uint8 (N, C, H, W), with those of their condition images for a network of pairs, and their
            labels (N,), captions for a network that is told a text, or None.
        see (`Callable`): uint8 images to features (B, D).
        amounts ([`Amounts`]): how much is measured.
        accelerator (`Accelerator`): of the processes that share the work.
    """
    images, labels = data
    num_images, batch_size = amounts.num_images, min(amounts.batch_size, amounts.num_images)
    # Data sets are often sorted by class, and the first images should represent all.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    samples, of_samples = pipeline.samples, order[torch.arange(num_images) % len(order)]
    pictures = images[:, : samples.channels]
    halves = [
        _statistics(_own(pictures[half], accelerator), see, batch_size, accelerator) for half in order.tensor_split(2)
    ]
    target = FeatureStatistics()
    for half in halves:
        target.merge(half)
    return Task(
        pipeline=pipeline,
        labels=labels_at(labels, of_samples),
        guidance_scale=amounts.guidance_scale,
        told=None if samples.condition is None else _told(samples.condition, images[of_samples]),
        held_out=images[order[: amounts.bound_images]],
        see=see,
        target=target,
        floor=frechet_distance(*halves) if min(half.count for half in halves) > 1 else None,
        num_images=num_images,
        batch_size=batch_size,
        seeds=amounts.seeds,
        accelerator=accelerator,
    )


def in_execution(task, execution):
    """The [`Task`] whose samples a network in this [`Execution`] draws; bounds are of the network as it is."""
    if execution.is_plain:
        return task._replace(execution=execution)
    drawing = copy.deepcopy(task.pipeline.unet)
    execution.apply(drawing)
    return task._replace(execution=execution, drawing=drawing)


def _told(condition, images):
    """The condition images of data, in [0, 1], as pipelines take them."""
    return condition.split(to_model_range(images))[1] / 2 + 0.5


def settings_of(task, measurements, model, features, data):
    """What the measurements of a task depend on, by name, for a report; `data` ([`DataArguments`]) names the images."""
    has_bounds = any(m.bits_per_dim is not None for m in measurements)
    return {
        "model": str(model),
        "features": str(features),
        "data": f"{data.dataset or 'embedded Fashion-MNIST'}, {data.split}, {task.target.count} images",
        "floor": "none, of so few images"
        if task.floor is None
        else f"{task.floor:.3g} between two halves of the data",
        "samples": f"{task.num_images} for each of the seeds {', '.join(map(str, task.seeds))}",
        **({} if task.guidance_scale == 1 else {"guidance_scale": f"{task.guidance_scale:g}"}),
        "bits per dimension": f"of {len(task.held_out)} images of the data" if has_bounds else "not measured",
        "precision": f"{task.execution.text}{', bits per dimension in float32' if has_bounds else ''}",
        "batch size and device": f"{task.batch_size}, {task.pipeline.unet.device.type}, {torch.get_num_threads()} threads, "
        f"{task.accelerator.num_processes} process(es)",
        "versions": f"torch {torch.__version__}, diffusers {diffusers.__version__}",
    }


def calls_for(task, samplers, steps):
    """The number of network calls of this process for these samplers at all these numbers of steps."""
    batches = math.ceil(len(own_part(task.num_images, task.accelerator)) / task.batch_size) * len(task.seeds)
    scored = sum(_is_scored(task, sampler) for sampler in samplers.values())
    return sum(steps) * (len(samplers) * batches + scored * _bound_batches(task))


def measure_samplers(task, samplers, steps, bar):
    """Measures every sampler at every number of steps; every process must call this.

    Args:
        samplers (`dict`): {name: scheduler}.
        steps (`list[int]`): numbers of network calls.
        bar (`tqdm`): is told each network call.

    Returns:
        `list[Measurement]`, and {(name, steps): the first of its images, uint8 (C, H, W)}.
    """
    measurements, shown = [], {}
    for name, sampler in samplers.items():
        for count in steps:
            bar.set_postfix_str(f"{name}, {count} steps")
            bound = _bound(task, sampler, count, bar) if _is_scored(task, sampler) else None
            measurement, shown[name, count] = _measure(task, name, sampler, count, bar)
            measurements.append(replace(measurement, bits_per_dim=bound))
    return measurements, shown


def _is_scored(task, sampler):
    return len(task.held_out) > 0 and _has_bound(sampler)


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
            shown = [image for place, image in zip(places, images, strict=True) if place < MOST_IN_CELL]
    measurement = Measurement(
        sampler=name,
        steps=count,
        distances=distances,
        timesteps=sampler.timesteps.tolist(),
        seconds=statistics.median(gather_parts(seconds, task.accelerator)),
    )
    return measurement, gather_parts(shown, task.accelerator)


def _sample(task, sampler, count, seed, places, bar):
    """The uint8 images (N, C, H, W) of `places`, and the seconds for an image in each batch.

    Each place has its own generator, whatever the sampler and the batches. The caller takes the median of the seconds,
    which ignores batches that other work on the machine delayed.
    """
    pipeline, seconds = with_sampler(task.pipeline, sampler), []
    if task.drawing is not None:
        pipeline.register_modules(unet=task.drawing)
    of_a_step = calls_of_a_step(sampler)
    images = [torch.empty(0, *pipeline.samples.output_shape, dtype=torch.uint8)]

    def count_call(*_):
        bar.update(of_a_step)

    for first in range(0, len(places), task.batch_size):
        batch, started = places[first : first + task.batch_size], time.perf_counter()
        told = {} if task.told is None else {"condition_image": task.told[list(batch)]}
        levels = draw_levels(
            pipeline,
            [seed * task.num_images + place for place in batch],
            batch[0],
            labels_at(task.labels, batch),
            **told,
            guidance_scale=task.guidance_scale,
            num_inference_steps=count // of_a_step,
            callback_on_step_end=count_call,
        )
        images.append(levels)
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


def seconds_per_call(task):
    """The duration of one network call on a batch in seconds."""
    scheduler, places = task.pipeline.scheduler, range(task.batch_size)
    sampler = make_sampler("flow-euler" if is_sampled_as_sde(scheduler) else "diffusers-ddim", scheduler)
    with tqdm(disable=True) as bar:
        return seconds_of(lambda: _sample(task, sampler, 1, 0, places, bar))
