"""Samples during training; each process draws a part of them."""

import numpy as np
import torch

from ddpm_hf.data import ImageStream, decode_first, to_model_range
from ddpm_hf.distributed import gather_parts, own_part, together
from ddpm_hf.pipelines.image_grids import enlargement, side_by_side
from ddpm_hf.pipelines.sample_files import files_of
from ddpm_hf.samples import kind_of, kind_of_batch


class _Stopped(Exception):
    """Sampling was stopped between two calls of the network."""


def draw_samples(pipeline, accelerator, args, number, is_to_stop=lambda: False, examples=None):
    """So many samples, or None if `is_to_stop()` became true in any process; every process must call this.

    Each process draws `batch_size` of its part at a time, and a network with classes gets them in turn. Sample i
    starts from the noise of the generator `seed + i`, whichever process draws it. eta is 0, so that only the weights
    change from one grid to the next.

    Args:
        pipeline ([`GaussianDiffusionPipeline`]): with a scheduler of its own, as sampling sets timesteps.
        args: `batch_size`, `sample_steps` and `seed` as in `TrainingArguments`.
        number (`int`): how many.
        examples (`dict`, *optional*): as many data from `examples_of`, for a network of condition images or numbers;
            or as many `prompts`, for one of captions.

    Returns:
        a list of what the pipeline returns: PIL images, arrays, or points (d,)

    Raises:
        InputError: in every process, if samples in one are not finite.
    """
    pipeline.set_progress_bar_config(disable=True)
    places = own_part(number, accelerator)

    def draw_own_part():
        images = []
        try:
            for first in range(0, len(places), args.batch_size):
                batch = places[first : first + args.batch_size]
                images += _draw(pipeline, batch, args, is_to_stop, examples)
        except _Stopped:
            return [None]
        return images

    # The pipeline refuses samples that are not finite.
    images = gather_parts(together(accelerator, draw_own_part, ValueError), accelerator)
    return None if any(image is None for image in images) else images


def examples_of(images, number, seed):
    """Data for conditions, evenly spread over a data set: `{"images": (N, C, H, W)}`, and "labels" if any."""
    if isinstance(images, ImageStream):
        return decode_first(images.source, number, seed)
    return images.__getitems__(np.linspace(0, len(images) - 1, number).astype(int))


def beside_examples(samples, unet_config, examples):
    """Pictures of the samples, each between its condition image and the data that it stands for."""
    files, kind = files_of(unet_config), kind_of(unet_config)
    x_0, image = kind.condition.split(to_model_range(examples["images"]))
    rows = zip(kind_of_batch(image).to_output(image, "pil"), samples, kind.to_output(x_0, "np"), strict=True)
    factor = enlargement(max(kind.sides))
    return [side_by_side([told, files.preview(sample), files.preview(data)], factor) for told, sample, data in rows]


def _draw(pipeline, places, args, is_to_stop, examples):
    """A list of the samples with these numbers; raises `_Stopped` if sampling was stopped."""
    unet = pipeline.unet

    def stop_if_asked(pipeline, step, timestep, tensors):
        if is_to_stop():
            raise _Stopped

    condition = {}
    if pipeline.text_encoder is not None:
        condition = {"prompt": [examples["prompts"][place] for place in places]}
    elif pipeline.samples.condition is not None:
        data = to_model_range(examples["images"][list(places)].to(unet.device))
        condition = {"condition_image": pipeline.samples.condition.split(data)[1] / 2 + 0.5}
    was_training = unet.training
    unet.eval()
    try:
        drawn = pipeline(
            batch_size=len(places),
            class_labels=_labels(unet, places, examples),
            generator=[torch.Generator().manual_seed(args.seed + place) for place in places],
            num_inference_steps=args.sample_steps,
            eta=0.0,
            callback_on_step_end=stop_if_asked,
            **condition,
        )
        return list(drawn.images)
    finally:
        unet.train(was_training)


def _labels(unet, places, examples):
    """The labels of the samples: those of the examples, or else all classes in turn; None without classes."""
    num_classes, places = unet.config.get("num_classes"), torch.tensor(places)
    if examples is not None:
        return examples["labels"][places] if "labels" in examples else None
    return None if num_classes is None else places % num_classes
