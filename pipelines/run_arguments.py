"""The arguments of a run and its result, checked: batch sizes, output types, the callback, finite samples."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from ddpm_hf.number_checks import is_whole, where_not_finite
from ddpm_hf.schedulers.config_checks import check_choice

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class StepCallback(NamedTuple):
    """The callback after every step and the names of its tensors; the callback may return new latents."""

    function: Callable | None = None
    tensor_inputs: tuple[str, ...] = ("latents",)

    def __call__(self, pipeline, i, t, tensors):
        """The latents for the next step."""
        if self.function is None:
            return tensors["latents"]
        wanted = {name: tensors[name] for name in self.tensor_inputs}
        return (self.function(pipeline, i, t, wanted) or {}).get("latents", tensors["latents"])


def check_finite(samples):
    """Raises ValueError for non-finite samples, which a picture would show as black."""
    damaged = where_not_finite(samples)[:, 0].unique().tolist()
    if damaged:
        raise ValueError(
            f"{len(damaged)} of {len(samples)} samples are not finite (the first is number {damaged[0]}): the "
            "network's output overflows. Look for NaN in its weights, take a lower guidance_scale, or float32 instead "
            "of half precision; output_type='latent' gives the samples as they are."
        )


def agreed_batch_size(batch_size, **per_image):
    """The one batch size that all arguments agree on."""
    sizes = {}
    for name, value in per_image.items():
        if isinstance(value, (list, tuple)) or (isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim > 0):
            sizes[name] = len(value)
    if batch_size != 1 or not sizes:
        sizes["batch_size"] = batch_size
    if len(set(sizes.values())) > 1 or not all(is_whole(size, 1) for size in sizes.values()):
        given = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise ValueError(f"The arguments must agree on one whole number of images, at least 1; got {given}.")
    return next(iter(sizes.values()))


def check_output(output_type, tensor_names, allowed_names):
    check_choice("output_type", output_type, OUTPUT_TYPES)
    if not set(tensor_names) <= set(allowed_names):
        raise ValueError(f"callback_on_step_end_tensor_inputs={tensor_names} may name {allowed_names} only.")
