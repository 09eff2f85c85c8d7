"""Samples of a model as 8-bit images, one seed for each."""

import torch

from ddpm_hf.data.model_range import to_levels
from ddpm_hf.evaluation.image_labels import asked_by
from ddpm_hf.number_checks import check_all_finite
from ddpm_hf.pipelines.schedulers import centered

FINITE_SAMPLES = (
    "The network's output, or the step of this sampler, overflows: are the weights right, and is it float32?"
)


@torch.no_grad()
def draw_levels(pipeline, seeds, first, class_labels=None, **sampling):
    """Samples, decoded where they are latents, clamped to [-1, 1] and rounded to 8 bits: uint8 (B, C, H, W), on the host.

    Args:
        pipeline ([`GaussianDiffusionPipeline`]): the model.
        seeds (`list[int]`): of the generator of each sample.
        first (`int`): the number of the first sample, for messages.
        class_labels: labels (B,), captions (`np.ndarray` of `str`) for a model that is told a text, or None.
        sampling: further arguments of the call of the pipeline.

    Raises:
        ValueError: for samples that are not finite.
    """
    x_0 = pipeline(
        len(seeds),
        **asked_by(class_labels),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="latent",
        **sampling,
    ).images
    check_all_finite(x_0, lambda image, *_: f"Sample {first + image}", FINITE_SAMPLES)
    return to_levels(pipeline.samples.decoded(centered(pipeline.scheduler, x_0))).cpu()
