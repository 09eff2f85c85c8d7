"""The U-Net of DDPM: diffusers' `UNet2DModel` with optional class labels, condition images and a variance head."""

import math
from typing import NamedTuple

import torch
from diffusers import ModelMixin, UNet2DModel  # noqa: F401  the loader looks for ModelMixin in this module

from ddpm_hf.models.image_sides import check_halves
from ddpm_hf.models.level_embedding import LabelAndLevelEmbedding
from ddpm_hf.models.network_config import with_weights_of
from ddpm_hf.portable.config import PortableConfigMixin
from ddpm_hf.samples.condition_images import DOWNSAMPLINGS, both_sides, check_divides, with_levels
from ddpm_hf.samples.condition_values import LARGEST_TOLD
from ddpm_hf.samples.kind import channels_of
from ddpm_hf.schedulers.choices import VARIANCE_HEADS


class DDPMUNet2DModel(PortableConfigMixin, UNet2DModel):
    """Predicts the noise in x_t (Ho et al. 2020, appendix B), optionally for a class and with a variance head.

    Its saved files load as a stock `UNet2DModel` with the same weights, except with both classes and augmentation
    levels.

    Args:
        num_classes (`int`, *optional*): labels are 0 .. num_classes - 1; the label `num_classes` is the null label
            ("no class", Ho & Salimans 2022), used wherever `class_labels` is None.
        variance_head (`str`, *optional*): doubles the output channels, for one of
            `"learned_range"`: v of Improved DDPM (Nichol & Dhariwal 2021, eq. 15);
            `"npr"`, `"sn"` (Bao et al. 2022b), `"ocm"` (Ou et al. 2025): Cov[eps | x_t];
            `ddpm_hf.schedulers.variances.head_covariance` gives the training target of each.
            A scheduler with the `variance_type` of the same name reads them.
        id2label (`dict`, *optional*): names of the classes by label, as in the configs of transformers:
            `{"0": "cat", "1": "dog"}`. Pipelines accept these names as labels.
        condition_channels (`int`, *optional*): the last so many input channels are a condition image, which is
            concatenated to x_t.
        low_resolution (`int` or `tuple[int, int]`, *optional*): the size, (height, width), in which the condition
            image is the image itself; it divides `sample_size`.
        downsampling (`str`, *optional*): makes the image of low resolution: `"lanczos"`, the default, or `"area"`;
            both are antialiased.
        max_augmentation_level (`float`, *optional*): the largest level of noise of the condition image in training
            (Ho et al. 2021, section 4.2), in (0, 1]. Such a network is told 1000 times the level, by `class_labels`;
            with classes these are (B, 2), labels and levels (`condition_images.with_levels`).
        condition_dropout (`bool`): the condition image was dropped in training now and then, so that guidance by it
            is possible.
        condition_value_range (`tuple[float, float]`, *optional*): the least and the greatest of the numbers that the
            network is told, by `class_labels`, instead of classes (`condition_values.told_values`).
        condition_value_absent (`float`, *optional*): what it is told in their place for a sample without a number,
            outside of [0, 1000]; in training some are dropped, so that guidance by the number is possible.
        value_range (`tuple[float, float]`, *optional*): the values of the data that become [-1, 1], if they are not
            of 8 bits from 0 to 255.
        levels (`int`, *optional*): with `value_range`: the number of values of the data; None for floats.
        aspect_buckets (`list`, *optional*): the shapes, (height, width), that the network was trained at; the first is
            its `sample_size`.
        autoencoder_factor, image_channels (`int`, *optional*): for a network of latents: the sides of an image over
            those of its latents, and the channels of images.
        kwargs: arguments of [`UNet2DModel`]; `in_channels` are the channels of the sample and of the condition image;
            `out_channels` follows from these and the head.

    Shapes: sample (B, C, H, W), or (B, C + condition_channels, H, W); timestep () or (B,), class_labels (B,); the
    output has C channels, or 2C with a head.
    """

    _own_keys = (
        *("num_classes", "variance_head", "id2label", "condition_channels", "low_resolution", "downsampling"),
        *("max_augmentation_level", "condition_dropout", "condition_value_range", "value_range", "levels"),
        *("condition_value_absent", "autoencoder_factor", "image_channels", "aspect_buckets"),
    )

    def __init__(
        self,
        num_classes=None,
        variance_head=None,
        id2label=None,
        condition_channels=None,
        low_resolution=None,
        downsampling=None,
        max_augmentation_level=None,
        condition_dropout=False,
        condition_value_range=None,
        value_range=None,
        levels=None,
        autoencoder_factor=None,
        image_channels=None,
        aspect_buckets=None,
        condition_value_absent=None,
        **kwargs,
    ):
        condition = _ConditionKeys(
            condition_channels, low_resolution, downsampling, max_augmentation_level, condition_dropout
        )
        in_channels = kwargs.get("in_channels", 3)
        condition.check(in_channels, num_classes, kwargs.get("sample_size"))
        if variance_head is not None and variance_head not in VARIANCE_HEADS:
            raise ValueError(f"variance_head={variance_head!r} is not one of {VARIANCE_HEADS} or None.")
        if num_classes is not None:
            if num_classes < 1:
                raise ValueError(f"num_classes={num_classes} must be at least 1, or None for no class labels.")
            _require(kwargs, "num_class_embeds", num_classes + 1, "num_classes + 1, the null label included")
        elif max_augmentation_level is not None:
            _require(kwargs, "class_embed_type", "timestep", "the augmentation level is embedded like a timestep")
        values = _ValueKeys(condition_value_range, condition_value_absent)
        values.check(num_classes, max_augmentation_level, condition_dropout)
        values.require_embedding(kwargs)
        channels = in_channels - (condition_channels or 0)
        if variance_head is not None:
            _require(kwargs, "out_channels", 2 * channels, "2 * in_channels with a variance head")
        kwargs.setdefault("out_channels", channels)
        super().__init__(**kwargs)
        self.register_to_config(num_classes=num_classes, variance_head=variance_head, id2label=id2label)
        self.register_to_config(**values._asdict(), **condition._asdict())
        self.register_to_config(value_range=value_range, levels=levels, aspect_buckets=aspect_buckets)
        self.register_to_config(autoencoder_factor=autoencoder_factor, image_channels=image_channels)
        if self._has_labels_and_levels:
            first = self.time_embedding.linear_1
            self.class_embedding = LabelAndLevelEmbedding(
                num_classes + 1, self.time_proj, first.in_features, first.out_features
            )
        self._check_sizes()

    @staticmethod
    def _get_init_keys(input_class):
        own = set(input_class._own_keys) if issubclass(input_class, DDPMUNet2DModel) else set()
        return UNet2DModel._get_init_keys(UNet2DModel if own else input_class) | own

    @classmethod
    def from_unet(cls, unet, variance_head=None, num_classes=None):
        """A copy of a trained `UNet2DModel` with a variance head or with classes added; its weights stay.

        The head doubles the channels of the output convolution and starts at zero: for `learned_range` this is the
        variance midway (in the logarithm) between beta~ and beta, for the others a zero covariance, as in
        `fixed_small`. The class embedding is added to the time embedding. The null label starts at zero, so that the
        prediction without a class is unchanged; the other labels start at random, as in a new network, because from
        zero they could only move along directions in which the weights already respond to time.

        Args:
            unet (`UNet2DModel`): predicts C channels for C channels.
            variance_head (`str`, *optional*): as in the constructor; None adds none.
            num_classes (`int`, *optional*): as in the constructor; None adds none.

        Raises:
            ValueError: if the network does not have C output channels, or has classes and is to get others.
        """
        channels = channels_of(unet.config)
        if num_classes is not None and unet.class_embedding is not None:
            raise ValueError(
                f"The network has classes already ({unet.config.num_class_embeds} labels); num_classes={num_classes} "
                "is for one without."
            )
        if unet.config.out_channels != channels:
            raise ValueError(
                f"The network has {unet.config.out_channels} output channels for {channels} input channels; a "
                f"variance head is put on a network with {channels} of both. Has it a head already?"
            )
        config = {k: v for k, v in unet.config.items() if k != "out_channels"}
        classes = {} if num_classes is None else {"num_classes": num_classes, "num_class_embeds": None}
        model = cls.from_config(config, variance_head=variance_head, **classes)
        return with_weights_of(unet, model, "conv_out", variance_head, num_classes)

    def _check_sizes(self):
        """Raises ValueError for a size of the config that the levels of the network cannot halve."""
        for size in (self.sample_size, *(self.config.aspect_buckets or ())):
            if size is not None:
                check_halves(*both_sides(size), len(self.config.block_out_channels))

    @property
    def output_layer(self):
        """The layer whose rows are the output channels: first the prediction, then the head."""
        return self.conv_out

    @property
    def _has_labels_and_levels(self):
        return self.config.num_classes is not None and self.config.max_augmentation_level is not None

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        """As [`UNet2DModel.forward`]; by default the null label, the level 0, and no number (or the middle one)."""
        check_halves(*sample.shape[-2:], len(self.config.block_out_channels))
        if class_labels is None:
            class_labels = self._told_by_default(sample)
        elif self._has_labels_and_levels and class_labels.ndim == 1:
            class_labels = with_levels(class_labels, torch.zeros(class_labels.shape, device=sample.device))
        return super().forward(sample, timestep, class_labels, return_dict)

    def _told_by_default(self, sample):
        config, labels, levels = self.config, None, None
        if config.condition_value_range is not None:
            absent = config.condition_value_absent
            return torch.full(sample.shape[:1], LARGEST_TOLD / 2 if absent is None else absent, device=sample.device)
        if config.num_classes is not None:
            labels = torch.full(sample.shape[:1], config.num_classes, device=sample.device)
        if config.max_augmentation_level is not None:
            levels = torch.zeros(sample.shape[:1], device=sample.device)
        return with_levels(labels, levels)


