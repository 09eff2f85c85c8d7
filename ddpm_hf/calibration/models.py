"""What `ddpm-hf calibrate` reads and writes: models of pixels, and of the latents of an autoencoder."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline
from diffusers.configuration_utils import FrozenDict

from ddpm_hf.errors import InputError
from ddpm_hf.hub.model_folder import check_weights_finite, load_pipeline
from ddpm_hf.hub.reading import read_index, reading
from ddpm_hf.samples.kind import sides_of

AUTOENCODERS = ("vae", "vqvae")


class CalibratedModel(NamedTuple):
    """pipeline: with a `unet` and a `scheduler`; image_config: that of the network, but of the size and channels of the
    images; encode: images in [-1, 1] to what the network takes, None where that is the same."""

    pipeline: DiffusionPipeline
    image_config: FrozenDict
    encode: Callable | None


def load_model(name, device):
    """A pipeline folder or repository: [`GaussianDiffusionPipeline`], or a stock one such as [`LDMPipeline`] with an
    unconditional `unet` on the latents of a `vae` or `vqvae`.

    Raises:
        InputError: for a latent model whose network takes more than latents and time, as text.
    """
    components = read_index(name)
    autoencoder = next((part for part in AUTOENCODERS if part in components), None)
    if autoencoder is None:
        pipeline = load_pipeline(name).to(device)
        return CalibratedModel(pipeline, pipeline.unet.config, None)
    if components.get("unet", [None, None])[1] != "UNet2DModel":
        raise InputError(
            f"{name} has the network {components.get('unet', [None, 'none'])[1]}; what can be calibrated is a UNet2DModel, "
            "which takes an image, or its latents, and the time."
        )
    with reading(name):
        pipeline = DiffusionPipeline.from_pretrained(name).to(device)
    check_weights_finite(name, {part: getattr(pipeline, part) for part in (autoencoder, "unet")})
    vae, unet = getattr(pipeline, autoencoder), pipeline.unet
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    size = {"sample_size": [side * factor for side in sides_of(unet.config)], "in_channels": vae.config.in_channels}
    return CalibratedModel(pipeline, FrozenDict(dict(unet.config) | size), _encoder(vae))


def _encoder(vae):
    @torch.no_grad()
    def encode(images):
        output = vae.encode(images.to(vae.dtype))
        # Of a Gaussian posterior the middle: its spread is small beside that of the latents.
        latents = output.latents if hasattr(output, "latents") else output.latent_dist.mode()
        return latents * vae.config.scaling_factor

    return encode


def save_model(model, scheduler, folder):
    """The pipeline with another scheduler.

    A stock pipeline of latents saves it as a stock one, which carries what only ours knows: `with_recipe`, or
    `GaussianDiffusionScheduler.from_config`, makes it ours again.
    """
    if model.encode is not None:
        stock = DDIMScheduler if scheduler.config.eta == 0 else DDPMScheduler
        scheduler = stock.from_config(scheduler.config)
    model.pipeline.register_modules(scheduler=scheduler)
    model.pipeline.save_pretrained(folder)
