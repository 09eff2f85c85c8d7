"""Reading and writing of the models that `ddpm-hf calibrate` takes: of pixels, or of an autoencoder's latents."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline
from diffusers.configuration_utils import FrozenDict

from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.discrete_chains import discrete_chain
from ddpm_hf.hub.model_folder import check_weights_finite, load_pipeline
from ddpm_hf.hub.reading import read_index, reading
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.samples.kind import sides_of
from ddpm_hf.schedulers.scheduling_score_sde import ScoreSDEScheduler

AUTOENCODERS = ("vae", "vqvae")


class CalibratedModel(NamedTuple):
    """A model and how images become its inputs.

    pipeline: has a `unet` and a `scheduler`. image_config: the config of the network with the size and channels of the
    images. encode: function of images in [-1, 1] to latents; None for a model of pixels.
    """

    pipeline: DiffusionPipeline
    image_config: FrozenDict
    encode: Callable | None


def load_model(name, device):
    """Loads a pipeline folder or repository as a [`CalibratedModel`].

    It becomes a [`GaussianDiffusionPipeline`], of latents too if `train --vae` made it, and a VP process in continuous
    time becomes its chain. A stock pipeline with an unconditional `unet` on the latents of a `vae` or `vqvae`, such as
    [`LDMPipeline`], stays as it is.

    Raises:
        InputError: for a latent model whose network takes further inputs, such as text.
    """
    components = read_index(name)
    autoencoder = next((part for part in AUTOENCODERS if part in components), None)
    is_ours = isinstance(components["_class_name"], list)
    if autoencoder is None or is_ours:
        pipeline = load_pipeline(name).to(device)
        if isinstance(pipeline.scheduler, ScoreSDEScheduler):
            pipeline.register_modules(scheduler=discrete_chain(pipeline.scheduler, "be calibrated"))
        return CalibratedModel(pipeline, pipeline.unet.config, pipeline.samples.encoded if autoencoder else None)
    if components.get("unet", [None, None])[1] != "UNet2DModel":
        raise InputError(
            f"{name} has the network {components.get('unet', [None, 'none'])[1]}; only a UNet2DModel, which takes an "
            "image, or its latents, and the time, can be calibrated."
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
        # The mode of a Gaussian posterior is enough, because its spread is small beside that of the latents.
        latents = output.latents if hasattr(output, "latents") else output.latent_dist.mode()
        return latents * vae.config.scaling_factor

    return encode


def save_model(model, scheduler, folder):
    """Saves the pipeline with another scheduler.

    A stock pipeline of latents saves a stock scheduler, whose config keeps our keys: `with_recipe` or
    `GaussianDiffusionScheduler.from_config` makes it ours again.
    """
    if not isinstance(model.pipeline, GaussianDiffusionPipeline):
        stock = DDIMScheduler if scheduler.config.eta == 0 else DDPMScheduler
        scheduler = stock.from_config(scheduler.config)
    model.pipeline.register_modules(scheduler=scheduler)
    model.pipeline.save_pretrained(folder)
