"""Resizing of data to the size of a trained network."""

from dataclasses import replace

from ddpm_hf.errors import InputError
from ddpm_hf.samples import kind_of


def sized_for_network(args, config, model):
    """The data options with the network's resolution; unchanged if the network takes any size.

    Args:
        args (`DataArguments`): which data.
        config: the network's config, or a dictionary of its `sample_size` and `in_channels`.
        model (`str`): its name in messages.

    Raises:
        InputError: for a network of points, or of images that are not square, as data are read as squares, and for
            another resolution.
    """
    _, height, width = kind_of(config).image_shape(
        otherwise=InputError(f"{model} makes points, which have no size: give a model of images.")
    )
    if height != width:
        raise InputError(
            f"{model} has a network for images of {height}x{width} (height x width), and data are read as squares "
            "only: give a model of square images."
        )
    if height is None:
        return args
    if args.resolution not in (None, height):
        raise InputError(
            f"resolution={args.resolution} does not go with {model}, whose network is for images of "
            f"{height}x{height}: leave --resolution out, and the data are resized."
        )
    return replace(args, resolution=height)
