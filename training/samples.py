"""Grids of samples, drawn while training goes on and without touching its random state."""

import torch

from ddpm_hf.pipelines.image_grids import image_grid
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline


def sample_grid(unet, scheduler, num_samples, num_inference_steps, seed, num_classes=None):
    """Samples as one image; the same `seed` starts from the same noise.

    eta is 0, so that from one grid to the next nothing changes but the weights.
    """
    # A scheduler of its own: sampling sets timesteps.
    pipeline = GaussianDiffusionPipeline(unet=unet, scheduler=scheduler.from_config(scheduler.config))
    pipeline.set_progress_bar_config(disable=True)
    labels = None if num_classes is None else torch.arange(num_samples, device=unet.device) % num_classes
    was_training = unet.training
    unet.eval()
    images = pipeline(
        batch_size=num_samples,
        class_labels=labels,
        generator=torch.Generator().manual_seed(seed),
        num_inference_steps=num_inference_steps,
        eta=0.0,
    ).images
    unet.train(was_training)
    return image_grid(images)
