r"""The networks of score SDEs (Song et al. 2021, appendix H): DDPM++ and NCSN++, from diffusers' own blocks."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import FirDownsample2D, downsample_2d
from diffusers.models.embeddings import GaussianFourierProjection, TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DOutput
from diffusers.models.upsampling import upsample_2d
from torch import nn

from ddpm_hf.models.image_sides import check_halves
from ddpm_hf.schedulers.config_checks import check_choice

NCSNPP_NORM_EPS = 1e-6
FIR_KERNEL = (1, 3, 3, 1)


class NCSNpp2DModel(ModelMixin, ConfigMixin):
    r"""A U-Net with BigGAN blocks, rescaled residual sums, and pyramids of the input and of the output.

    Every residual sum is divided by :math:`\sqrt 2` with `skip_rescale`. A level changes its resolution inside a
    residual block. The input can come in at every resolution (`progressive_input`), and the output can be the sum of
    outputs of every resolution (`progressive`). The weights have the names of a `UNet2DModel` with `SkipDownBlock2D`
    and `SkipUpBlock2D`, which holds such a network where its widths are at least 128.

    Args:
        sample_size (`int` or `tuple[int, int]`): height and width of the images.
        in_channels (`int`), out_channels (`int`): channels of x_t and of the output.
        block_out_channels (`tuple[int, ...]`): channels of each level.
        attention_levels (`tuple[int, ...]`): levels whose blocks are followed by attention; the middle always has it.
        layers_per_block (`int`): residual blocks of a level on the way down; one more on the way up.
        time_embedding_type (`str`): `"fourier"`, of log sigma, or `"positional"`, of a timestep.
        fir (`bool`): resolutions change by the filter (1, 3, 3, 1) instead of a mean of four and a repetition.
        skip_rescale (`bool`): whether residual sums are divided by sqrt(2).
        progressive (`str`): `"none"` or `"output_skip"`.
        progressive_input (`str`): `"none"`, `"input_skip"` or `"residual"`.
        center_input_sample (`bool`): whether the images are in [0, 1], and the network takes 2 x - 1.
        scale_by_sigma (`bool`): whether the output is divided by the noise level.
        sigma_min (`float`), sigma_max (`float`), num_scales (`int`): noise levels of a positional network that is
            divided by them: timestep i has sigma_max (sigma_min / sigma_max)^(i / (num_scales - 1)).
        dropout (`float`): dropout probability in the residual blocks.

    Shapes: sample (B, C, H, W), timestep () or (B,), sigma itself for `"fourier"`; the output is (B, C, H, W).

    Raises:
        ValueError: for a choice that there is not, and for images whose sides the levels cannot halve.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] | None = 32,
        in_channels: int = 3,
        out_channels: int = 3,
        block_out_channels: tuple[int, ...] = (128, 256, 256, 256),
        attention_levels: tuple[int, ...] = (1,),
        layers_per_block: int = 4,
        time_embedding_type: str = "positional",
        fir: bool = False,
        skip_rescale: bool = True,
        progressive: str = "none",
        progressive_input: str = "none",
        center_input_sample: bool = False,
        scale_by_sigma: bool = False,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        num_scales: int = 1000,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_choice("time_embedding_type", time_embedding_type, ("fourier", "positional"))
        check_choice("progressive", progressive, ("none", "output_skip"))
        check_choice("progressive_input", progressive_input, ("none", "input_skip", "residual"))
        first, last = block_out_channels[0], block_out_channels[-1]
        blocks = NCSNppBlocks(4 * first, dropout, fir, skip_rescale)
        if time_embedding_type == "fourier":
            self.time_proj = GaussianFourierProjection(first, scale=16)
        else:
            self.time_proj = Timesteps(first, flip_sin_to_cos=False, downscale_freq_shift=1)
        self.time_embedding = TimestepEmbedding((1 + (time_embedding_type == "fourier")) * first, 4 * first)
        self.conv_in = nn.Conv2d(in_channels, first, 3, padding=1)
        self.down_blocks, skips = ncsnpp_down_levels(self.config, blocks)
        self.mid_block = NCSNppMiddle(last, blocks)
        self.up_blocks = ncsnpp_up_levels(self.config, blocks, skips)
        self.conv_norm_out = nn.GroupNorm(_ncsnpp_groups(first), first, eps=NCSNPP_NORM_EPS)
        self.conv_out = nn.Conv2d(first, out_channels, 3, padding=1)

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        """The output for x_t and t; `class_labels` must be None, for the network has no classes."""
        if class_labels is not None:
            raise ValueError("This network has no classes: leave class_labels out.")
        check_halves(*sample.shape[-2:], len(self.config.block_out_channels))
        times = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        embedding = self.time_embedding(self.time_proj(times).to(self.dtype))
        x = 2 * sample - 1 if self.config.center_input_sample else sample
        hidden, pyramid = self.conv_in(x), x
        skips = [hidden]
        for block in self.down_blocks:
            hidden, pyramid = block(hidden, pyramid, embedding, skips)
        hidden, output = self.mid_block(hidden, embedding), 0
        for block in self.up_blocks:
            hidden, output = block(hidden, output, embedding, skips)
        output = self.conv_out(F.silu(self.conv_norm_out(hidden))) + output
        if self.config.scale_by_sigma:
            output = output / self._sigmas(times).to(output.dtype)[:, None, None, None]
        return UNet2DOutput(sample=output) if return_dict else (output,)

    def _sigmas(self, times):
        if self.config.time_embedding_type == "fourier":
            return times
        low, high, last = math.log(self.config.sigma_min), math.log(self.config.sigma_max), self.config.num_scales - 1
        return torch.exp(high + (low - high) * times.long().double() / last)


