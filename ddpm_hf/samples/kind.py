"""The interface of all kinds of samples, by which nothing else needs to know the kind.

Each kind has its own file. All of them travel inside model repositories with the pipeline,
so files and figures, which need more than torch and diffusers, are in `ddpm_hf.pipelines.sample_files`.
"""

from ddpm_hf.portable.config import own_value
from ddpm_hf.samples.condition_images import condition_of, enlarged


class SampleKind:
    """The samples of one network; `kind_of` chooses the kind from its config.

    Each kind also has `is_of(config)`, whether it is the kind of a network; `to_output(x_0, output_type)`, what a
    pipeline returns; `from_data(batch)`, data as a network takes them; and `random_data(number)`, noise in the form of
    data.

    Args:
        config: the config of the network, or a dictionary of its `in_channels` and `sample_size`.
        levels (`int`, *optional*): number of values that the data can take, if it is not the kind's own.

    Attributes:
        name (`str`): name of the kind, the key of the tables of what does not travel.
        output_type (`str`): what a pipeline returns by default.
        recipe_changes (`dict`): options of recipes that have no meaning for these samples, with what they become.
        levels (`int`, *optional*): number of values that the data can take; None for continuous data.
        sides (`tuple`): sides of a sample after its channels; None for sides that the network leaves open.
        side_names (`tuple`): what messages call them.
        value_range (`tuple`), depth ([`Depth`]): of images that are not of 8 bits; None for all others.
        needs_vae (`bool`): whether an autoencoder makes images of the samples.
        usual_std (`float`): about the standard deviation of the data as the network has them.
    """

    name = output_type = levels = value_range = depth = None
    side_names = ()
    needs_vae = False
    usual_std = 1.0
    recipe_changes = {}  # noqa: RUF012

    def __init__(self, config, levels=None):
        self.config, self.sides = config, sides_of(config)
        self.levels = levels or self.levels_of_data()

    def levels_of_data(self):
        """The number of values that the data of the network can take."""
        return self.levels

    @property
    def channels(self):
        return channels_of(self.config)

    @property
    def condition(self):
        """The [`ConditionImage`] that the network is told beside the sample, or None."""
        return condition_of(self.config)

    @property
    def data_channels(self):
        """The channels of data: those of a sample, and for a network of pairs those of its condition image too."""
        condition = self.condition
        is_of_pairs = condition is not None and condition.low_resolution is None
        return self.config["in_channels"] if is_of_pairs else self.channels

    @property
    def stored_channels(self):
        """The channels of data as a data set has them."""
        return self.data_channels

    @property
    def shape(self):
        """(C, *sides)."""
        return (self.channels, *self.sides)

    @property
    def output_name(self):
        """The name of what a pipeline returns."""
        return self.name

    @property
    def output_shape(self):
        """(C, *sides) of what a pipeline returns."""
        return self.shape

    def image_shape(self, otherwise):
        """(C, H, W), for what is done with images alone.

        Args:
            otherwise (`Exception`): raised where the samples are no images.
        """
        raise otherwise

    def sides_of_output(self, height, width):
        """The sides of samples whose output has this height and width, each None for the kind's own.

        Raises:
            ValueError: for points, which have no such sides, and for sides that no samples have.
        """
        raise ValueError(f"height={height} and width={width} are of images, and this model makes {self.name}.")

    def drawn(self, data):
        """The data of a batch in the range of the network, drawn from what a data set holds of them."""
        return data

    def encoded(self, images):
        """x_0 of images (N, C, H, W) in [-1, 1]."""
        return images

    def decoded(self, x_0):
        """The images (N, C, H, W), in about [-1, 1], of x_0."""
        return x_0

    def decoded_by(self, vae):
        """These samples, with the autoencoder that makes images of them."""
        if vae is None:
            return self
        raise ValueError(
            "The pipeline has a vae, and its network was not trained in the latents of one: leave the vae out."
        )

    def split(self, data):
        """x_0, and the condition image in its size (or None), from data in the range of the network.

        The data of a network of pairs have the channels of x_0 and then those of the condition image.
        """
        condition = self.condition
        if condition is None:
            return data, None
        x_0, image = condition.split(data)
        return x_0, enlarged(image, x_0.shape[2:])

    def layout(self, number="N", channels=None):
        """The shape of a batch in words, for messages; of samples, or of so many channels."""
        return f"({', '.join([number, str(channels or self.channels), *self.side_names])})"

    def fits(self, batch, channels=None):
        """Whether a batch has the dimensions and channels of these samples; its sides may be any."""
        return batch.ndim == 1 + len(self.shape) and batch.shape[1] == (channels or self.channels)

    def agreed_output_type(self, output_type):
        """`output_type`, or the default for None; ValueError for one that is for other samples."""
        return output_type or self.output_type

    def check_data(self, batch, first=0):
        """Raises ValueError for data that are not (N, C, *), or have values that such data cannot have.

        Args:
            batch (`torch.Tensor`): as a data set has them.
            first (`int`): the number of the first sample, for the message.
        """
        if not self.fits(batch, self.data_channels):
            layout = self.layout(channels=self.data_channels)
            raise ValueError(
                f"{self.name.capitalize()} of shape {tuple(batch.shape)} must be {layout} for this network."
            )

    def in_range(self, batch):
        """Whether floats have values that the network is made for."""
        return True

    def bound_note(self, bits):
        """A note to print beside a bound of `bits` per dimension."""
        return ""


def channels_of(config):
    """The channels of a sample: the input channels of the network without those of its condition image."""
    condition = condition_of(config)
    return config["in_channels"] - (0 if condition is None else condition.condition_channels)


def trained_shapes(config):
    """The (height, width) of each shape that a network was trained at in buckets by aspect ratio; () without."""
    return tuple(map(tuple, own_value(config, "aspect_buckets") or ()))


def sides_of(config):
    """The sides of a sample: (H, W) for images, none for points, None for a side that is left open."""
    size = config.get("sample_size", ())
    if size is None:
        return None, None
    return (size, size) if isinstance(size, int) else tuple(size)
