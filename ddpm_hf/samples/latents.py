"""Latents as samples: x_0 (C, h, w) with a variance of about 1, which an autoencoder decodes to images."""

import torch

from ddpm_hf.portable.config import own_value
from ddpm_hf.samples.images import IMAGE_PROCESSOR
from ddpm_hf.samples.kind import SampleKind
from ddpm_hf.samples.latent_units import decode_latents, drawn_from, factor_of, moments_of, scaled_moments


class Latents(SampleKind):
    """Latents (C, h, w), of images with `autoencoder_factor` times these sides and `image_channels`, by the config.

    Attributes:
        vae (`AutoencoderKL`, *optional*): the autoencoder, which a pipeline gives.
    """

    name, output_name, output_type = "latents", "images", "pil"
    side_names = ("height", "width")
    needs_vae = True
    # The last noise of a recipe may be clipped to a number of pixels.
    recipe_changes = {"clip_variance_pixels": None}  # noqa: RUF012
    vae = None

    @staticmethod
    def is_of(config):
        """Whether a network was trained in the latents of an autoencoder, by its config."""
        return own_value(config, "autoencoder_factor") is not None

    def __init__(self, config, levels=None):
        if levels is not None:
            raise ValueError(f"levels={levels} are of images; latents are continuous: leave it out.")
        super().__init__(config)

    @property
    def output_shape(self):
        factor = own_value(self.config, "autoencoder_factor")
        return own_value(self.config, "image_channels"), *(
            None if side is None else factor * side for side in self.sides
        )

    @property
    def stored_channels(self):
        return self.output_shape[0]

    def sides_of_output(self, height, width):
        factor, own = own_value(self.config, "autoencoder_factor"), self.output_shape[1:]
        sides = tuple(own if side is None else side for side, own in zip((height, width), own, strict=True))
        if any(side is None or side % factor for side in sides):
            raise ValueError(
                f"height={height} and width={width}: the images of this model have sides divisible by {factor}, by "
                "which its autoencoder makes them smaller."
            )
        return tuple(side // factor for side in sides)

    def image_shape(self, otherwise):
        return self.output_shape

    def decoded_by(self, vae):
        """These samples, with their autoencoder; ValueError for one of other latents or images, and for none."""
        config, channels = self.config, own_value(self.config, "image_channels")
        if vae is None:
            raise ValueError("The network makes latents: the pipeline needs the vae that decodes them.")
        wanted = {
            "latent_channels": (vae.config.latent_channels, self.channels),
            "out_channels": (vae.config.out_channels, channels),
            "factor": (factor_of(vae.config), own_value(config, "autoencoder_factor")),
        }
        for name, (given, needed) in wanted.items():
            if given != needed:
                raise ValueError(
                    f"The vae has {name}={given}, and the network was trained in latents with {name}={needed}: give "
                    "the vae of its training."
                )
        self.vae = vae
        return self

    def to_output(self, x_0, output_type):
        """The decoded images, as of a model of images: PIL images, or `np` (B, H, W, C) or `pt` (B, C, H, W)."""
        return IMAGE_PROCESSOR.postprocess(self.decoded(x_0), output_type=output_type)

    def decoded(self, x_0):
        return decode_latents(self.decoded_by(self.vae).vae, x_0)

    def encoded(self, images):
        """x_0 of images: the means of the encoder's distributions, in the units of the network."""
        vae = self.decoded_by(self.vae).vae
        return scaled_moments(vae.config, moments_of(vae, images)).chunk(2, dim=1)[0].to(images)

    def drawn(self, data):
        """x_0 drawn from moments (N, 2C, h, w), or (N, 2, 2C, h, w): those of an image, and of its mirror image.

        The latter are taken in turn at random, because the latents of a mirrored image are not mirrored latents.
        """
        if data.ndim == 5:
            mirrored = torch.rand(len(data), 1, 1, 1, device=data.device) < 0.5
            data = torch.where(mirrored, data[:, 1], data[:, 0])
        return drawn_from(data)

    def check_data(self, batch, first=0):
        if not batch.is_floating_point():
            raise ValueError(
                f"This model makes latents, and data from number {first} on are images: its density is of latents, "
                "which no bits per dimension of images compare with. Compare its samples instead."
            )
        super().check_data(batch, first)
        bad = (~batch.isfinite()).flatten(1).any(1)
        if bad.any():
            raise ValueError(f"Latent {first + bad.nonzero()[0].item()} has a value that is not finite.")

    def from_data(self, batch):
        """Latents that passed `check_data` as float32."""
        return batch.float()

    def random_data(self, number):
        """Moments of standard normals in the form of a data set's, (N, 2C, h, w), float32."""
        return torch.zeros(number, 2 * self.channels, *self.sides)
