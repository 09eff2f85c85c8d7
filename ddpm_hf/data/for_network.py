"""Opening data for a network, and the checks before: a class for each kind of samples."""

from ddpm_hf.data.network_size import sized_for_network
from ddpm_hf.data.point_clouds import POINT_CLOUDS
from ddpm_hf.data.points import open_points
from ddpm_hf.data.source import open_images
from ddpm_hf.data.streaming import open_stream
from ddpm_hf.errors import InputError
from ddpm_hf.samples import kind_of


def data_for(config):
    """The class that opens the data of a network.

    Args:
        config: the config of the network, or a preset of `ddpm_hf.models.presets`.
    """
    return DATA[kind_of(config).name]


class ImageData:
    """Opens images, stored or streamed."""

    @staticmethod
    def open_for_preset(args, preset, streaming=False):
        """Images for a new network, which gets their size; images whose sizes differ get the preset's.

        Args:
            args (`DataArguments`): which data.
        """
        return (open_stream if streaming else open_images)(args, preset["sample_size"])

    @staticmethod
    def open_for_network(args, config, model, streaming=False):
        """Images in the size of a trained network, whatever their own is; `model` is its name in messages."""
        return (open_stream if streaming else open_images)(sized_for_network(args, config, model), None)

    @staticmethod
    def check_training(args):
        """Raises InputError for options of a training that do not go with images."""
        if args.dataset in POINT_CLOUDS and args.init_from is None:
            raise InputError(f"dataset={args.dataset!r} has points, and unet={args.unet!r} is for images: --unet mlp.")


class PointData:
    """Opens points."""

    @staticmethod
    def open_for_preset(args, preset, streaming=False):
        """Points for a new network, which gets their units."""
        return open_points(args)

    @staticmethod
    def open_for_network(args, config, model, streaming=False):
        """Points in the units that a network was trained in."""
        return open_points(args, config)

    @staticmethod
    def check_training(args):
        """Raises InputError for options of a training that do not go with points."""
        if args.dataset is None:
            raise InputError(
                f"unet={args.unet!r} is for points: name them with --dataset, one of {', '.join(POINT_CLOUDS)}, or a "
                "file with columns of numbers."
            )
        if args.random_flip:
            raise InputError("random_flip mirrors images, and points have no sides: leave it out.")
        if args.streaming:
            raise InputError(f"streaming is for images, and unet={args.unet!r} for points: leave it out.")


DATA = {"images": ImageData, "points": PointData}
