"""`ddpm-hf evaluate` measures a pipeline folder on a data set, and writes numbers and figures."""

import dataclasses
from functools import partial
from math import ceil
from pathlib import Path
from typing import NamedTuple

from ddpm_hf.data import data_for, draw_images
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.captions import captions_of
from ddpm_hf.distributed import join_processes, main_process_first, main_process_in, together
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.discrete_chains import discrete_chain
from ddpm_hf.evaluation.image_labels import labels_of
from ddpm_hf.evaluation.likelihood import bits_per_dim
from ddpm_hf.evaluation.plots import draw_bound_terms
from ddpm_hf.files import moved_in_whole
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.hub.reading import read_captions, read_index
from ddpm_hf.limits import expected_duration, fitting_into_memory, seconds_of
from ddpm_hf.models.network_config import classes_of, is_told_text
from ddpm_hf.reports.report_files import BOUND
from ddpm_hf.results import alone_in_free_folder
from ddpm_hf.samples import kind_of
from ddpm_hf.samples.condition_values import value_limits_of


class BoundRequest(NamedTuple):
    """The arguments of `evaluate_bits_per_dim`, with their defaults."""

    model: str
    output: Path
    data: DataArguments
    num_images: int | None = None
    steps: int | None = None
    variance_type: str | None = None
    batch_size: int = 64
    seed: int = 0
    device: str | None = None


def evaluate_bits_per_dim(model, output, data=None, **options):
    """Writes `bpd.json` and `bpd.png`, the bound on the negative log-likelihood and its terms, into a folder.

    Both files are moved in when they are whole, so that the command can be repeated after an interruption. It runs on
    one process, or on all that `accelerate launch` starts. A class-conditional model gets the labels of the data.

    Args:
        model: a pipeline folder, or the id of a repository on the Hub.
        output: the folder, which is made if it does not exist.
        data (`DataArguments`): the images; by default the test split of the embedded Fashion-MNIST.
        num_images (`int`, *optional*): number of images, drawn at random by `seed`; by default all.
        steps (`int`, *optional*): number of timesteps to visit; by default all of training.
        variance_type (`str`, *optional*): instead of the model's own.
        batch_size (`int`): images at a time and process, by default 64.
        seed (`int`): seed of the noise and of the choice of images, by default 0.
        device (`str`, *optional*): "cpu" to leave an accelerator alone; by default the fastest device.

    Returns:
        [`BitsPerDim`]

    Raises:
        InputError: before the work, for files that exist already or cannot be written, data that do not fit, and more
            steps than the model has.
    """
    return _evaluate(BoundRequest(model, Path(output), data or DataArguments(split="test"), **options))


def _evaluate(request):
    accelerator = join_processes(request.device)
    place = alone_in_free_folder(request.output, (BOUND.name, BOUND.picture))
    with main_process_in(place, accelerator):
        return _evaluate_with(request, accelerator)


def _evaluate_with(request, accelerator):
    output, batch_size, steps = request.output, request.batch_size, request.steps
    pipeline = _open_model(request).to(request.device or accelerator.device)
    wanted = request.data, pipeline.unet.config, request.num_images, request.seed
    images, labels = main_process_first(accelerator, lambda: load_data(*wanted))
    score = partial(bits_per_dim, pipeline.unet, pipeline.scheduler, batch_size=batch_size, seed=request.seed)
    calls = ceil(len(images) / (batch_size * accelerator.num_processes)) * (steps or len(pipeline.scheduler))
    duration = _duration(score, calls, images[:batch_size], labels_of(labels, 0, batch_size))
    accelerator.print(f"{len(images)} images: {calls} network calls in each process, about {duration} (h:mm:ss)")
    result = score(images, num_inference_steps=steps, class_labels=labels, accelerator=accelerator)
    together(accelerator, lambda: _write(result, output), main_process_only=True)
    accelerator.print(_summary(result, pipeline.samples, output))
    return result


def _open_model(request):
    """The pipeline of the model, with the requested variance, and checked for the number of steps."""
    pipeline = load_pipeline(request.model)
    if request.variance_type is not None:
        scheduler = pipeline.scheduler.from_config(pipeline.scheduler.config, variance_type=request.variance_type)
        pipeline.register_modules(scheduler=scheduler)
    discrete_chain(pipeline.scheduler, "be scored in bits per dimension").set_timesteps(request.steps)
    return pipeline