class _ConditionKeys(NamedTuple):
    """The keys of a condition image in the config of a network."""

    condition_channels: int | None
    low_resolution: int | tuple[int, int] | None
    downsampling: str | None
    max_augmentation_level: float | None
    condition_dropout: bool

    def check(self, in_channels, num_classes, sample_size):
        """Raises ValueError for keys that contradict each other or the rest of the config."""
        channels, low, level = self.condition_channels, self.low_resolution, self.max_augmentation_level
        if channels is None:
            if low is not None or level is not None or self.condition_dropout:
                raise ValueError(
                    f"low_resolution={low}, max_augmentation_level={level} and condition_dropout="
                    f"{self.condition_dropout} are of a condition image: give its condition_channels too."
                )
            return
        if not 0 < channels < in_channels:
            raise ValueError(
                f"condition_channels={channels} must be at least 1 and fewer than in_channels={in_channels}, "
                "which are those of the sample and of its condition image together."
            )
        if self.downsampling not in (None, *DOWNSAMPLINGS):
            raise ValueError(f"downsampling={self.downsampling!r} is not one of {DOWNSAMPLINGS}.")
        if low is not None:
            self._check_low_resolution(in_channels, sample_size)
        if level is not None and not 0 < level <= 1:
            raise ValueError(
                f"max_augmentation_level={level} must be in (0, 1], or None for a network that is told none."
            )
        if self.condition_dropout and num_classes is not None:
            raise ValueError(
                f"condition_dropout is for networks without classes, and there are num_classes={num_classes}: "
                "guidance is by the classes then."
            )

    def _check_low_resolution(self, in_channels, sample_size):
        if sample_size is None or self.condition_channels * 2 != in_channels:
            raise ValueError(
                f"low_resolution={self.low_resolution} needs a sample_size and a condition image of the sample's own "
                f"channels, and there are sample_size={sample_size}, in_channels={in_channels} and "
                f"condition_channels={self.condition_channels}."
            )
        check_divides(self.low_resolution, both_sides(sample_size))


