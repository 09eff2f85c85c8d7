"""The conditioning of a run: class labels, condition images, null labels, and the gradient of a classifier."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

from ddpm_hf.models.class_names import class_names_of, to_labels
from ddpm_hf.models.network_config import classes_of, is_told_text
from ddpm_hf.pipelines.condition_inputs import prepare_condition
from ddpm_hf.samples.condition_images import DROPPED, augmented, condition_of, enlarged, with_levels
from ddpm_hf.samples.condition_values import (
    absent_value_of,
    checked_values,
    note_untaught,
    told_values,
    value_limits_of,
)
from ddpm_hf.samples.kind import channels_of, sides_of
from ddpm_hf.schedulers.config_checks import check_choice
from ddpm_hf.schedulers.guidance import GUIDANCE_FORMS, classifier_gradient
from ddpm_hf.schedulers.scheduling_edm import EDMScheduler
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler
from ddpm_hf.schedulers.scheduling_score_sde import ScoreSDEScheduler


class Guidance(NamedTuple):
    """The strength of guidance: the arguments of a pipeline's `__call__` with the same names."""

    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float = 0.0
    classifier_guidance_scale: float = 0.0
    classifier_guidance_form: str = "score"

    def check(self):
        """Raises ValueError for a number that is not finite or out of range, and for an unknown form."""
        for name in ("guidance_scale", "classifier_guidance_scale"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)} must be a finite number.")
        interval = self.guidance_interval
        if interval is not None and not (len(interval) == 2 and 0 <= interval[0] < interval[1]):
            raise ValueError(
                f"guidance_interval={interval} must be (low, high), 0 <= low < high: noise levels sqrt((1 - abar) / "
                "abar)."
            )
        if not 0 <= self.guidance_rescale <= 1:
            raise ValueError(f"guidance_rescale={self.guidance_rescale} must be in [0, 1]; 0 is off.")
        check_choice("classifier_guidance_form", self.classifier_guidance_form, GUIDANCE_FORMS)

    def check_fitted(self, scheduler):
        """Raises ValueError where the scheduler's solver was fitted to the model with other guidance."""
        fitted = getattr(scheduler, "fitted_guidance_scale", None)
        if fitted is not None and (self.guidance_scale != fitted or self.classifier_guidance_scale != 0):
            raise ValueError(
                f"The solver for this number of steps was fitted at guidance_scale={fitted}, and this run has "
                f"guidance_scale={self.guidance_scale} and "
                f"classifier_guidance_scale={self.classifier_guidance_scale}: take that scale, another number of "
                "steps, or a scheduler with fitted_solvers=None (on the command line: --recipe ddim-2m)."
            )


class ConditionInput(NamedTuple):
    """The condition image of a call: `condition_image` and `augmentation_level` as in a pipeline's `__call__`.

    sides: the (height, width) of x_t.
    """

    image: Any = None
    augmentation_level: float = 0.0
    sides: tuple[int, int] | None = None


class Conditioning(NamedTuple):
    """The labels and images for the network and the classifier in a run, checked and on the device."""

    # for the network: (B, ..), or (2B, ..) followed by null labels if the scale is not 1, or None without classes
    labels: torch.Tensor | None
    guidance: Guidance = Guidance()
    # for the classifier: (B,)
    classifier: Any = None
    classifier_labels: torch.Tensor | None = None
    # the condition image in the size of x_t, (B, ..), or (2B, ..) as the labels are, or None for networks without one
    image: torch.Tensor | None = None
    # of the network's input, which it takes a walk over the network's modules to find; None to look at each step
    dtype: torch.dtype | None = None

    def at(self, t, scheduler):
        """The conditioning at timestep t: outside the guidance interval without guidance and null labels."""
        guidance = self.guidance
        if guidance.guidance_interval is None:
            return self
        low, high = guidance.guidance_interval
        if low < noise_to_signal(scheduler, t) <= high:
            return self
        labels, image = self.labels, self.image
        if guidance.guidance_scale != 1.0:
            labels, image = (None if told is None else told.chunk(2)[0] for told in (labels, image))
        unguided = guidance._replace(guidance_scale=1.0, classifier_guidance_scale=0.0)
        return self._replace(labels=labels, image=image, guidance=unguided)

    def step_kwargs(self, x_t, t):
        """The arguments of classifier guidance for the scheduler's `step`; t is on the device."""
        if self.guidance.classifier_guidance_scale == 0:
            return {}
        gradient = classifier_gradient(
            self.classifier, x_t, t, self.classifier_labels, self.guidance.classifier_guidance_scale
        )
        return {"classifier_gradient": gradient, "guidance_form": self.guidance.classifier_guidance_form}


