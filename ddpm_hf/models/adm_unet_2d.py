"""The U-Nets of improved-diffusion and guided-diffusion that a stock `UNet2DModel` cannot hold."""

import torch
from diffusers import ModelMixin  # noqa: F401  the loader looks for ModelMixin in this module
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps

from ddpm_hf.models.unet_2d import DDPMUNet2DModel


class ADMUNet2DModel(DDPMUNet2DModel):
    """[`DDPMUNet2DModel`] with three options of the codes of Nichol & Dhariwal 2021 and Dhariwal & Nichol 2021.

    A stock `UNet2DModel` would load its weights and compute something else, so its saved files name this class.

    Args:
        num_attention_heads (`int`, *optional*): the number of heads of every attention, whatever its width; without
            it, `attention_head_dim` gives the width of a head.
        time_embedding_channels (`int`, *optional*): the number of sines and cosines of t; by default the width of the
            first level. The embedding has `time_embedding_dim` channels after its layers.
        timestep_scale (`float`): the network embeds `timestep_scale` t. It is 1000 / T where a model of T timesteps
            was trained with rescaled timesteps.
        kwargs: arguments of [`DDPMUNet2DModel`].

    Raises:
        ValueError: for a number of heads that does not divide the width of a level with attention.
    """

    _own_keys = (
        *DDPMUNet2DModel._own_keys,
        *("num_attention_heads", "time_embedding_channels", "timestep_scale"),
    )

    def __init__(self, num_attention_heads=None, time_embedding_channels=None, timestep_scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.register_to_config(
            num_attention_heads=num_attention_heads,
            time_embedding_channels=time_embedding_channels,
            timestep_scale=timestep_scale,
        )
        if time_embedding_channels is not None:
            hidden = self.time_embedding.linear_2.out_features
            self.time_proj = Timesteps(time_embedding_channels, self.config.flip_sin_to_cos, self.config.freq_shift)
            self.time_embedding = TimestepEmbedding(time_embedding_channels, hidden)
        if num_attention_heads is not None:
            for attention in (module for module in self.modules() if isinstance(module, Attention)):
                _divide_into_heads(attention, num_attention_heads)

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        """As [`DDPMUNet2DModel.forward`]; the timestep is the scheduler's, before `timestep_scale`."""
        if self.config.timestep_scale != 1:
            timestep = torch.as_tensor(timestep, device=sample.device) * self.config.timestep_scale
        return super().forward(sample, timestep, class_labels, return_dict)


def _divide_into_heads(attention, heads):
    width = attention.inner_dim
    if width % heads:
        raise ValueError(f"num_attention_heads={heads} must divide the width of each attention; one has {width}.")
    attention.heads = attention.sliceable_head_dim = heads
    attention.scale = (width // heads) ** -0.5