class _ValueKeys(NamedTuple):
    """The keys of a number that a network is told, in its config."""

    condition_value_range: tuple[float, float] | None
    condition_value_absent: float | None

    def require_embedding(self, kwargs):
        """Puts the embedding of the number among the arguments; ValueError for another embedding there."""
        if self.condition_value_range is not None:
            _require(kwargs, "class_embed_type", "timestep", "the number is embedded like a timestep")

    def check(self, num_classes, max_augmentation_level, condition_dropout):
        """Raises ValueError for limits that are none, beside classes or levels, and for a number told for none."""
        limits, absent = self
        if limits is None and absent is not None:
            raise ValueError(f"condition_value_absent={absent} is of a number: give condition_value_range too.")
        if limits is None:
            return
        if not (len(limits) == 2 and -math.inf < limits[0] < limits[1] < math.inf):
            raise ValueError(
                f"condition_value_range={limits} must be the least and the greatest number, which differ."
            )
        if num_classes is not None or max_augmentation_level is not None:
            raise ValueError(
                f"condition_value_range={limits} is for a network without classes and augmentation levels, and there "
                f"are num_classes={num_classes} and max_augmentation_level={max_augmentation_level}: leave one of "
                "them out."
            )
        if absent is not None and (0 <= absent <= LARGEST_TOLD or not math.isfinite(absent)):
            raise ValueError(
                f"condition_value_absent={absent} must be outside of [0, {LARGEST_TOLD}], as which numbers are told."
            )
        if absent is not None and condition_dropout:
            raise ValueError(
                "condition_dropout is for networks whose number is not dropped, and there is condition_value_absent="
                f"{absent}: guidance is by the number then."
            )


def _require(kwargs, name, value, reason):
    if kwargs.setdefault(name, value) not in (None, value):
        raise ValueError(f"{name}={kwargs[name]} contradicts the other arguments: it must be {value} ({reason}).")
    kwargs[name] = value
