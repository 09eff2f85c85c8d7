r"""Latents of an autoencoder (Rombach et al. 2022): their units, and the way from images to them and back.

The encoder gives each image a normal distribution :math:`q(z | x) = N(\mu, \mathrm{diag}(\sigma^2))` over z, whose
moments are :math:`\mu` and :math:`\log \sigma^2`. What a diffusion model learns is x_0 = (z - shift) * scale, with
the autoencoder's `shift_factor` and `scaling_factor`, so that its variance is about 1 (their appendix G).
"""

import math

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution


def factor_of(vae_config):
    """By how much the sides of an image are larger than those of its latents."""
    return 2 ** (len(vae_config["block_out_channels"]) - 1)


def from_latent_units(vae_config, x_0):
    """z for the decoder from x_0 of a diffusion model."""
    return x_0 / vae_config["scaling_factor"] + (vae_config.get("shift_factor") or 0.0)


def scaled_moments(vae_config, moments):
    r"""The moments of x_0 from those of z, (N, 2C, h, w): :math:`(\mu - shift) s` and :math:`\log (\sigma s)^2`."""
    mean, log_variance = moments.chunk(2, dim=1)
    scale = vae_config["scaling_factor"]
    # Clamped as diffusers does where it draws z.
    log_variance = log_variance.clamp(-30, 20) + 2 * math.log(scale)
    return torch.cat([(mean - (vae_config.get("shift_factor") or 0.0)) * scale, log_variance], dim=1)


def drawn_from(moments):
    r"""A draw :math:`\mu + \sigma \epsilon` for moments (N, 2C, h, w), on their device."""
    return DiagonalGaussianDistribution(moments).sample()


@torch.no_grad()
def moments_of(vae, images):
    """The moments (N, 2C, h, w) of q(z | x), in float32, of images (N, C, H, W) in [-1, 1]."""
    return vae.encode(images.to(vae.device, vae.dtype)).latent_dist.parameters.float()


@torch.no_grad()
def decode_latents(vae, x_0):
    """The images (N, C, H, W), in about [-1, 1], of x_0 of a diffusion model (N, c, h, w)."""
    return vae.decode(from_latent_units(vae.config, x_0).to(vae.dtype), return_dict=False)[0].float()


@torch.no_grad()
def centred(vae, means):
    r"""Takes the means (C,) of the channels off the latents, in place; the reconstructions stay as they are.

    The stock `StableDiffusionPipeline` ignores a `shift_factor`, so that the means go into the 1x1 convolutions beside
    the latents: :math:`\mu' = \mu - m`, and :math:`W z + b = W z' + (b + W m)`.
    """
    vae.quant_conv.bias[: len(means)] -= means
    vae.post_quant_conv.bias += vae.post_quant_conv.weight.flatten(1) @ means
    return vae
