"""Resizing of data to the size of a trained network."""

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.errors import InputError
from ddpm_hf.samples import kind_of
from ddpm_hf.sizes import size_of


def sized_for_network(args, config, model):
    """The data options with the network's resolution; unchanged if the network takes any size.

    Args:
        args (`DataArguments`): which data.
        config: the network's config, or a dictionary of its `sample_size` and `in_channels`.
        model (`str`): its name in messages.

    Raises:
        InputError: for a network of points, and for another resolution.
    """
    _, height, width = kind_of(config).image_shape(
        otherwise=InputError(f"{model} makes points, which have no size: give a model of images.")
    )
    if height is None:
        return args
    if args.resolution not in (None, size_of(height, width)):
        raise InputError(
            f"resolution={args.resolution} does not go with {model}, whose network is for images of "
            f"{height}x{width}: leave --resolution out, and the data are resized."
        )
    return DataArguments.among(args, resolution=size_of(height, width))
