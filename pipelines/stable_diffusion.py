"""Models of text and latents as stock `StableDiffusionPipeline`s, which load without our code."""

import copy

import torch
from diffusers import DDIMScheduler

from ddpm_hf.samples.latent_units import centred
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler

# The class of transformers is known by its name, because importing it takes seconds.
STOCK_ENCODER = "CLIPTextModel"
# The stock pipeline refuses images whose sides are no multiples of this.
STOCK_MULTIPLE = 8


def why_not_stable_diffusion(samples, text_encoder, scheduler):
    """Why a model is none for the stock pipeline, as the rest of a sentence; None if it is one.

    Args:
        samples (`SampleKind`): of the network.
    """
    if not samples.needs_vae:
        return "it makes pixels and no latents"
    if type(text_encoder).__name__ != STOCK_ENCODER:
        return f"its text encoder is a {type(text_encoder).__name__} and no {STOCK_ENCODER}"
    if any(side % STOCK_MULTIPLE for side in samples.output_shape[1:]):
        height, width = samples.output_shape[1:]
        return f"its images are of {height}x{width}, whose sides are no multiples of {STOCK_MULTIPLE}"
    if not isinstance(scheduler, GaussianDiffusionScheduler):
        return f"its scheduler is a {type(scheduler).__name__}"
    return None


def stable_diffusion(pipeline):
    """The stock [`StableDiffusionPipeline`] of a [`GaussianDiffusionPipeline`] of text and latents.

    The scheduler becomes a [`DDIMScheduler`] of the same process, whose steps begin at the last timestep. The stock
    pipeline ignores a `shift_factor`, so that this goes into the weights of the autoencoder.
    """
    from diffusers import StableDiffusionPipeline  # takes seconds, which models without text need not wait

    of_stock = {"clip_sample": False, "steps_offset": 1, "timestep_spacing": "trailing"}
    return StableDiffusionPipeline(
        vae=without_shift(pipeline.vae),
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        unet=pipeline.unet,
        scheduler=DDIMScheduler.from_config(pipeline.scheduler.config, **of_stock),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def without_shift(vae):
    """An autoencoder whose latents have their `shift_factor` taken off; the same one if it has none."""
    shift = vae.config.get("shift_factor")
    if not shift:
        return vae
    moved = copy.deepcopy(vae)
    moved.register_to_config(shift_factor=0.0)
    return centred(moved, torch.full((vae.config.latent_channels,), shift, device=vae.device, dtype=vae.dtype))
