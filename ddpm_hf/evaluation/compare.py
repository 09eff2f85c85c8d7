"""`ddpm-hf compare`: one model, many samplers, and how far their images are from the data at each number of steps."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import diffusers
import torch
from PIL import Image
from tqdm.auto import tqdm

from ddpm_hf.evaluation.bits_per_dim import bits_per_dim
from ddpm_hf.evaluation.comparison_report import Measurement, write_report
from ddpm_hf.evaluation.distances import FeatureStatistics, frechet_distance
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.evaluation.run import load_data
from ddpm_hf.evaluation.samplers import check_sampler, draw, make_sampler
from ddpm_hf.pipelines.image_grids import LEGIBLE_SIDE
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.recipes import check_head
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler
from ddpm_hf.training.arguments import DataArguments
from ddpm_hf.training.errors import InputError

DEFAULT_SAMPLERS = (
    *("ddpm", "ddpm-large", "ddim", "ddim-2m"),
    *("diffusers-ddpm", "diffusers-ddim", "dpmpp-2m", "dpmpp-2m-sde", "dpmpp-2m-karras", "unipc"),
)
SHOWN_IMAGES = 10


class Task(NamedTuple):
    """What is the same for all samplers: the model, what is asked of it, and what its images are measured against."""

    pipeline: GaussianDiffusionPipeline
    labels: torch.Tensor | None  # one for each sample; those of `held_out` come first
    held_out: torch.Tensor
    see: Callable
    target: FeatureStatistics
    num_images: int
    batch_size: int
    seeds: Sequence[int]


def compare(
    model,
    output,
    features,
    data=None,
    samplers=DEFAULT_SAMPLERS,
    steps=(5, 10, 25, 50),
    num_images=1000,
    seeds=(0, 1, 2),
    batch_size=100,
    device="cpu",
    bound_images=None,
):
    """Samples a model by many samplers and measures each: Frechet distance to the data, seconds, and bits per dimension.

    Every sampler makes K network calls for K steps, and begins with the same noise; the noise of its steps is that of
    the same generators. Images are clamped to [-1, 1] and rounded to 8 bits. A class-conditional model is asked for the
    classes of the data. Writes `compare.json`, `compare.md`, `compare.png`, and for each sampler `samples_NAME.png`, a
    row for each number of steps.

    Args:
        model: a pipeline folder, or the id of a repository on the Hub.
        output: the folder; made if it is not there.
        features: as in `load_features`: a folder of an image classifier, or "inception".
        data (`DataArguments`): the images to be like, all of the split; by default the test split of the embedded
            Fashion-MNIST. Prefer images that the feature network has not been trained on.
        samplers (`list[str]`): as in `make_sampler`.
        steps (`list[int]`): numbers of steps, each for every sampler.
        num_images (`int`): samples for each distance. Distances of other numbers do not compare.
        seeds (`list[int]`): of the noise; a distance for each.
        batch_size (`int`): images at a time.
        device (`str`): where the networks run.
        bound_images (`int`, *optional*): bits per dimension are of so many images of the data, at most `num_images`, which is
            the default and takes as many network calls as one seed; 0 leaves them out.

    Returns:
        `list[Measurement]`

    Raises:
        InputError: before the work, for what any of the samplers cannot do.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} is not empty; choose another --output, or move it away.")
    bound_images = num_images if bound_images is None else bound_images
    _check_requests(samplers, steps, seeds, num_images, batch_size, bound_images)
    batch_size = min(batch_size, num_images)
    pipeline = GaussianDiffusionPipeline.from_pretrained(model).to(device)
    pipeline.unet.eval()
    _check_samplers(pipeline, samplers, steps)
    data = data or DataArguments(split="test")
    task = _task(pipeline, load_features(features, device), data, num_images, seeds, batch_size, bound_images)
    scored = [name for name in samplers if bound_images and _has_bound(make_sampler(name, pipeline.scheduler))]
    batches = math.ceil(num_images / batch_size) * len(seeds)
    calls = sum(steps) * (len(samplers) * batches + len(scored) * math.ceil(len(task.held_out) / batch_size))
    duration = timedelta(seconds=round(calls * _seconds_per_call(task)))
    print(f"{len(samplers)} samplers: {calls} network calls of {batch_size} images, about {duration} (h:mm:ss)")

    measurements = []
    output.mkdir(parents=True, exist_ok=True)
    with tqdm(total=calls, desc="compare", unit="call") as bar:
        for name in samplers:
            shown = []
            for count in steps:
                bar.set_postfix_str(f"{name}, {count} steps")
                bound = _bound(task, name, count, bar) if name in scored else None
                measurement, images = _measure(task, name, count, bound, bar)
                measurements.append(measurement)
                shown.append(images[:SHOWN_IMAGES])
            _save_rows(shown, output / f"samples_{name}.png")
    settings = {
        "model": str(model),
        "features": str(features),
        "data": f"{data.dataset or 'embedded Fashion-MNIST'}, {data.split}, {task.target.count} images",
        "samples": f"{num_images} for each of the seeds {', '.join(map(str, seeds))}",
        "bits per dimension": f"of {len(task.held_out)} images of the data" if scored else "not measured",
        "batch size and device": f"{batch_size}, {device}, {torch.get_num_threads()} threads",
        "versions": f"torch {torch.__version__}, diffusers {diffusers.__version__}",
    }
    write_report(output, "compare", "Samplers of one model", "Frechet distance", settings, measurements)
    return measurements


