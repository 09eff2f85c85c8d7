"""Samples during training; each process draws a part of them."""

import numpy as np
import torch

from ddpm_hf.data import BucketedData, ImageStream, decode_first, to_model_range
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
            or as many `prompts`, for one of captions; and as many `shapes`, (height, width), for samples of several.

    Returns:
        a list of what the pipeline returns: PIL images, arrays, or points (d,)

    Raises:
        InputError: in every process, if samples in one are not finite.
    """
    pipeline.set_progress_bar_config(disable=True)
    places = own_part(number, accelerator)

    def draw_own_part():
        drawn = {}
        try:
            for batch in _batches_of_one_shape(places, args.batch_size, examples):
                drawn |= zip(batch, _draw(pipeline, batch, args, is_to_stop, examples), strict=True)
        except _Stopped:
            return [None]
        return [drawn[place] for place in places]

    # The pipeline refuses samples that are not finite.
    images = gather_parts(together(accelerator, draw_own_part, ValueError), accelerator)
    return None if any(image is None for image in images) else images


def _batches_of_one_shape(places, batch_size, examples):
    """The places in batches of at most `batch_size`, each of one shape where the examples say `shapes`."""
    shapes = None if examples is None else examples.get("shapes")
    alike = {}
    for place in places:
        alike.setdefault(shapes and shapes[place], []).append(place)
    return [rows[first : first + batch_size] for rows in alike.values() for first in range(0, len(rows), batch_size)]


def examples_of(images, number, seed):
    """Data for conditions, evenly spread over a data set: `{"images": (N, C, H, W)}`, and "labels" if any.

    Of images in several shapes it gives the labels alone.
    """
    if isinstance(images, ImageStream):
        return decode_first(images.source, number, seed)
    rows = np.linspace(0, len(images) - 1, number).astype(int)
    if isinstance(images, BucketedData):
        return {"labels": torch.cat([batch["labels"] for batch in images.by_shape(rows)])}
    return images.__getitems__(rows)


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
    if examples is not None and "shapes" in examples:
        condition = dict(zip(("height", "width"), examples["shapes"][places[0]], strict=True))
    elif pipeline.text_encoder is not None:
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
    if examples is not None and "labels" in examples:
        return examples["labels"][places]
    return None if num_classes is None else places % num_classes
