"""The inputs of editing: images and masks as tensors for the network, and a check of the scheduler."""

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import logging
from PIL import Image

from ddpm_hf.errors import InputError
from ddpm_hf.image_files import (
    check_mode,
    check_range,
    deep_values,
    has_transparent_pixels,
    highest_value,
    in_eight_bits,
    is_float,
    is_sixteen_bit,
)
from ddpm_hf.samples.kind import trained_shapes
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler

logger = logging.get_logger(__name__)

# Used for conversion only. It would take tensors of `vae_latent_channels` channels for latents; 0 rules that out.
CONVERTER = VaeImageProcessor(vae_scale_factor=1, vae_latent_channels=0, do_resize=False, do_normalize=False)

PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def read_image(path, channels, depth=None):
    """The image of a file as `prepare_images` expects it for this number of channels.

    It is read like the images of data sets: upright, and with transparency composed on white. It is a PIL image of 8
    bits; of a file of 16 bits or of floats, with a `depth`, it is an array (H, W, `channels`) in [0, 1].

    Args:
        depth ([`Depth`], *optional*): that of the network's images, if they are not of 8 bits.

    Raises:
        InputError: for an unreadable file, an unsupported bit depth or number of channels.
    """
    if channels not in PIL_MODES:
        raise InputError(
            f"The network takes images of {channels} channels, and picture files have "
            f"{', '.join(map(str, PIL_MODES))}: give tensors to the pipeline in Python."
        )
    try:
        with Image.open(path) as image:
            if depth is not None and (is_sixteen_bit(image) or is_float(image)):
                return _in_unit_interval(deep_values(lambda: Image.open(path), channels), depth)
            check_mode(image)
            if is_sixteen_bit(image):
                check_range(highest_value(image))
            converted = in_eight_bits(image, PIL_MODES[channels])
            if converted.mode != "RGBA" and has_transparent_pixels(image):
                logger.warning(f"{path} has transparent pixels, which are composed on white.")
            return converted
    except Exception as error:  # PIL has many kinds of errors, and few name the file
        raise InputError(f"The picture {path} cannot be read: {str(error).rstrip('.')}.") from error


def _in_unit_interval(values, depth):
    low, high = depth.value_range
    if not (values.min() >= low and values.max() <= high):
        raise InputError(
            f"its values are from {values.min():g} to {values.max():g}, and the network is for {low:g} to {high:g}"
        )
    return ((values.astype(np.float64) - low) / (high - low)).astype(np.float32)


def resized_picture(picture, sides):
    """What `read_image` gave, resized to (height, width)."""
    size = sides[::-1]
    if isinstance(picture, Image.Image):
        return picture.resize(size, Image.Resampling.LANCZOS)
    planes = [Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS) for plane in np.moveaxis(picture, -1, 0)]
    return np.stack(planes, axis=-1).clip(0, 1)


def prepare_images(pipeline, image, size=None):
    """Images as x_0: (N, C, H, W) in [-1, 1], of the network's size and on its device, in float32 or better.

    For a network of latents they are encoded.

    Args:
        pipeline: the pipeline with the network.
        image: a PIL image, an array (H, W), (H, W, C) or (N, H, W, C), a tensor (C, H, W) or (N, C, H, W), or a list
            of them; arrays and tensors are floats in [0, 1]. Images of another size are resized, and a note is logged.
        size (`tuple[int, int]`, *optional*): (height, width), by default the network's (`size_to_edit`).

    Raises:
        ValueError: for other types, channels or values.
    """
    samples = pipeline.samples
    images = images_as_given("image", image, samples.output_shape[0])
    size = size or _sample_size(pipeline, images)
    for given in sorted(set(_sizes(images)) - {size}):
        logger.warning(f"An image is resized from {_named(given)} to {_named(size)} (height x width).")
    resized = torch.cat([F.interpolate(one, size, mode="bilinear", antialias=True) for one in images])
    return samples.encoded(in_network_range(pipeline, resized))


def size_to_edit(pipeline, image):
    """The (height, width) that `prepare_images` gives to all images.

    It is that of the network's samples; if it was trained in several shapes, the nearest to the first image; and if it
    takes any size, that of the first image.
    """
    return _sample_size(pipeline, images_as_given("image", image, pipeline.samples.output_shape[0]))


def images_as_given(name, image, channels):
    """Images as a list of tensors (N, C, H, W) in [0, 1], in the sizes that they have.

    Args:
        name (`str`): name of the argument, for messages.
        image: as for `prepare_images`.
    """
    images = _tensors(name, image, channels)
    for one in images:
        _check_range(one)
    return images


def in_network_range(pipeline, images):
    """Images in [0, 1] as the network takes them: in [-1, 1], on its device, in float32 or better."""
    dtype = torch.promote_types(torch.float32, pipeline.unet.dtype)
    return VaeImageProcessor.normalize(images.to(pipeline._execution_device, dtype))


