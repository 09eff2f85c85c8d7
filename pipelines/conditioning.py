"""The conditioning of a run: class labels, null labels, and the gradient of a classifier."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from ddpm_hf.models.class_names import class_names_of, to_labels
from ddpm_hf.models.network_config import classes_of
from ddpm_hf.samples.kind import sides_of
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
                "steps, or a scheduler with fitted_solvers=None."
            )


class Conditioning(NamedTuple):
    """The labels for the network and the classifier in a run, checked and on the device."""

    # for the network: (B,), or (2B,) followed by null labels if the scale is not 1, or None without classes
    labels: torch.Tensor | None
    guidance: Guidance
    # for the classifier: (B,)
    classifier: Any = None
    classifier_labels: torch.Tensor | None = None

    def at(self, t, scheduler):
        """The conditioning at timestep t: outside the guidance interval without guidance and null labels."""
        guidance = self.guidance
        if guidance.guidance_interval is None:
            return self
        low, high = guidance.guidance_interval
        if low < noise_to_signal(scheduler, t) <= high:
            return self
        labels = self.labels if guidance.guidance_scale == 1.0 else self.labels.chunk(2)[0]
        return self._replace(
            labels=labels, guidance=guidance._replace(guidance_scale=1.0, classifier_guidance_scale=0.0)
        )

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


def make_conditioning(pipeline, class_labels, guidance, batch_size, device):
    """The [`Conditioning`] of a run.

    Args:
        pipeline ([`GaussianDiffusionPipeline`]): the pipeline with network, classifier and scheduler.
        class_labels: labels as in `__call__`.
        guidance ([`Guidance`]): the strength of guidance.

    Raises:
        ValueError: for labels or guidance that the model does not support.
    """
    guidance.check()
    class_labels = to_labels(class_labels, class_names(pipeline))
    for_unet, for_classifier = class_labels, None
    if guidance.classifier_guidance_scale != 0:
        for_classifier = _classifier_labels(
            pipeline, class_labels, guidance.classifier_guidance_scale, batch_size, device
        )
        if classes_of(pipeline.unet.config)[0] is None:
            for_unet = None
    labels = encode_labels(pipeline.unet.config, for_unet, guidance.guidance_scale, batch_size, device)
    return Conditioning(labels, guidance, pipeline.classifier, for_classifier)


def class_names(pipeline):
    """{label: name} of the classes that a pipeline can draw: the network's, or else the classifier's."""
    networks = (network for network in (pipeline.unet, pipeline.classifier) if network is not None)
    return next((names for network in networks if (names := class_names_of(network.config))), {})


def encode_labels(unet_config, class_labels, guidance_scale=1.0, batch_size=1, device=None):
    """Labels for the network, (B,), or (2B,) followed by null labels, or None for an unconditional network."""
    num_classes, null_label = classes_of(unet_config)
    if num_classes is None:
        if class_labels is not None or guidance_scale != 1.0:
            raise ValueError(
                f"class_labels={class_labels} and guidance_scale={guidance_scale} need a class-conditional model; "
                "this one has no classes. Leave both out, or steer it by a classifier: classifier_guidance_scale=1."
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


def check_classifier(classifier, unet):
    """Raises ValueError unless the classifier was made for the images and classes of the network; both are configs."""
    values = {
        "in_channels": (classifier.in_channels, unet.in_channels),
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


def _classifier_labels(pipeline, class_labels, scale, batch_size, device):
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
    return checked_labels(class_labels, pipeline.classifier.config.num_classes).expand(batch_size).to(device)
