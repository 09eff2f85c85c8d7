r"""Latents of an autoencoder (Rombach et al. 2022): their units, and the way from images to them and back.

The encoder gives each image a normal distribution :math:`q(z | x) = N(\mu, \mathrm{diag}(\sigma^2))` over z, whose
moments are :math:`\mu` and :math:`\log \sigma^2`. What a diffusion model learns is x_0 = (z - shift) * scale, with
the autoencoder's `shift_factor` and `scaling_factor`, so that its variance is about 1 (their appendix G).
"""

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution


def factor_of(vae_config):
    """By how much the sides of an image are larger than those of its latents."""
    return 2 ** (len(vae_config["block_out_channels"]) - 1)


def to_latent_units(vae_config, z):
    """x_0 of a diffusion model from z of the encoder."""
    return (z - (vae_config.get("shift_factor") or 0.0)) * vae_config["scaling_factor"]


def from_latent_units(vae_config, x_0):
    """z for the decoder from x_0 of a diffusion model."""
    return x_0 / vae_config["scaling_factor"] + (vae_config.get("shift_factor") or 0.0)


def drawn_latents(vae_config, moments):
    r"""x_0 drawn from q(z | x): :math:`z = \mu + \sigma \epsilon`, on the device of the moments (N, 2C, h, w)."""
    return to_latent_units(vae_config, DiagonalGaussianDistribution(moments).sample())


@torch.no_grad()
def moments_of(vae, images):
    """The moments (N, 2C, h, w) of q(z | x), in float32, of images (N, C, H, W) in [-1, 1]."""
    return vae.encode(images.to(vae.device, vae.dtype)).latent_dist.parameters.float()


@torch.no_grad()
def decode_latents(vae, x_0):
    """The images (N, C, H, W), in about [-1, 1], of x_0 of a diffusion model (N, c, h, w)."""
    return vae.decode(from_latent_units(vae.config, x_0).to(vae.dtype), return_dict=False)[0].float()
