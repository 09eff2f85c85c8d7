"""The classifier of noisy images: the encoder half of a U-Net, and a pooling by attention."""

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import HunyuanDiTAttentionPool, TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, get_down_block
from torch import nn

from ddpm_hf.schedulers.config_checks import check_choice

DOWN_BLOCK_TYPES = ("DownBlock2D", "AttnDownBlock2D")
TIME_SCALE_SHIFTS = ("default", "scale_shift")
# What stands for a block where levels halve the image in this way; `DownBlock2D` itself takes a convolution alone.
RESAMPLING_BLOCKS = {"conv": {}, "resnet": {"DownBlock2D": "ResnetDownsampleBlock2D"}}


class NoisyImageClassifier(ModelMixin, ConfigMixin):
    r"""Predicts the class of x_0 from x_t and t: :math:`p_\phi(y | x_t, t) = softmax(logits)`.

    It has the down and middle blocks of [`UNet2DModel`], and pools their output with one attention query at the mean
    of all positions (Dhariwal & Nichol 2021, section 4, appendices H and I). The gradient of log p_phi with respect to
    x_t steers the sampling of a diffusion model.

    Args:
        sample_size (`int` or `tuple[int, int]`): height and width of the images, fixed because the pooling has an
            embedding for each position.
        in_channels (`int`): channels of the images.
        num_classes (`int`): labels are 0 .. num_classes - 1.
        block_out_channels (`tuple[int, ...]`): channels of each level; every level but the last halves the image. All
            are multiples of `norm_num_groups`, and with attention (always the last) of `attention_head_dim`.
        down_block_types (`tuple[str, ...]`): `"DownBlock2D"`, or `"AttnDownBlock2D"` with attention, for each level.
        layers_per_block (`int`): residual blocks of each level.
        attention_head_dim (`int`): channels of each attention head.
        norm_num_groups (`int`), norm_eps (`float`): parameters of the group normalizations.
        dropout (`float`): dropout probability in the residual blocks.
        resnet_time_scale_shift (`str`): how blocks take t: `"scale_shift"`, as in the paper, or `"default"`, added.
        flip_sin_to_cos (`bool`), freq_shift (`int`): parameters of the embedding of t.
        downsample_type (`str`): levels halve the image by a convolution, `"conv"`, or, as the classifiers of the
            paper, inside a residual block, `"resnet"`.
        attn_norm_num_groups (`int`, *optional*): groups of the normalization before the attention of the middle block;
            without it, that attention has one only with `resnet_time_scale_shift="default"`. The paper's have 32.
        time_embedding_channels (`int`, *optional*): number of sines and cosines of t; by default the first width.
        timestep_scale (`float`): the classifier embeds `timestep_scale` t, as [`ADMUNet2DModel`].
        id2label (`dict`, *optional*): names of the classes by label, as in [`DDPMUNet2DModel`].

    Raises:
        ValueError: for arguments of levels that do not fit together, and for images or timesteps of a wrong shape.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 28,
        in_channels: int = 1,
        num_classes: int = 10,
        block_out_channels: tuple[int, ...] = (32, 64, 96),
        down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        layers_per_block: int = 1,
        attention_head_dim: int = 32,
        norm_num_groups: int = 8,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        resnet_time_scale_shift: str = "scale_shift",
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        id2label: dict[str, str] | None = None,
        downsample_type: str = "conv",
        attn_norm_num_groups: int | None = None,
        time_embedding_channels: int | None = None,
        timestep_scale: float = 1.0,
    ):
        super().__init__()
        _check_config(self.config)
        first, last = block_out_channels[0], block_out_channels[-1]
        time_channels = time_embedding_channels or first
        time_embed_dim = 4 * time_channels
        shared = {
            "temb_channels": time_embed_dim,
            "resnet_eps": norm_eps,
            "resnet_act_fn": "silu",
            "resnet_groups": norm_num_groups,
            "attention_head_dim": attention_head_dim,
            "resnet_time_scale_shift": resnet_time_scale_shift,
            "dropout": dropout,
        }
        self.time_proj = Timesteps(time_channels, flip_sin_to_cos, freq_shift)
        self.time_embedding = TimestepEmbedding(time_channels, time_embed_dim)
        self.conv_in = nn.Conv2d(in_channels, first, kernel_size=3, padding=1)
        self.down_blocks = nn.ModuleList(_down_blocks(self.config, shared))
        self.mid_block = UNetMidBlock2D(in_channels=last, attn_groups=attn_norm_num_groups, **shared)
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, last, eps=norm_eps)
        self.conv_act = nn.SiLU()
        height, width = (_downsampled(side, len(block_out_channels) - 1) for side in _height_and_width(sample_size))
        self.pool = HunyuanDiTAttentionPool(height * width, last, last // attention_head_dim, num_classes)

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        """`auto_map` says where diffusers finds the code, and is no option of the network."""
        options = {name: value for name, value in config_dict.items() if name != "auto_map"}
        return super().extract_init_dict(options, **kwargs)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor | int) -> torch.Tensor:
        """The logits of the classes.

        Args:
            sample (`torch.Tensor`): x_t, (B, C, H, W).
            timestep (`torch.Tensor` or `int`): t, 0-based, () or (B,).

        Returns:
            `torch.Tensor`: (B, num_classes).
        """
        timesteps = torch.as_tensor(timestep, device=sample.device)
        self._check_shapes(sample, timesteps)
        timesteps = timesteps * self.config.timestep_scale
        # The embedding is made in float32, whatever the precision of the weights.
        embedding = self.time_embedding(self.time_proj(timesteps.expand(len(sample))).to(sample.dtype))
        hidden = self.conv_in(sample)
        for block in self.down_blocks:
            hidden, _ = block(hidden, embedding)
        hidden = self.mid_block(hidden, embedding)
        hidden = self.conv_act(self.conv_norm_out(hidden))
        return self.pool(hidden.flatten(2).transpose(1, 2))  # positions as a sequence: (B, H' W', C')

    def _check_shapes(self, sample, timesteps):
        expected = (self.config.in_channels, *_height_and_width(self.config.sample_size))
        if sample.ndim != 4 or tuple(sample.shape[1:]) != expected:
            raise ValueError(
                f"Images of shape {tuple(sample.shape)} are not for this classifier, which takes (batch, "
                f"{', '.join(map(str, expected))}): resize them, or train a classifier for images like these."
            )
        if timesteps.shape not in ((), sample.shape[:1]):
            raise ValueError(
                f"timestep of shape {tuple(timesteps.shape)} must be one for all images, (), or one for each of "
                f"{len(sample)}."
            )


def _height_and_width(sample_size):
    return (sample_size, sample_size) if isinstance(sample_size, int) else tuple(sample_size)


def _downsampled(side, times):
    """The side after convolutions of stride 2 with padding 1, each of which gives ceil(side / 2)."""
    return -(-side // 2**times)


def _down_blocks(config, shared):
    """Yields the block of each level; `shared` are the arguments that all blocks have in common."""
    widths = config.block_out_channels
    for level, block_type in enumerate(config.down_block_types):
        yield get_down_block(
            RESAMPLING_BLOCKS[config.downsample_type].get(block_type, block_type),
            num_layers=config.layers_per_block,
            in_channels=widths[max(level - 1, 0)],
            out_channels=widths[level],
            add_downsample=level < len(widths) - 1,
            downsample_padding=1,
            downsample_type=config.downsample_type,
            **shared,
        )


def _check_config(config):
    _check_levels(
        *(config.block_out_channels, config.down_block_types, config.norm_num_groups, config.attention_head_dim)
    )
    check_choice("resnet_time_scale_shift", config.resnet_time_scale_shift, TIME_SCALE_SHIFTS)
    check_choice("downsample_type", config.downsample_type, tuple(RESAMPLING_BLOCKS))
    if config.num_classes < 2:
        raise ValueError(
            f"num_classes={config.num_classes} must be at least 2: with fewer there is nothing to tell apart."
        )


def _check_levels(block_out_channels, down_block_types, norm_num_groups, attention_head_dim):
    if not block_out_channels or len(block_out_channels) != len(down_block_types):
        raise ValueError(
            f"block_out_channels={block_out_channels} and down_block_types={down_block_types} must have one entry for "
            "each level, and there must be one level at least."
        )
    unknown = set(down_block_types) - set(DOWN_BLOCK_TYPES)
    if unknown:
        raise ValueError(f"down_block_types={down_block_types} may have {' and '.join(DOWN_BLOCK_TYPES)} only.")
    for channels in block_out_channels:
        if channels % norm_num_groups:
            raise ValueError(
                f"block_out_channels={block_out_channels} must be multiples of norm_num_groups={norm_num_groups}."
            )
    types = (*down_block_types[:-1], "AttnDownBlock2D")  # the middle block and the pooling have attention too
    for channels, block_type in zip(block_out_channels, types, strict=True):
        if block_type == "AttnDownBlock2D" and channels % attention_head_dim:
            raise ValueError(
                f"block_out_channels={block_out_channels} must be multiples of "
                f"attention_head_dim={attention_head_dim} where there is attention, as in the last level."
            )
