"""Tiny models that are told a text: a stock Stable Diffusion pipeline of latents, and one of ours of pixels."""

import json

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.portable.packed_key import PACKED_KEY
from ddpm_hf.training.text_encoders import new_text_encoder, new_tokenizer

TEMPLATE = "a picture of a {label}"
TEXTS = ("a picture of a cat", "a picture of a dog")
CHAIN = {"num_train_timesteps": 20, "beta_end": 0.6, "clip_sample": False}
BLOCKS = {
    **{"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 2},
    **{"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "mid_block_type": "UNetMidBlock2DCrossAttn"},
    **{"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
}
VAE = {
    **{"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2},
    **{"block_out_channels": [4, 8], "latent_channels": 4, "norm_num_groups": 2, "sample_size": 8},
}


def text_parts(**sizes):
    """A network that is told a text, with its encoder and tokenizer."""
    torch.manual_seed(0)
    tokenizer = new_tokenizer(TEXTS)
    encoder = new_text_encoder(tokenizer).eval()
    unet = UNet2DConditionModel(cross_attention_dim=encoder.config.hidden_size, **BLOCKS | sizes)
    return {"unet": unet, "text_encoder": encoder, "tokenizer": tokenizer}


def save_stock(folder):
    """Grey images of 8x8 by latents (4, 4, 4)."""
    parts = text_parts(sample_size=4, in_channels=4, out_channels=4)
    parts["unet"].register_to_config(**{PACKED_KEY: {"autoencoder_factor": 2, "image_channels": 1}})
    vae = AutoencoderKL(in_channels=1, out_channels=1, **VAE)
    scheduler = DDIMScheduler(timestep_spacing="trailing", steps_offset=1, **CHAIN)
    no_checker = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return _saved(StableDiffusionPipeline(vae=vae, scheduler=scheduler, **parts, **no_checker), folder)


def save_of_pixels(folder):
    """Grey images of 8x8."""
    parts = text_parts(sample_size=8, in_channels=1, out_channels=1)
    return _saved(GaussianDiffusionPipeline(scheduler=GaussianDiffusionScheduler(**CHAIN), **parts), folder)


def _saved(pipeline, folder):
    pipeline.save_pretrained(folder)
    told = {"number": 2, "examples": list(TEXTS), "caption_column": None, "caption_template": TEMPLATE}
    (folder / "captions.json").write_text(json.dumps(told), encoding="utf-8")
    return str(folder)
