"""Images as samples: floats (C, H, W) in [-1, 1] for a network, in the data levels of 8 bits, or values of a range."""

import torch
from diffusers.image_processor import VaeImageProcessor

from ddpm_hf.portable.config import own_value
from ddpm_hf.samples.kind import SampleKind, sides_of
from ddpm_hf.samples.value_range import depth_of_network, from_unit_range, value_range_of

EIGHT_BITS = 256
# How far from a level of the grid a float image may be, in levels: rounding of float32 on a fine grid.
GRID_TOLERANCE = 0.01
# How far outside of [-1, 1] a float image may be: rounding.
RANGE_TOLERANCE = 0.001
IMAGE_PROCESSOR = VaeImageProcessor(vae_scale_factor=1)


class Images(SampleKind):
    """Images (C, H, W). `value_range` of the config is that of data which are not of 8 bits, `levels` their levels."""

    name, output_type, levels = "images", "pil", EIGHT_BITS
    side_names = ("height", "width")
    usual_std = 0.5

    @staticmethod
    def is_of(config):
        """Whether a network makes images: its config has a `sample_size`, which may be None."""
        return len(sides_of(config)) > 0

    def image_shape(self, otherwise):
        return self.shape

    def sides_of_output(self, height, width):
        sides = tuple(own if side is None else side for side, own in zip((height, width), self.sides, strict=True))
        if None in sides:
            raise ValueError(f"height={height} and width={width}: the model's config has no sample_size, give both.")
        return sides

    def levels_of_data(self):
        return self.levels if self.value_range is None else own_value(self.config, "levels")

    @property
    def value_range(self):
        """(low, high) of data that are not of 8 bits; None for 8 bits from 0 to 255."""
        return value_range_of(self.config)

    @property
    def depth(self):
        """The [`Depth`] of data that are not of 8 bits, else None."""
        return depth_of_network(self.config)

    def agreed_output_type(self, output_type):
        if self.value_range is None:
            return super().agreed_output_type(output_type)
        if output_type == "pil":
            raise ValueError(
                "output_type='pil' would cut the values to 8 bits, and this model was trained on others: take 'np', "
                "in the values of the data, 'pt' or 'latent'."
            )
        return output_type or "np"

    def to_output(self, x_0, output_type):
        """A list of PIL images, or `np` (B, H, W, C) or `pt` (B, C, H, W), both in [0, 1].

        Where the data are not of 8 bits, `np` has their values and their type.
        """
        if output_type == "np" and self.value_range is not None:
            return from_unit_range(x_0.permute(0, 2, 3, 1).cpu().numpy(), self.value_range, self.levels)
        return IMAGE_PROCESSOR.postprocess(x_0, output_type=output_type)

    def check_data(self, batch, first=0):
        """Raises ValueError for images of another shape, or with a value off the grid of `levels`.

        Args:
            batch (`torch.Tensor`): levels 0 .. levels - 1 as integers, or floats in [-1, 1].
            first (`int`): the number of the first image, for the message.
        """
        super().check_data(batch, first)
        if self.levels is None:
            self._check_continuous(batch, first)
            return
        levels, codes = self.levels, self._codes(batch)
        off_grid = (codes - codes.round()).abs() > GRID_TOLERANCE
        outside = (codes < -GRID_TOLERANCE) | (codes > levels - 1 + GRID_TOLERANCE) | codes.isnan()
        bad = (off_grid | outside).flatten(1)
        if not bad.any():
            return
        image = bad.any(1).nonzero()[0].item()
        value = batch[image].flatten()[bad[image]][0].item()
        if batch.is_floating_point():
            raise ValueError(
                f"Image {first + image} has the value {value:.6g}: images must be in [-1, 1], on the grid of "
                f"levels={levels}, 2 k / {levels - 1} - 1 for whole k. Pass uint8 images, or the `levels` that the "
                "data was quantised to."
            )
        raise ValueError(f"Image {first + image} has the level {value}: levels={levels} are 0 .. {levels - 1}.")

    def _check_continuous(self, batch, first):
        bad = (~(batch.abs() <= 1 + RANGE_TOLERANCE)).flatten(1).any(1)
        if not batch.is_floating_point() or bad.any():
            place = first + (bad.nonzero()[0].item() if bad.any() else 0)
            raise ValueError(
                f"Image {place} is of {batch.dtype}, with values out of [-1, 1]: give floats in that range."
            )

    def from_data(self, batch):
        """Images that passed `check_data` as float32 in [-1, 1], exactly on the grid if there are levels."""
        if self.levels is None:
            return batch.float()
        return self._codes(batch).round_().mul_(2 / (self.levels - 1)).sub_(1)

    def _codes(self, images):
        """Levels 0 .. levels - 1, as floats that are not rounded."""
        return (images.float() + 1) * ((self.levels - 1) / 2) if images.is_floating_point() else images.float()

    def in_range(self, batch):
        low, high = batch.aminmax()
        return bool(low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE)

    def random_data(self, number):
        """Noise in the form of a data set's images, (N, C, H, W), uint8."""
        return torch.randint(EIGHT_BITS, (number, self.data_channels, *self.sides), dtype=torch.uint8)
