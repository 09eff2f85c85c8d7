"""Points as samples: vectors (d,) of real numbers, which a network has standardised."""

import math

import torch

from ddpm_hf.samples.kind import SampleKind, sides_of


class Points(SampleKind):
    """Points (d,): d channels and no sides. `data_mean` and `data_std` of the config are the data's own units."""

    name, output_type = "points", "np"
    # The last noise of a recipe may be clipped to a number of pixels.
    recipe_changes = {"clip_variance_pixels": None}  # noqa: RUF012

    @staticmethod
    def is_of(config):
        """Whether a network makes points: its config has no `sample_size`."""
        return len(sides_of(config)) == 0

    def __init__(self, config, levels=None):
        if levels is not None:
            raise ValueError(f"levels={levels} are of images; points are continuous: leave it out.")
        super().__init__(config)

    def agreed_output_type(self, output_type):
        if output_type == "pil":
            raise ValueError("output_type='pil' is for images; this model makes points: take 'np', 'pt' or 'latent'.")
        return super().agreed_output_type(output_type)

    def to_output(self, x_0, output_type):
        """(B, d) in the data's own units, as an array for `np` and as a tensor for `pt`."""
        points = self.in_data_units(x_0)
        return points.cpu().numpy() if output_type == "np" else points

    def in_data_units(self, points):
        """Points as the network has them, (B, d), as the data were before they were standardised."""
        if self.config.get("data_mean") is None:
            return points
        return points * points.new_tensor(self.config["data_std"]) + points.new_tensor(self.config["data_mean"])

    def check_data(self, batch, first=0):
        super().check_data(batch, first)
        bad = (~batch.isfinite()).any(1)
        if bad.any():
            raise ValueError(f"Point {first + bad.nonzero()[0].item()} has a value that is not finite.")

    def from_data(self, batch):
        """Points that passed `check_data` as float32."""
        return batch.float()

    def random_data(self, number):
        """Noise in the form of standardised points, (N, d), float32."""
        return torch.randn(number, *self.shape)

    def bound_note(self, bits):
        in_data_units = self.bits_in_data_units(bits)
        return f" of the density of the standardised points, {in_data_units:.4f} in their own unit"

    def bits_in_data_units(self, bits):
        """Bits per dimension in the data's own units: a density of x is that of (x - mean) / std over std."""
        std = self.config.get("data_std")
        return bits if std is None else bits + sum(map(math.log2, std)) / len(std)