def prepare_mask(pipeline, mask_image, image):
    """The mask as booleans (N, 1, H, W), of the network's size and on its device.

    Args:
        mask_image: one mask, or a list of one per image, with one channel (PIL: mode `L` or `1`), of the image's
            original size, with values 0 and 1 (PIL: black and white).
        image: the images, as for `prepare_images`.

    Raises:
        ValueError: for another size, or other values.
    """
    masks = [mask.float() for mask in _tensors("mask_image", mask_image, channels=1)]
    images = _tensors("image", image, pipeline.samples.output_shape[0])
    mask_sizes, image_sizes = _sizes(masks), _sizes(images)
    count = max(len(mask_sizes), len(image_sizes))
    pairs = [sizes * count if len(sizes) == 1 else sizes for sizes in (mask_sizes, image_sizes)]
    if pairs[0] != pairs[1]:
        raise ValueError(
            f"mask_image must be one, or one for each image, of the image's own size (height x width): "
            f"{', '.join(map(_named, image_sizes))}; got {', '.join(map(_named, mask_sizes))}."
        )
    for mask in masks:
        others = mask[(mask != 0) & (mask != 1)]
        if len(others):
            raise ValueError(
                f"mask_image has the value {others[0].item():.4g}; it must be 0 (keep) or 1 (paint anew) everywhere, "
                "a PIL image black or white. A soft mask becomes one by mask > 0.5."
            )
    size = _sample_size(pipeline, images)
    if pipeline.vae is not None:  # a latent is painted where most of its pixels are
        masks = [(F.adaptive_avg_pool2d(mask, pipeline.samples.sides) > 0.5).float() for mask in masks]
        size = pipeline.samples.sides
    return torch.cat([F.interpolate(mask, size) for mask in masks]).bool().to(pipeline._execution_device)


def for_each(tensor, batch_size):
    """A tensor (1, ..) for all, or (batch_size, ..) with one for each, as (batch_size, ..)."""
    return tensor.expand(batch_size, *tensor.shape[1:])


def check_scheduler(scheduler, first_order=False):
    """Raises ValueError unless the scheduler can step from any timestep and, if `first_order`, without history."""
    if not isinstance(scheduler, GaussianDiffusionScheduler):
        raise ValueError(
            f"{type(scheduler).__name__} cannot edit: pass a GaussianDiffusionScheduler, which the model of a DDPM or "
            "of a VP process has as GaussianDiffusionScheduler.from_config(pipeline.scheduler.config)."
        )
    if first_order and scheduler.config.solver_order != 1:
        raise ValueError(
            f"solver_order={scheduler.config.solver_order} uses the step before, which is another one on a way that "
            "is not straight down: use GaussianDiffusionScheduler.from_config(pipeline.scheduler.config, "
            "solver_order=1)."
        )


def _tensors(name, image, channels):
    """A list of (N, C, H, W) tensors in [0, 1], one per input."""
    images = image if isinstance(image, (list, tuple)) else [image]
    if not images:
        raise ValueError(f"{name} is an empty list; pass at least one.")
    return [_tensor(name, one, channels) for one in images]


def _tensor(name, image, channels):
    if isinstance(image, Image.Image):
        if channels == 1 and image.mode == "1":
            image = image.convert("L")
        mode = PIL_MODES.get(channels)
        if image.mode != mode:
            raise ValueError(f"{name} is of the PIL mode {image.mode!r} and must be {mode!r}: {_advice(image, mode)}.")
        return CONVERTER.preprocess(image)
    dimensions = {np.ndarray: (2, 3, 4), torch.Tensor: (3, 4)}.get(type(image))
    if dimensions is None:
        raise ValueError(f"{name} is a {type(image).__name__}; pass PIL images, numpy arrays or torch tensors.")
    if image.ndim not in dimensions:
        raise ValueError(
            f"{name} has the shape {tuple(image.shape)}; arrays are (height, width), (height, width, channels) or "
            "(number, height, width, channels), tensors (channels, height, width) or (number, channels, height, "
            "width)."
        )
    tensor = CONVERTER.preprocess(image)
    if tensor.shape[1] != channels:
        raise ValueError(
            f"{name} of the shape {tuple(image.shape)} has {tensor.shape[1]} channels and must have {channels}."
        )
    return tensor


def _advice(image, mode):
    """Advice on converting to a PIL mode without a hidden loss."""
    if image.mode[0] in "IF":
        return f"scale its values to 0 .. 255 first, then image.convert({mode!r}), which cuts off what is above"
    if mode != "RGBA" and image.has_transparency_data:
        return f"ddpm_hf.image_files.in_eight_bits(image, {mode!r}), which composes it on white"
    return f"image.convert({mode!r})"


def _check_range(image):
    low, high = image.min().item(), image.max().item()
    if not (image.is_floating_point() and low >= 0 and high <= 1):
        raise ValueError(
            f"image has {image.dtype} values from {low:.4g} to {high:.4g}; arrays and tensors must be floats in [0, "
            "1]: divide levels by 255, and bring [-1, 1] there by image / 2 + 0.5."
        )


def _sizes(tensors):
    """The (height, width) of each image in a list of batches."""
    return [tuple(tensor.shape[-2:]) for tensor in tensors for _ in tensor]


def _sample_size(pipeline, images):
    refusal = ValueError("This model makes points, and editing is for models of images.")
    size, (height, width) = pipeline.samples.image_shape(otherwise=refusal)[1:], _sizes(images)[0]
    if None in size:
        return height, width
    shapes = trained_shapes(pipeline.unet.config) or (size,)
    return min(shapes, key=lambda shape: abs(height * shape[1] - width * shape[0]))


def _named(size):
    return f"{size[0]}x{size[1]}"
