"""The denoiser of points: a small fully connected network, with the interface of diffusers' `UNet2DModel`."""

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

from ddpm_hf.models.network_config import with_weights_of
from ddpm_hf.schedulers.choices import VARIANCE_HEADS


class MLPDenoiser(ModelMixin, ConfigMixin):
    r"""Predicts the noise in x_t (Ho et al. 2020) for data without pixels: points, vectors, features.

    A point of d dimensions is a sample of d channels without sides, (d,) where an image is (C, H, W), so everything
    that takes (B, C, \*) takes points too.

    x_t and the sinusoidal embedding of t each pass a block of a linear layer, a layer norm and SiLU. The core takes
    both through two more such blocks, of 2 width and width features, and a linear layer. The defaults give 2 -> 256,
    64 -> 256, 512 -> 512 -> 256 -> 2, 0.41M parameters.

    Args:
        in_channels (`int`): d.
        out_channels (`int`, *optional*): follows from `in_channels` and the head: d, or 2 d.
        width (`int`): features of each block; the core's first block has twice as many.
        time_embedding_dim (`int`): number of sines and cosines of t, even.
        num_classes (`int`, *optional*): labels are 0 .. num_classes - 1; the label `num_classes` is the null label
            ("no class", Ho & Salimans 2022), used wherever `class_labels` is None. Its embedding is added to that of
            t.
        variance_head (`str`, *optional*): as in [`DDPMUNet2DModel`]: doubles the output channels.
        data_mean, data_std (`list[float]`, *optional*): mean and standard deviation of the data in its own units, d
            numbers each; the network sees (x - data_mean) / data_std.

    Shapes: sample (B, d), timestep () or (B,), class_labels (B,); the output has d channels, or 2d with a head.

    Raises:
        ValueError: for arguments that contradict each other, and for samples of another shape.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 2,
        out_channels: int | None = None,
        width: int = 256,
        time_embedding_dim: int = 64,
        num_classes: int | None = None,
        variance_head: str | None = None,
        data_mean: list[float] | None = None,
        data_std: list[float] | None = None,
    ):
        super().__init__()
        _check_sizes(in_channels=in_channels, width=width, time_embedding_dim=time_embedding_dim)
        if variance_head is not None and variance_head not in VARIANCE_HEADS:
            raise ValueError(f"variance_head={variance_head!r} is not one of {VARIANCE_HEADS} or None.")
        _check_units(in_channels, data_mean, data_std)
        channels = in_channels if variance_head is None else 2 * in_channels
        if out_channels not in (None, channels):
            raise ValueError(
                f"out_channels={out_channels} contradicts the other arguments: it is {channels} for in_channels="
                f"{in_channels} and variance_head={variance_head!r}."
            )
        self.register_to_config(out_channels=channels)
        self.input_block = MLPBlock(in_channels, width)
        self.time_block = MLPBlock(time_embedding_dim, width)
        if num_classes is not None:
            _check_sizes(num_classes=num_classes)
            self.class_embedding = nn.Embedding(num_classes + 1, width)
        self.core_1 = MLPBlock(2 * width, 2 * width)
        self.core_2 = MLPBlock(2 * width, width)
        self.proj_out = nn.Linear(width, channels)

    @classmethod
    def from_unet(cls, unet, variance_head=None, num_classes=None):
        """A copy of a trained `MLPDenoiser` with a variance head or with classes added; its weights stay.

        The initial values and the errors are the same as in [`DDPMUNet2DModel.from_unet`].
        """
        added = {"variance_head": variance_head, "num_classes": num_classes}
        added = {name: value for name, value in added.items() if value is not None}
        for name in added:
            if unet.config[name] is not None:
                raise ValueError(f"The network has {name}={unet.config[name]!r} already; it takes no other.")
        config = {k: v for k, v in unet.config.items() if k != "out_channels"}
        model = cls.from_config(config, **added).to(unet.device)
        return with_weights_of(unet, model, "proj_out", variance_head, num_classes)

    @property
    def output_layer(self):
        """The layer whose rows are the output channels: first the prediction, then the head."""
        return self.proj_out

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        """As [`UNet2DModel.forward`]; without labels, a class-conditional network gets the null label.

        If all samples share one timestep and have no labels, the part that depends on t alone is computed once, which
        saves a third of the multiplications in sampling.
        """
        if sample.ndim != 2 or sample.shape[1] != self.config.in_channels:
            raise ValueError(
                f"Points of shape {tuple(sample.shape)} are not for this network, which takes (B, "
                f"{self.config.in_channels})."
            )
        hidden, condition = self.input_block(sample), self._condition(timestep, class_labels, sample)
        if len(condition) == len(hidden):
            hidden = self.core_1(torch.cat([hidden, condition], dim=1))
        else:
            of_sample, of_condition = self.core_1.linear.weight.chunk(2, dim=1)
            bias = F.linear(condition, of_condition, self.core_1.linear.bias)
            hidden = self.core_1.activated(F.linear(hidden, of_sample, bias[0]))
        output = self.proj_out(self.core_2(hidden))
        return UNet2DOutput(sample=output) if return_dict else (output,)

    def _condition(self, timestep, class_labels, sample):
        """The embedding of t and the class, (B, width), or (1, width) where all samples share it."""
        timesteps = torch.as_tensor(timestep, device=sample.device).reshape(-1)
        # Always in float32: half precision could not tell neighbouring timesteps apart.
        embedding = get_timestep_embedding(
            timesteps, self.config.time_embedding_dim, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        condition = self.time_block(embedding.to(sample.dtype))
        if self.config.num_classes is None:
            return condition
        if class_labels is None:
            class_labels = torch.full((1,), self.config.num_classes, device=sample.device)
        return condition + self.class_embedding(class_labels)


class MLPBlock(nn.Module):
    """Linear layer, layer norm, SiLU."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.norm = nn.LayerNorm(out_features)

    def forward(self, x):
        return self.activated(self.linear(x))

    def activated(self, hidden):
        # In place where no gradient needs the overwritten values.
        return F.silu(self.norm(hidden), inplace=not torch.is_grad_enabled())


def _check_sizes(**sizes):
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size} must be at least 1.")
    if sizes.get("time_embedding_dim", 2) % 2:
        raise ValueError(f"time_embedding_dim={sizes['time_embedding_dim']} must be even: sines and cosines.")


def _check_units(in_channels, data_mean, data_std):
    if (data_mean is None) != (data_std is None):
        raise ValueError(f"data_mean={data_mean} and data_std={data_std} must be given both, or neither.")
    for name, values in (("data_mean", data_mean), ("data_std", data_std)):
        if values is not None and len(values) != in_channels:
            raise ValueError(f"{name}={values} must have a number for each of in_channels={in_channels}.")
    if data_std is not None and not min(data_std) > 0:
        raise ValueError(f"data_std={data_std} must be greater than 0.")