def _task(pipeline, see, data, num_images, seeds, batch_size, bound_images):
    images, labels = load_data(data, pipeline.unet.config)
    # Data sets are often sorted by class: the first images are to be like all.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return Task(
        pipeline=pipeline,
        labels=None if labels is None else labels[order[torch.arange(num_images) % len(order)]],
        held_out=images[order[:bound_images]],
        see=see,
        target=_statistics(images, see, batch_size),
        num_images=num_images,
        batch_size=batch_size,
        seeds=seeds,
    )


# What is refused -----------------------------------------------------------------------------------------------------


def _check_requests(samplers, steps, seeds, num_images, batch_size, bound_images):
    for name, values in (("samplers", samplers), ("steps", steps), ("seeds", seeds)):
        if len(values) == 0 or len(set(values)) < len(values):
            raise InputError(f"{name}={list(values)} must name at least one, and each once.")
    if min(steps) < 1 or num_images < 2 or batch_size < 1 or not 0 <= bound_images <= num_images:
        raise InputError(
            f"steps={list(steps)} and batch_size={batch_size} must be at least 1, num_images={num_images} at least 2, "
            f"bound_images={bound_images} in 0 .. num_images."
        )


def _check_samplers(pipeline, samplers, steps):
    """Every sampler at every number of steps, before any of them works."""
    for name in samplers:
        sampler = make_sampler(name, pipeline.scheduler)
        if isinstance(sampler, GaussianDiffusionScheduler):
            check_head(pipeline.unet, sampler)
        for count in steps:
            check_sampler(name, pipeline.scheduler, count)


# What is measured ----------------------------------------------------------------------------------------------------


def _has_bound(sampler):
    """The bound is one of a Markov chain with noise: not of DDIM, nor of a mean that looks back."""
    ours = isinstance(sampler, GaussianDiffusionScheduler)
    return ours and sampler.config.eta > 0 and sampler.config.solver_order == 1


def _bound(task, name, count, bar):
    sampler, unet = make_sampler(name, task.pipeline.scheduler), task.pipeline.unet
    labels = None if task.labels is None else task.labels[: len(task.held_out)]
    result = bits_per_dim(
        unet, sampler, task.held_out, count, class_labels=labels, batch_size=task.batch_size, progress_bar=False
    )
    bar.update(count * math.ceil(len(task.held_out) / task.batch_size))
    return result.total


def _measure(task, name, count, bound, bar):
    """The measurement, and the images of the first seed."""
    sampler = make_sampler(name, task.pipeline.scheduler)
    images, distances, seconds = [], [], []
    for seed in task.seeds:
        images.append(_sample(task, sampler, count, seed, bar, seconds))
        distances.append(frechet_distance(_statistics(images[-1], task.see, task.batch_size), task.target))
    measurement = Measurement(
        sampler=name,
        steps=count,
        distances=distances,
        timesteps=sampler.timesteps.tolist(),
        seconds=statistics.median(seconds),
        bits_per_dim=bound,
    )
    return measurement, images[0]


@torch.no_grad()
def _sample(task, sampler, count, seed, bar, seconds):
    """uint8 images (N, C, H, W); image i has a generator of its own, whatever the sampler and the batches.

    Appends the seconds for each image to `seconds`, one value a batch: their median forgets what else the machine did.
    """
    config, device = task.pipeline.unet.config, task.pipeline.device
    size = config.sample_size
    shape = (1, config.in_channels, *((size, size) if isinstance(size, int) else size))
    images = []
    for places in torch.arange(task.num_images).split(task.batch_size):
        generators = [torch.Generator().manual_seed(seed * task.num_images + place) for place in places.tolist()]
        x_T = torch.cat([torch.randn(shape, generator=g) for g in generators]).to(device)
        predict, start = _network(task, places, bar), time.perf_counter()
        images.append(_to_levels(draw(sampler, predict, x_T, count, generators)).cpu())
        seconds.append((time.perf_counter() - start) / len(places))
    return torch.cat(images)


def _network(task, places, bar):
    """The network as a function of (x_t, t), for the images of these places."""
    device = task.pipeline.device
    labels = None if task.labels is None else task.labels[places]
    labels = task.pipeline.encode_labels(labels, batch_size=len(places), device=device)

    def predict(x_t, t):
        bar.update()
        return task.pipeline.predict(x_t, t, t.to(device), labels)

    return predict


def _to_levels(images):
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _statistics(images, see, batch_size):
    statistics = FeatureStatistics()
    for batch in images.split(batch_size):
        statistics.update(see(batch))
    return statistics


def _seconds_per_call(task):
    """Of one batch: measured, after one that only warms up."""
    sampler = make_sampler("diffusers-ddim", task.pipeline.scheduler)
    seconds = []
    with tqdm(disable=True) as bar:
        for _ in range(2):
            _sample(task._replace(num_images=task.batch_size), sampler, 1, 0, bar, seconds)
    return seconds[-1] * task.batch_size


# What is shown -------------------------------------------------------------------------------------------------------


def _save_rows(rows, png_path):
    """Images (columns, C, H, W) of each row, enlarged so that they can be looked at."""
    pixels = torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)  # (C, rows * H, columns * W)
    picture = Image.fromarray(pixels.permute(1, 2, 0).squeeze(-1).numpy())
    factor = max(1, LEGIBLE_SIDE // rows[0].shape[-1])
    picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST).save(png_path)