def noise_to_signal(scheduler, t):
    """sigma_t / a_t, the noise level of x_t in units of the data."""
    if isinstance(scheduler, ScoreSDEScheduler):
        signal, sigma = scheduler.process.levels(t)
        return sigma / signal
    if isinstance(scheduler, EDMScheduler):
        return (4 * t).exp()  # its timesteps are log(sigma) / 4
    alpha_bar = scheduler.alphas_cumprod[int(t)]
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def make_conditioning(pipeline, class_labels, guidance, batch_size, condition=None, generator=None):
    """The [`Conditioning`] of a run, on the pipeline's device.

    Args:
        pipeline ([`GaussianDiffusionPipeline`]): the pipeline with network, classifier and scheduler.
        class_labels: labels as in `__call__`.
        guidance ([`Guidance`]): the strength of guidance.
        condition ([`ConditionInput`], *optional*): the condition image.
        generator: draws the noise of the condition image.

    Raises:
        ValueError: for labels, guidance or condition images that the model does not support.
    """
    guidance.check()
    class_labels = to_labels(class_labels, class_names(pipeline))
    for_unet, for_classifier, device = class_labels, None, pipeline._execution_device
    if guidance.classifier_guidance_scale != 0:
        for_classifier = _classifier_labels(pipeline, class_labels, guidance.classifier_guidance_scale, batch_size)
        if classes_of(pipeline.unet.config)[0] is None:
            for_unet = None
    condition, config = condition or ConditionInput(), pipeline.unet.config
    if value_limits_of(config) is not None and (for_unet is not None or absent_value_of(config) is None):
        note_untaught(for_unet, value_limits_of(config))
    level = checked_level(config, condition.augmentation_level)
    labels = encode_labels(config, for_unet, guidance.guidance_scale, batch_size, device, level)
    image = _condition_image(pipeline, condition, guidance.guidance_scale, batch_size, generator)
    return Conditioning(labels, guidance, pipeline.classifier, for_classifier, image, pipeline.unet.dtype)


def class_names(pipeline):
    """{label: name} of the classes that a pipeline can draw: the network's, or else the classifier's."""
    networks = (network for network in (pipeline.unet, pipeline.classifier) if network is not None)
    return next((names for network in networks if (names := class_names_of(network.config))), {})


def encode_labels(unet_config, class_labels, guidance_scale=1.0, batch_size=1, device=None, augmentation_level=0.0):
    """Labels for the network, (B,), or (2B,) followed by null labels, or None for an unconditional network.

    A network that is told augmentation levels gets what `with_levels` makes of the labels and the level. Where it is
    told a number instead of a class, the labels are these numbers.
    """
    if value_limits_of(unet_config) is not None:
        return _told_values(unet_config, class_labels, guidance_scale, batch_size).to(device)
    labels, levels = _class_labels(unet_config, class_labels, guidance_scale, batch_size, device), None
    condition = condition_of(unet_config)
    if condition is not None and condition.max_augmentation_level is not None:
        copies = 1 if guidance_scale == 1.0 else 2
        levels = torch.full((copies * batch_size,), float(augmentation_level), device=device)
    return with_levels(labels, levels)


def _told_values(unet_config, values, guidance_scale, batch_size):
    """Numbers as the network is told them, (B,), or (2B,) followed by what it is told without guidance.

    Guidance is by the number if it was dropped in training, and else by the condition image; then the same is told.
    """
    limits, absent = value_limits_of(unet_config), absent_value_of(unet_config)
    if values is None and absent is not None:
        told = torch.full((batch_size,), absent)
    else:
        told = told_values(checked_values(values, limits), limits).expand(batch_size)
    if guidance_scale == 1.0:
        return told
    condition = condition_of(unet_config)
    if absent is None and not (condition is not None and condition.condition_dropout):
        raise ValueError(
            f"guidance_scale={guidance_scale} needs a model whose numbers were dropped now and then in training "
            "(--value_dropout), and this one was always told one: leave it out."
        )
    return torch.cat([told, told if absent is None else torch.full_like(told, absent)])


def _class_labels(unet_config, class_labels, guidance_scale, batch_size, device):
    num_classes, null_label = classes_of(unet_config)
    condition = condition_of(unet_config)
    if num_classes is None:
        drops_image = condition is not None and condition.condition_dropout
        if is_told_text(unet_config) and class_labels is not None:
            raise ValueError("This model is told a text and no class: give prompt in the place of class_labels.")
        if class_labels is not None or (guidance_scale != 1.0 and not (drops_image or is_told_text(unet_config))):
            raise ValueError(
                f"class_labels={class_labels} and guidance_scale={guidance_scale} need a class-conditional model, "
                "or one that is told numbers; this one has no classes. Leave both out, or steer it by a classifier: "
                "classifier_guidance_scale=1. "
                "Guidance by a condition image needs a model trained with --condition_dropout."
            )
        return None
    if class_labels is None:
        class_labels = null_label
    if class_labels is None:
        raise ValueError(f"This model needs class_labels in 0 .. {num_classes - 1}; it has no label for 'no class'.")
    labels = checked_labels(class_labels, num_classes, null_label).expand(batch_size).to(device)
    if guidance_scale == 1.0:
        return labels
    if null_label is None:
        raise ValueError(
            f"guidance_scale={guidance_scale} needs a model trained with a null label (label dropout); "
            "this one was not: use guidance_scale=1."
        )
    return torch.cat([labels, torch.full_like(labels, null_label)])


