"""What all sources of images have in common: the options of networks for their size and channels."""

from dataclasses import replace

from ddpm_hf.data.data_source import DataSource
from ddpm_hf.limits import check_fits_memory
from ddpm_hf.models.unet_2d import DDPMUNet2DModel
from ddpm_hf.sizes import config_size, written_sides


class SizedImages(DataSource):
    """Options of network and scheduler for images of a `form` ([`ImageForm`]), stored or streamed.

    `value_limits` are the least and the greatest of the numbers that are told instead of classes, which are the
    `labels` then; else None.
    """

    value_limits = None

    @property
    def channels(self):
        return self.form.channels

    @property
    def resolution(self):
        return self.form.resolution

    @property
    def condition_channels(self):
        """The channels of the condition images of pairs, else None."""
        return self.form.condition_channels

    def resized(self, resolution):
        """The same images in another resolution."""
        return replace(self, form=replace(self.form, resolution=resolution))

    @property
    def kind(self):
        return f"images of {self.channels}x{written_sides(self.form.sides)}"

    @property
    def resizing(self):
        """A note such as "images of 28x28 are resized to 8x8"; None if the images have that size already."""
        height, width = self.form.sides
        if self.size == (width, height):
            return None
        given = "several sizes" if self.size is None else written_sides(self.size[::-1])
        return f"images of {given} are resized to {height}x{width}"

    network_class = DDPMUNet2DModel

    @property
    def network_options(self):
        size, depth = {"sample_size": config_size(self.resolution)}, self.form.depth
        if depth is not None:
            size |= {"value_range": list(depth.value_range), "levels": depth.levels}
        if self.value_limits is not None:
            size |= {"condition_value_range": list(self.value_limits)}
        if self.condition_channels is None:
            return size | {"in_channels": self.channels}
        channels = self.channels + self.condition_channels
        return size | {"in_channels": channels, "condition_channels": self.condition_channels}

    @property
    def scheduler_options(self):
        """Empty, because the scheduler's defaults suit images."""
        return {}

    def check_batch_fits(self, batch_size):
        check_fits_memory(
            f"resolution={self.resolution}: a batch of {batch_size} images takes",
            batch_size * self.form.float_bytes,
            "choose a smaller --resolution or --batch_size",
        )