class NCSNppBlocks(NamedTuple):
    """The blocks of a network, which have these options in common."""

    temb_channels: int
    dropout: float
    fir: bool
    skip_rescale: bool

    @property
    def scale(self):
        """What every residual sum is divided by."""
        return math.sqrt(2) if self.skip_rescale else 1.0

    def resnet(self, in_channels, out_channels, up=False, down=False):
        """A BigGAN block; one that changes the resolution has a convolution in its shortcut at equal widths too."""
        return ResnetBlock2D(
            in_channels=in_channels,
            out_channels=out_channels,
            temb_channels=self.temb_channels,
            dropout=self.dropout,
            groups=_ncsnpp_groups(in_channels),
            groups_out=_ncsnpp_groups(out_channels),
            eps=NCSNPP_NORM_EPS,
            output_scale_factor=self.scale,
            use_in_shortcut=True if up or down else None,
            kernel="fir" if self.fir else "sde_vp",
            up=up,
            down=down,
        )

    def attention(self, channels):
        return Attention(
            channels,
            heads=1,
            dim_head=channels,
            norm_num_groups=_ncsnpp_groups(channels),
            eps=NCSNPP_NORM_EPS,
            rescale_output_factor=self.scale,
            residual_connection=True,
            bias=True,
            upcast_softmax=True,
            _from_deprecated_attn_block=True,
        )

    def halved(self, x):
        return downsample_2d(x, kernel=FIR_KERNEL) if self.fir else F.avg_pool2d(x, 2)

    def doubled(self, x):
        if self.fir:
            return upsample_2d(x, kernel=FIR_KERNEL)
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class NCSNppPyramid(NamedTuple):
    """How the input comes into a level: `progressive_input` of the network, and the channels that the input has."""

    kind: str
    channels: int


def ncsnpp_down_levels(config, blocks):
    """The levels on the way down, and the channels of each hidden state that they leave for the way up."""
    levels, skips = nn.ModuleList(), [config.block_out_channels[0]]
    pyramid = NCSNppPyramid(config.progressive_input, config.in_channels)
    for level, channels in enumerate(config.block_out_channels):
        downsamples = level < len(config.block_out_channels) - 1
        widths = [skips[-1]] + [channels] * (config.layers_per_block - 1)
        has_attention = level in config.attention_levels
        levels.append(NCSNppDownLevel(widths, channels, has_attention, blocks, pyramid if downsamples else None))
        skips += [channels] * (config.layers_per_block + downsamples)
        if config.progressive_input == "residual":
            pyramid = pyramid._replace(channels=channels)
    return levels, skips


def ncsnpp_up_levels(config, blocks, skips):
    """The levels on the way up, for hidden states of the channels `skips`."""
    levels, skips, hidden = nn.ModuleList(), list(skips), config.block_out_channels[-1]
    for level in reversed(range(len(config.block_out_channels))):
        channels, upsamples = config.block_out_channels[level], level > 0
        widths = [hidden] + [channels] * config.layers_per_block
        widths = [width + skips.pop() for width in widths]
        output_channels = config.out_channels if config.progressive == "output_skip" and upsamples else None
        has_attention = level in config.attention_levels
        levels.append(NCSNppUpLevel(widths, channels, has_attention, blocks, upsamples, output_channels))
        hidden = channels
    return levels


