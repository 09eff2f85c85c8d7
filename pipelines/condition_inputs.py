"""Condition images as they are given to a pipeline, checked for its network."""

import torch

from ddpm_hf.pipelines.image_inputs import images_as_given, in_network_range


def prepare_condition(pipeline, condition_image, sides):
    """A condition image as the network was told it in training, (N, C, h, w) in [-1, 1], before it is enlarged.

    Args:
        pipeline: the pipeline with the network, which is told condition images.
        condition_image: as the `image` of `image_inputs.prepare_images`, in one size for all.
        sides (`tuple[int, int]`): the height and width of x_t, of which the low resolution is a fraction.

    Raises:
        ValueError: for a network without its image, and for images of another size, channels or values.
    """
    condition = pipeline.samples.condition
    if condition_image is None:
        raise ValueError(f"This model needs a condition image: {how_to_give(condition)}.")
    if None in sides:
        raise ValueError("The model's config has no sample_size: pass `latents` of the size wanted.")
    images = images_as_given("condition_image", condition_image, condition.condition_channels)
    factors = (1, 1) if condition.low_resolution is None else condition.factor(pipeline.samples.sides)
    wanted = tuple(side // factor for side, factor in zip(sides, factors, strict=True))
    for image in images:
        if tuple(image.shape[2:]) != wanted:
            height, width = image.shape[2:]
            raise ValueError(
                f"condition_image is of {height}x{width} (height x width) and must be of {wanted[0]}x{wanted[1]} for "
                f"samples of {sides[0]}x{sides[1]}."
            )
    return in_network_range(pipeline, torch.cat(images))


def how_to_give(condition):
    """How the condition image of a network is given, for messages."""
    if condition.low_resolution is None:
        return "give condition_image=, or --condition_image on the command line"
    return (
        "it enlarges images, which GaussianDiffusionUpscalePipeline takes, and `ddpm-hf upscale MODEL IMAGE` on the "
        "command line"
    )
