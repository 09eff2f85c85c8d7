"""Grids of samples, drawn while training goes on; each process draws a part of them."""

import numpy as np
import torch

from ddpm_hf.models.network_config import is_of_points
from ddpm_hf.pipelines.image_grids import image_grid
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.processes import gather_parts, own_part
from ddpm_hf.visualization.point_sets import draw_points
from ddpm_hf.visualization.style import to_image


class _Stopped(Exception):
    """Sampling is left between two calls of the network."""


def sample_grid(
    unet,
    scheduler,
    num_samples,
    num_inference_steps,
    seed,
    accelerator,
    num_classes=None,
    is_to_stop=lambda: False,
):
    """Samples as one image, points as a scatter, or None if `is_to_stop()` became true in any process; every process must call this.

    Sample i starts from the noise of the generator `seed + i`, whichever process draws it. eta is 0, so that from one grid
    to the next nothing changes but the weights.
    """
    places = own_part(num_samples, accelerator)
    images = _draw(unet, scheduler, places, num_inference_steps, seed, num_classes, is_to_stop) if places else []
    images = gather_parts([None] if images is None else list(images), accelerator)
    if any(image is None for image in images):
        return None
    return to_image(draw_points(np.stack(images))) if is_of_points(unet.config) else image_grid(images)


def _draw(unet, scheduler, places, num_inference_steps, seed, num_classes, is_to_stop):
    """The samples of these places, or None if they were given up."""
    # A scheduler of its own: sampling sets timesteps.
    pipeline = GaussianDiffusionPipeline(unet=unet, scheduler=scheduler.from_config(scheduler.config))
    pipeline.set_progress_bar_config(disable=True)

    def stop_if_asked(pipeline, step, timestep, tensors):
        if is_to_stop():
            raise _Stopped

    was_training = unet.training
    unet.eval()
    try:
        return pipeline(
            batch_size=len(places),
            class_labels=None if num_classes is None else torch.tensor(places, device=unet.device) % num_classes,
            generator=[torch.Generator().manual_seed(seed + place) for place in places],
            num_inference_steps=num_inference_steps,
            eta=0.0,
            callback_on_step_end=stop_if_asked,
        ).images
    except _Stopped:
        return None
    finally:
        unet.train(was_training)