def _duration(score, calls, images, labels):
    """The expected duration of `calls` network calls on a batch, from one that is timed."""
    first_step = partial(score, images, timesteps=[0], class_labels=labels, progress_bar=False)
    with fitting_into_memory(f"lower --batch_size, which is {score.keywords['batch_size']}"):
        return expected_duration(calls * seconds_of(first_step), "give fewer --num_images or --steps")


def _summary(result, samples, output):
    error = "" if result.standard_error is None else f" +- {result.standard_error:.4f}"
    note = samples.bound_note(result.total)
    return (
        f"{result.total:.4f}{error} bits/dim{note}; every term in {output / BOUND.name} and {output / BOUND.picture}"
    )


def _write(result, output):
    with moved_in_whole(output, last=BOUND.name) as aside:
        BOUND.write(aside, result.to_dict())
        draw_bound_terms(result, aside / BOUND.picture)


def load_data(data, unet_config, num_images=None, seed=0, after=0):
    """The samples for a network, and their labels (N,), or None for a model without classes.

    Images are uint8, (N, C, H, W), points (N, d) in the units of the network. For a network that is told a text the
    labels are the captions, `np.ndarray` (N,) of `str`.

    Args:
        data (`DataArguments`): the images or points.
        num_images, seed (`int`): how many are drawn at random; by default all are taken.
        after (`int`): so many have been drawn with this seed before, and are not drawn again.

    Raises:
        InputError: for data of another kind than the network's, fewer than `num_images`, and a network of images that
            are not square.
    """
    source = open_data(data, unet_config)
    if num_images is not None:
        if after + num_images > len(source):
            raise InputError(
                f"{after + num_images} samples are more than the {len(source)} of split {data.split!r}: ask for fewer."
            )
        source = draw_images(source, num_images, seed, after)
    tensors = source.decode()
    labels = tensors.get("labels") if source.captions is None else captions_of(source)
    return tensors["images"], labels


def with_own_captions(data, model):
    """The options of the data; where they name no captions, with those that a model of texts was trained with.

    Args:
        data (`DataArguments`): which data.
        model: a pipeline folder, or the id of a repository on the Hub.
    """
    if data.has_captions or "text_encoder" not in read_index(model):
        return data
    captions = read_captions(model)
    own = {name: captions[name] for name in ("caption_column", "caption_template") if name in captions}
    return dataclasses.replace(data, **own)


def open_data(data, unet_config):
    """The source of `load_data`, whose length is the number of all samples."""
    is_text = is_told_text(unet_config)
    if is_text and not data.has_captions:
        raise InputError(
            "The network is told a text: name the captions of the data with --caption_column or --caption_template."
        )
    if not is_text and data.has_captions:
        raise InputError(
            f"caption_column={data.caption_column!r} and caption_template={data.caption_template!r} are for a network that "
            "is told a text, and this one is not: leave them out."
        )
    is_told_values = value_limits_of(unet_config) is not None
    if is_told_values != (data.value_column is not None):
        has = "is told a number of each image: name its column with --value_column"
        raise InputError(f"The network {has if is_told_values else 'is told no number: leave out --value_column'}.")
    data = dataclasses.replace(data, class_conditional=classes_of(unet_config)[0] is not None)
    source = data_for(unet_config).open_for_network(data, unet_config, "The model")
    samples = kind_of(unet_config)
    wanted, given = samples.stored_channels, source.samples.data_channels
    if samples.data_channels != samples.channels and data.condition_column is None:
        raise InputError(
            "The network is told the images of pairs: name the column of the condition images with --condition_column."
        )
    if wanted == samples.channels and data.condition_column is not None:
        raise InputError(
            f"condition_column={data.condition_column!r} is for a network of pairs, and this one is of another kind: "
            "leave it out."
        )
    if given != wanted:
        raise InputError(
            f"The images have {given} channel(s) and the network takes {wanted}: evaluate it on "
            "images of the kind that it was trained on."
        )
    return source