class NCSNppDownLevel(nn.Module):
    """The residual blocks of a level on the way down, the change of resolution, and the input of the next one.

    Args:
        widths: the input channels of each residual block. out_channels: the output channels of all.
        attention (`bool`): whether attention follows each of them.
        blocks ([`NCSNppBlocks`]): makes the blocks.
        pyramid ([`NCSNppPyramid`], *optional*): how the input comes in; None for a level that keeps the resolution.
    """

    def __init__(self, widths, out_channels, attention, blocks, pyramid=None):
        super().__init__()
        self.blocks = blocks
        self.resnets = nn.ModuleList(blocks.resnet(width, out_channels) for width in widths)
        self.attentions = nn.ModuleList(blocks.attention(out_channels) for _ in range(len(widths) * attention))
        self.resnet_down = self.skip_conv = self.pyramid_down = None
        if pyramid is not None:
            self.resnet_down = blocks.resnet(out_channels, out_channels, down=True)
            if pyramid.kind == "input_skip":
                self.skip_conv = nn.Conv2d(pyramid.channels, out_channels, 1)
            elif pyramid.kind == "residual":
                self.pyramid_down = NCSNppPyramidDown(pyramid.channels, out_channels, blocks.fir)

    def forward(self, hidden, pyramid, embedding, skips):
        """The hidden state and the pyramid of the input for the next level; appends to `skips`."""
        for index, resnet in enumerate(self.resnets):
            hidden = resnet(hidden, embedding)
            if self.attentions:
                hidden = self.attentions[index](hidden)
            skips.append(hidden)
        if self.resnet_down is None:
            return hidden, pyramid
        hidden = self.resnet_down(hidden, embedding)
        if self.skip_conv is not None:
            pyramid = self.blocks.halved(pyramid)
            hidden = self.skip_conv(pyramid) + hidden
        elif self.pyramid_down is not None:
            hidden = pyramid = (self.pyramid_down(pyramid) + hidden) / self.blocks.scale
        skips.append(hidden)
        return hidden, pyramid


class NCSNppMiddle(nn.Module):
    """Two residual blocks with attention between."""

    def __init__(self, channels, blocks):
        super().__init__()
        self.resnets = nn.ModuleList(blocks.resnet(channels, channels) for _ in range(2))
        self.attentions = nn.ModuleList([blocks.attention(channels)])

    def forward(self, hidden, embedding):
        hidden = self.attentions[0](self.resnets[0](hidden, embedding))
        return self.resnets[1](hidden, embedding)


class NCSNppUpLevel(nn.Module):
    """The residual blocks of a level on the way up, its share of the output, and the change of resolution.

    Args:
        widths: the input channels of each residual block. out_channels: the output channels of all.
        attention (`bool`): whether attention follows them.
        blocks ([`NCSNppBlocks`]): makes the blocks.
        upsamples (`bool`): whether the resolution changes.
        output_channels (`int`, *optional*): the channels of the network's output, if the level has a share of it.
    """

    def __init__(self, widths, out_channels, attention, blocks, upsamples, output_channels=None):
        super().__init__()
        self.blocks = blocks
        self.resnets = nn.ModuleList(blocks.resnet(width, out_channels) for width in widths)
        self.attentions = nn.ModuleList(blocks.attention(out_channels) for _ in range(attention))
        self.skip_norm = self.skip_conv = self.resnet_up = None
        if output_channels is not None:
            self.skip_norm = nn.GroupNorm(_ncsnpp_groups(out_channels), out_channels, eps=NCSNPP_NORM_EPS)
            self.skip_conv = nn.Conv2d(out_channels, output_channels, 3, padding=1)
        if upsamples:
            self.resnet_up = blocks.resnet(out_channels, out_channels, up=True)

    def forward(self, hidden, output, embedding, skips):
        """The hidden state, and the output so far in the resolution of the next level; takes from `skips`."""
        for resnet in self.resnets:
            hidden = resnet(torch.cat([hidden, skips.pop()], dim=1), embedding)
        for attention in self.attentions:
            hidden = attention(hidden)
        if self.skip_conv is not None:
            output = self.blocks.doubled(output + self.skip_conv(F.silu(self.skip_norm(hidden))))
        if self.resnet_up is not None:
            hidden = self.resnet_up(hidden, embedding)
        return hidden, output


class NCSNppPyramidDown(nn.Module):
    """A convolution that halves the resolution of the pyramid of the input."""

    def __init__(self, in_channels, out_channels, fir):
        super().__init__()
        self.fir = FirDownsample2D(in_channels, out_channels, use_conv=True) if fir else None
        self.conv = None if fir else nn.Conv2d(in_channels, out_channels, 3, stride=2)

    def forward(self, x):
        return self.fir(x) if self.conv is None else self.conv(F.pad(x, (0, 1, 0, 1)))


def _ncsnpp_groups(channels):
    return min(channels // 4, 32)
