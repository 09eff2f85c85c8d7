"""Opening data for a network, and the checks before: a class for each kind of samples."""

from ddpm_hf.data.network_size import sized_for_network
from ddpm_hf.data.point_clouds import POINT_CLOUDS
from ddpm_hf.data.points import open_points
from ddpm_hf.data.source import open_images
from ddpm_hf.data.streaming import open_stream
from ddpm_hf.errors import InputError
from ddpm_hf.samples import kind_of

SIZE_BEFORE_CHOICE = 64


def data_of(args):
    """The class that opens data of which no network says the kind: points by their name, else images.

    Args:
        args (`DataArguments`): which data.
    """
    is_of_points = args.dataset in POINT_CLOUDS or args.point_columns is not None
    return PointData if is_of_points or (args.dataset or "").endswith(".csv") else ImageData


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
    def open_for_choice(args, streaming=False):
        """Images for which a network is chosen when they were seen; until then they have a size that suits most."""
        return (open_stream if streaming else open_images)(args, SIZE_BEFORE_CHOICE)

    @staticmethod
    def open_for_config(args, config, model, streaming=False):
        """Images for a new network, in the size of its config; `model` is its name in messages."""
        sized = args if args.resolution is not None else sized_for_network(args, config, model)
        return (open_stream if streaming else open_images)(sized, None)

    @staticmethod
    def open_for_network(args, config, model, streaming=False):
        """Images in the size of a trained network, whatever their own is; `model` is its name in messages."""
        sized = sized_for_network(args, config, model)
        return (open_stream if streaming else open_images)(sized, None, config)

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
    def open_for_choice(args, streaming=False):
        """Points for a new network, which gets their units."""
        return open_points(args)

    @staticmethod
    def open_for_config(args, config, model, streaming=False):
        """Points for a new network, which gets their units."""
        return open_points(args)

    @staticmethod
    def open_for_network(args, config, model, streaming=False):
        """Points in the units that a network was trained in."""
        return open_points(args, config)

    @staticmethod
    def check_training(args):
        """Raises InputError for options of a training that do not go with points."""
        if args.vae is not None:
            raise InputError(
                f"vae={args.vae!r} encodes images: give images and a network of images, for points are not encoded."
            )
        if args.dataset is None:
            raise InputError(
                f"unet={args.unet!r} is for points: name them with --dataset, one of {', '.join(POINT_CLOUDS)}, or a "
                "file with columns of numbers."
            )
        if args.aspect_buckets is not None:
            raise InputError(
                f"aspect_buckets={args.aspect_buckets} is for images, and these are points: leave it out."
            )
        if args.random_flip:
            raise InputError("random_flip mirrors images, and points have no sides: leave it out.")
        if args.low_resolution is not None:
            raise InputError(
                f"low_resolution={args.low_resolution} is for images, and points have none: leave it out."
            )
        if args.condition_column is not None:
            raise InputError(
                f"condition_column={args.condition_column!r} is of images, and these are points: leave it out."
            )
        if args.value_column is not None:
            raise InputError(f"value_column={args.value_column!r} is for images, and these are points: leave it out.")
        if args.streaming:
            raise InputError(f"streaming is for images, and dataset={args.dataset!r} has points: leave it out.")


DATA = {"images": ImageData, "latents": ImageData, "points": PointData}