def checked_labels(class_labels, num_classes, null_label=None):
    """Labels, () or (B,), as int64 on the host; any type of whole numbers is accepted."""
    labels = class_labels.cpu().numpy() if isinstance(class_labels, torch.Tensor) else np.asarray(class_labels)
    largest = num_classes - 1 if null_label is None else null_label
    whole = labels.dtype.kind in "iu" and labels.size > 0
    if labels.ndim > 1 or not whole or labels.min() < 0 or labels.max() > largest:
        extra = "" if null_label is None else f", or {null_label} for no class"
        raise ValueError(f"class_labels={class_labels} must be whole numbers in 0 .. {num_classes - 1}{extra}.")
    return torch.from_numpy(labels.astype(np.int64))


def checked_level(unet_config, level):
    """The augmentation level of a condition image; ValueError for one that the network was not trained at."""
    condition = condition_of(unet_config)
    most = None if condition is None else condition.max_augmentation_level
    if most is None and level != 0:
        raise ValueError(
            f"augmentation_level={level} is for a model that was trained with noise on its condition image "
            "(--max_augmentation_level), and this one was not: leave it out."
        )
    if not 0 <= level <= (most or 0):
        raise ValueError(
            f"augmentation_level={level} must be in [0, {most:g}], the levels that the model was trained at."
        )
    return level


def _condition_image(pipeline, condition, guidance_scale, batch_size, generator):
    """The condition image in the size of x_t, (B, C, H, W), or (2B, ..) followed by what is told without one."""
    wanted = condition_of(pipeline.unet.config)
    if wanted is None:
        if condition.image is not None:
            raise ValueError("condition_image is for a model that was trained with condition images: leave it out.")
        return None
    image = prepare_condition(pipeline, condition.image, condition.sides)
    if len(image) not in (1, batch_size):
        raise ValueError(
            f"condition_image has {len(image)} images for {batch_size} samples: give one for all or for each."
        )
    image = image.expand(batch_size, *image.shape[1:])
    if condition.augmentation_level != 0:
        noise = randn_tensor(image.shape, generator, image.device, image.dtype)
        image = augmented(image, condition.augmentation_level, noise)
    return with_unguided(pipeline.unet.config, enlarged(image, condition.sides), guidance_scale)


def with_unguided(unet_config, image, guidance_scale):
    """Condition images (B, ..), or if they are guided (2B, ..), followed by what is told without guidance.

    Guidance is by the classes or numbers if it can be, and then the same images are told; else they are dropped.
    """
    if guidance_scale == 1.0:
        return image
    by_label = classes_of(unet_config)[0] is not None or absent_value_of(unet_config) is not None
    without = image if by_label else torch.full_like(image, DROPPED)
    return torch.cat([image, without])


def check_classifier(classifier, unet):
    """Raises ValueError unless the classifier was made for the images and classes of the network; both are configs."""
    values = {
        "in_channels": (classifier.in_channels, channels_of(unet)),
        "num_classes": (classifier.num_classes, classes_of(unet)[0]),
    }
    if None not in sides_of(unet):
        values["sample_size"] = (sides_of(classifier), sides_of(unet))
    for name, (given, wanted) in values.items():
        if wanted is not None and given != wanted:
            raise ValueError(
                f"The classifier has {name}={given}, the model {wanted}: train a classifier for this model with "
                "`ddpm-hf train_classifier`."
            )


def _classifier_labels(pipeline, class_labels, scale, batch_size):
    if pipeline.classifier is None:
        raise ValueError(
            f"classifier_guidance_scale={scale} needs a pipeline with a classifier, which this one has not: train one "
            "with `ddpm-hf train_classifier`, or use guidance_scale with a class-conditional model."
        )
    if class_labels is None:
        raise ValueError(f"classifier_guidance_scale={scale} needs class_labels: the class to steer to.")
    if not isinstance(pipeline.scheduler, GaussianDiffusionScheduler):
        raise ValueError(
            f"classifier_guidance_scale={scale} needs a GaussianDiffusionScheduler; "
            f"{type(pipeline.scheduler).__name__} does not take the gradient of a classifier."
        )
    labels = checked_labels(class_labels, pipeline.classifier.config.num_classes).expand(batch_size)
    return labels.to(pipeline._execution_device)
