"""What is measured of a trained autoencoder: the units of its latents, and its reconstructions."""

import math

import numpy as np
import torch

from ddpm_hf.data import to_model_range
from ddpm_hf.pipelines.image_grids import enlargement, image_grid, side_by_side
from ddpm_hf.samples import kind_of_batch
from ddpm_hf.samples.latent_units import centred, drawn_from, moments_of

# Images by which the units of the latents are measured; their error falls with the number of all values.
MOST_IMAGES_OF_UNITS = 2000
# A step of 8 bits: an image that is reconstructed exactly has a PSNR of about 59 dB, and not of infinity.
LEAST_MEAN_SQUARE = (1 / 255) ** 2 / 12


def with_units(vae, images, batch_size):
    r"""Centres the latents and writes `scaling_factor`, :math:`1 / \sqrt{E[(z - m)^2]}`, into the config, in place.

    m are the means of the channels over the data, z is drawn from q(z | x), and the mean square is over all values
    (Rombach et al. 2022, appendix G). The `shift_factor` is 0 (`latent_units.centred` says why).

    Args:
        vae (`AutoencoderKL`): a trained autoencoder.
        images: a data set of `ddpm_hf.data`.
    """
    chosen = np.linspace(0, len(images) - 1, min(len(images), MOST_IMAGES_OF_UNITS)).astype(int)
    devices = [] if vae.device.type == "cpu" else [vae.device]
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        latents = [
            drawn_from(moments_of(vae, to_model_range(images.__getitems__(rows)["images"])))
            for rows in np.array_split(chosen, math.ceil(len(chosen) / batch_size))
        ]
    latents = torch.cat(latents)
    means = latents.mean((0, 2, 3))
    variance = (latents - means[:, None, None]).square().mean()
    centred(vae, means)
    vae.register_to_config(scaling_factor=variance.rsqrt().item(), shift_factor=0.0)
    return vae


@torch.no_grad()
def reconstructions(vae, images, batch_size):
    """The images (N, C, H, W), in [-1, 1], decoded from the means of q(z | x); on the device of `images`."""
    parts = [vae(part.to(vae.device, vae.dtype)).sample.float().clamp(-1, 1) for part in images.split(batch_size)]
    return torch.cat(parts).to(images.device)


def psnr(images, reconstructed):
    r"""The peak signal-to-noise ratio of each image in dB, (N,): :math:`10 \log_{10} (1 / MSE)`, values in [0, 1].

    Args:
        images, reconstructed (`torch.Tensor`): (N, C, H, W) in [-1, 1].
    """
    mean_square = ((images - reconstructed) / 2).square().flatten(1).mean(1)
    return -10 * mean_square.clamp(min=LEAST_MEAN_SQUARE).log10()


def comparison_grid(images, reconstructed):
    """A PIL image of all images, each with its reconstruction on its right."""
    kind, factor = kind_of_batch(images), enlargement(max(images.shape[2:]))
    pairs = zip(*(kind.to_output(each, "pil") for each in (images, reconstructed)), strict=True)
    return image_grid([side_by_side(pair, factor) for pair in pairs])
