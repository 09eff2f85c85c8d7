"""Data of the kind that the samples of a network are, opened for a network that was trained or that is to be."""

from ddpm_hf.data.network_size import sized_for_network
from ddpm_hf.data.points import open_points
from ddpm_hf.data.source import open_images
from ddpm_hf.data.streaming import open_stream
from ddpm_hf.samples import kind_of


def open_for_network(args, config, model, streaming=False):
    """Data in the size and the units that a network was trained in, whatever their own are.

    Args:
        args (`DataArguments`): which data.
        config: of the network.
        model (`str`): how messages name it.
        streaming (`bool`): images are read as they come.
    """
    sized = sized_for_network(args, config, model)
    return OPENERS[kind_of(config).name](sized, network=config, streaming=streaming)


def open_for_preset(args, preset, streaming=False):
    """Data for a new network, which gets their size and units.

    Args:
        args (`DataArguments`): which data.
        preset (`dict`): of `ddpm_hf.models.presets`; its `sample_size` is for images whose sizes differ.
        streaming (`bool`): images are read as they come.
    """
    return OPENERS[kind_of(preset).name](args, default_resolution=preset.get("sample_size"), streaming=streaming)


def _open_images(args, default_resolution=None, streaming=False, network=None):
    return (open_stream if streaming else open_images)(args, default_resolution)


def _open_points(args, network=None, default_resolution=None, streaming=False):
    return open_points(args, network)


OPENERS = {"images": _open_images, "points": _open_points}
