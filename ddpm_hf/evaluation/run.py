"""`ddpm-hf evaluate`: a pipeline folder and a data set in, numbers and figures out."""

import dataclasses
import math
import time
from datetime import timedelta
from functools import partial
from math import ceil
from pathlib import Path

from ddpm_hf.data import (
    decode_all,
    decoding_workers,
    draw_images,
    draw_points,
    open_images,
    open_points,
    sized_for_network,
)
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.distributed import join_processes, main_process_first
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.bits_per_dim import bits_per_dim
from ddpm_hf.evaluation.plots import draw_bound_terms
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.models.network_config import classes_of, is_of_points


def evaluate_bits_per_dim(
    model,
    output,
    data=None,
    num_images=None,
    steps=None,
    variance_type=None,
    batch_size=64,
    seed=0,
    device=None,
):
    """Writes `bpd.json` and `bpd.png`, the bound on the negative log-likelihood and its terms, into a folder.

    Runs on one process, or on all that `accelerate launch` starts. A class-conditional model is given the labels of the
    data.

    Args:
        model: a pipeline folder, or the id of a repository on the Hub.
        output: the folder; made if it is not there.
        data (`DataArguments`): which images; by default the test split of the embedded Fashion-MNIST.
        num_images (`int`, *optional*): as many, drawn at random by `seed`; all by default.
        steps (`int`, *optional*): timesteps to visit; all of training's by default.
        variance_type (`str`, *optional*): instead of the model's own.
        batch_size (`int`): images at a time and process.
        seed (`int`): of the noise, and of the choice of images.
        device (`str`, *optional*): "cpu" to leave an accelerator alone; the fastest there is by default.

    Returns:
        [`BitsPerDim`]
    """
    output = Path(output)
    json_file, png_file = output / "bpd.json", output / "bpd.png"
    for file in (json_file, png_file):
        if file.exists():
            raise InputError(f"{file} is already there; choose another --output, or move it away.")
    accelerator = join_processes(device)
    pipeline = load_pipeline(model).to(device or accelerator.device)
    if variance_type is not None:
        scheduler = pipeline.scheduler.from_config(pipeline.scheduler.config, variance_type=variance_type)
        pipeline.register_modules(scheduler=scheduler)
    data = data or DataArguments(split="test")
    images, labels = main_process_first(accelerator, lambda: load_data(data, pipeline.unet.config, num_images, seed))
    score = partial(bits_per_dim, pipeline.unet, pipeline.scheduler, batch_size=batch_size, seed=seed)
    calls = ceil(len(images) / (batch_size * accelerator.num_processes)) * (steps or len(pipeline.scheduler))
    first_labels = None if labels is None else labels[:batch_size]
    duration = timedelta(seconds=round(calls * _seconds_per_step(score, images[:batch_size], first_labels)))
    accelerator.print(f"{len(images)} images: {calls} network calls in each process, about {duration} (h:mm:ss)")
    result = score(images, num_inference_steps=steps, class_labels=labels, accelerator=accelerator)
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        json_file.write_text(result.to_json(), encoding="utf-8")
        draw_bound_terms(result, png_file)
    error = "" if result.standard_error is None else f" +- {result.standard_error:.4f}"
    units = ""
    if is_of_points(pipeline.unet.config):
        units = f" of the density of the standardised points, {data_bits_per_dim(result, pipeline.unet.config):.4f} in their own unit"
    accelerator.print(f"{result.total:.4f}{error} bits/dim{units}; every term in {json_file} and {png_file}")
    return result


def data_bits_per_dim(result, config):
    """The bound of points in the data's own units: a density of x is that of (x - mean) / std over std."""
    if config.get("data_std") is None:
        return result.total
    return result.total + sum(map(math.log2, config["data_std"])) / len(config["data_std"])


def load_data(data, unet_config, num_images=None, seed=0):
    """uint8 images (N, C, H, W), or points (N, d), as the network takes them, and their labels (N,), or None for a model
    without classes.

    Args:
        data (`DataArguments`): which images or points.
    """
    conditional = classes_of(unet_config)[0] is not None
    if is_of_points(unet_config):
        source = open_points(dataclasses.replace(data, class_conditional=conditional), unet_config)
        _check_enough(num_images, source, data)
        tensors = source.tensors() if num_images is None else draw_points(source, num_images, seed).tensors()
        return tensors["images"], tensors.get("labels")
    sized = sized_for_network(dataclasses.replace(data, class_conditional=conditional), unet_config, "The model")
    source = open_images(sized, None)
    if source.channels != unet_config.in_channels:
        raise InputError(
            f"The images have {source.channels} channel(s) and the network takes {unet_config.in_channels}: evaluate it on "
            "images of the kind that it was trained on."
        )
    _check_enough(num_images, source, data)
    if num_images is not None:
        source = draw_images(source, num_images, seed)
    tensors = decode_all(source, decoding_workers(None, source.pixels))
    return tensors["images"], tensors.get("labels")


def _check_enough(num_images, source, data):
    if num_images is not None and num_images > len(source):
        raise InputError(
            f"{num_images} samples are more than the {len(source)} of split {data.split!r}: ask for fewer."
        )


def _seconds_per_step(score, images, labels):
    """Of one timestep of one batch: measured, after one that only warms up."""
    for _ in range(2):
        start = time.perf_counter()
        score(images, timesteps=[0], class_labels=labels, progress_bar=False)
    return time.perf_counter() - start
