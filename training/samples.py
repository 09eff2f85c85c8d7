"""Grids of samples, drawn while training goes on and without touching its random state."""

import torch
from diffusers.utils import make_image_grid

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
    rows = max(n for n in range(1, num_samples + 1) if num_samples % n == 0 and n * n <= num_samples)
    return make_image_grid(images, rows=rows, cols=num_samples // rows)
