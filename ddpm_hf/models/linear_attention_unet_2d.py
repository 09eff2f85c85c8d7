"""The U-Net of lucidrains' denoising-diffusion-pytorch: linear attention with a memory."""

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import Timesteps
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

from ddpm_hf.models.image_sides import check_halves


class LinearAttentionUNet2DModel(ModelMixin, ConfigMixin):
    r"""A U-Net whose levels have linear attention, or full attention.

    A feature vector is normalized to the length :math:`\sqrt C` times a gain. Keys and values of every attention are
    joined by learned ones, a memory. Levels halve the image by taking 2x2 pixels as channels.

    Args:
        sample_size (`int` or `tuple[int, int]`): height and width of the images.
        in_channels (`int`), out_channels (`int`): channels of x_t and of the output.
        first_channels (`int`): channels of the first convolution.
        block_out_channels (`tuple[int, ...]`): channels that each level gives; it works in those that it gets.
        full_attention (`tuple[bool, ...]`): for each level, whether its attention is a full one; the middle's is.
        attention_heads (`tuple[int, ...]`), attention_head_dim (`tuple[int, ...]`), memory_size (`tuple[int, ...]`):
            of the attention of each level; the middle has those of the last.
        time_embedding_channels (`int`): number of sines and cosines of t; the embedding has four times as many.
        dropout (`float`): dropout probability after the first half of each residual block.

    Shapes: sample (B, C, H, W), timestep () or (B,); the output is (B, out_channels, H, W).

    Raises:
        ValueError: for images whose sides the levels cannot halve.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] | None = 32,
        in_channels: int = 3,
        out_channels: int = 3,
        first_channels: int = 64,
        block_out_channels: tuple[int, ...] = (64, 128, 256, 512),
        full_attention: tuple[bool, ...] = (False, False, False, True),
        attention_heads: tuple[int, ...] = (4, 4, 4, 4),
        attention_head_dim: tuple[int, ...] = (32, 32, 32, 32),
        memory_size: tuple[int, ...] = (4, 4, 4, 4),
        time_embedding_channels: int = 64,
        dropout: float = 0.0,
    ):
        super().__init__()
        temb_channels, last = 4 * time_embedding_channels, block_out_channels[-1]
        resnet = {"temb_channels": temb_channels, "dropout": dropout}
        widths = [first_channels, *block_out_channels]
        heads = list(zip(full_attention, attention_heads, attention_head_dim, memory_size, strict=True))
        self.time_proj = Timesteps(time_embedding_channels, flip_sin_to_cos=False, downscale_freq_shift=1)
        self.time_linear_1 = nn.Linear(time_embedding_channels, temb_channels)
        self.time_linear_2 = nn.Linear(temb_channels, temb_channels)
        self.conv_in = nn.Conv2d(in_channels, first_channels, 7, padding=3)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for level, (is_full, *sizes) in enumerate(heads):
            before, after = widths[level : level + 2]
            attention, is_last = (MemoryAttention if is_full else LinearAttention), level == len(heads) - 1
            down = {
                "resnets": nn.ModuleList(GainResnet(before, before, **resnet) for _ in range(2)),
                "attention": attention(before, *sizes),
                "resample": nn.Conv2d(before, after, 3, padding=1) if is_last else nn.Conv2d(4 * before, after, 1),
            }
            up = {
                "resnets": nn.ModuleList(GainResnet(after + before, after, **resnet) for _ in range(2)),
                "attention": attention(after, *sizes),
                "resample": nn.Conv2d(after, before, 3, padding=1),
            }
            self.down_blocks.append(nn.ModuleDict(down))
            self.up_blocks.insert(0, nn.ModuleDict(up))
        middle = {
            "resnets": nn.ModuleList(GainResnet(last, last, **resnet) for _ in range(2)),
            "attention": MemoryAttention(last, *heads[-1][1:]),
        }
        self.mid_block = nn.ModuleDict(middle)
        self.resnet_out = GainResnet(2 * first_channels, first_channels, **resnet)
        self.conv_out = nn.Conv2d(first_channels, out_channels, 1)

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        """The output for x_t and t; `class_labels` must be None, for the network has no classes."""
        if class_labels is not None:
            raise ValueError("This network has no classes: leave class_labels out.")
        check_halves(*sample.shape[-2:], len(self.config.block_out_channels))
        times = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        embedding = self.time_linear_2(F.gelu(self.time_linear_1(self.time_proj(times).to(self.dtype))))
        first = hidden = self.conv_in(sample)
        skips = []
        for level, block in enumerate(self.down_blocks):
            hidden = block["resnets"][0](hidden, embedding)
            skips.append(hidden)
            hidden = block["resnets"][1](hidden, embedding)
            hidden = block["attention"](hidden) + hidden
            skips.append(hidden)
            is_last = level == len(self.down_blocks) - 1
            hidden = block["resample"](hidden if is_last else F.pixel_unshuffle(hidden, 2))
        hidden = self.mid_block["resnets"][0](hidden, embedding)
        hidden = self.mid_block["attention"](hidden) + hidden
        hidden = self.mid_block["resnets"][1](hidden, embedding)
        for level, block in enumerate(self.up_blocks):
            for resnet in block["resnets"]:
                hidden = resnet(torch.cat([hidden, skips.pop()], dim=1), embedding)
            hidden = block["attention"](hidden) + hidden
            is_last = level == len(self.up_blocks) - 1
            hidden = block["resample"](hidden if is_last else F.interpolate(hidden, scale_factor=2.0))
        output = self.conv_out(self.resnet_out(torch.cat([hidden, first], dim=1), embedding))
        return UNet2DOutput(sample=output) if return_dict else (output,)


class GainNorm(nn.Module):
    r"""Scales each feature vector to the length :math:`\sqrt C`, and multiplies it by a gain."""

    def __init__(self, channels):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x):
        return F.normalize(x, dim=1) * self.gain * x.shape[1] ** 0.5


class GainResnet(nn.Module):
    """A residual block of two convolutions, each normalized after it; t scales and shifts the first one's output."""

    def __init__(self, in_channels, out_channels, temb_channels, dropout):
        super().__init__()
        self.time_emb_proj = nn.Linear(temb_channels, 2 * out_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm1 = GainNorm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm2 = GainNorm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x, embedding):
        scale, shift = self.time_emb_proj(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        hidden = self.dropout(F.silu(self.norm1(self.conv1(x)) * (scale + 1) + shift))
        hidden = F.silu(self.norm2(self.conv2(hidden)))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class MemoryAttention(nn.Module):
    """Full attention over all positions and a memory of learned keys and values."""

    def __init__(self, channels, heads, head_dim, memory_size):
        super().__init__()
        self.heads = heads
        self.norm = GainNorm(channels)
        self.memory = nn.Parameter(torch.randn(2, heads, memory_size, head_dim))
        self.to_qkv = nn.Conv2d(channels, 3 * heads * head_dim, 1, bias=False)
        self.to_out = nn.Conv2d(heads * head_dim, channels, 1)

    def forward(self, x):
        # (B, q|k|v, head, channel, position) -> (B, head, position, channel) of each
        q, k, v = self.to_qkv(self.norm(x)).reshape(len(x), 3, self.heads, -1, x[0, 0].numel()).mT.unbind(1)
        k, v = (
            torch.cat([memory.expand(len(x), -1, -1, -1), own], dim=2)
            for memory, own in zip(self.memory, (k, v), strict=True)
        )
        hidden = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(hidden.mT.reshape(len(x), -1, *x.shape[2:]))


class LinearAttention(nn.Module):
    """Attention whose cost grows with the number of positions, not with its square, over positions and a memory."""

    def __init__(self, channels, heads, head_dim, memory_size):
        super().__init__()
        self.heads = heads
        self.norm = GainNorm(channels)
        self.memory = nn.Parameter(torch.randn(2, heads, head_dim, memory_size))
        self.to_qkv = nn.Conv2d(channels, 3 * heads * head_dim, 1, bias=False)
        self.to_out = nn.Conv2d(heads * head_dim, channels, 1)
        self.norm_out = GainNorm(channels)

    def forward(self, x):
        # (B, head, channel, position) of each
        q, k, v = self.to_qkv(self.norm(x)).reshape(len(x), 3, self.heads, -1, x[0, 0].numel()).unbind(1)
        k, v = (
            torch.cat([memory.expand(len(x), -1, -1, -1), own], dim=3)
            for memory, own in zip(self.memory, (k, v), strict=True)
        )
        q = q.softmax(dim=2) * q.shape[2] ** -0.5
        context = k.softmax(dim=3) @ v.mT
        hidden = context.mT @ q
        return self.norm_out(self.to_out(hidden.reshape(len(x), -1, *x.shape[2:])))
