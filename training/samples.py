"""Samples during training; each process draws a part of them."""

import torch

from ddpm_hf.distributed import gather_parts, own_part, together
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline


class _Stopped(Exception):
    """Sampling was stopped between two calls of the network."""


def draw_samples(unet, scheduler, accelerator, args, number, is_to_stop=lambda: False):
    """So many samples, or None if `is_to_stop()` became true in any process; every process must call this.

    Each process draws `batch_size` of its part at a time, and a network with classes gets them in turn. Sample i
    starts from the noise of the generator `seed + i`, whichever process draws it. eta is 0, so that only the weights
    change from one grid to the next.

    Args:
        args: `batch_size`, `sample_steps` and `seed` as in `TrainingArguments`.
        number (`int`): how many.

    Returns:
        a list of PIL images, or of points (d,)

    Raises:
        InputError: in every process, if samples in one are not finite.
    """
    places = own_part(number, accelerator)

    def draw_own_part():
        images = []
        try:
            for first in range(0, len(places), args.batch_size):
                batch = places[first : first + args.batch_size]
                images += _draw(unet, scheduler, batch, args, is_to_stop)
        except _Stopped:
            return [None]
        return images

    # The pipeline refuses samples that are not finite.
    images = gather_parts(together(accelerator, draw_own_part, ValueError), accelerator)
    return None if any(image is None for image in images) else images


def _draw(unet, scheduler, places, args, is_to_stop):
    """A list of the samples with these numbers; raises `_Stopped` if sampling was stopped."""
    # A separate scheduler, because sampling sets timesteps.
    pipeline = GaussianDiffusionPipeline(unet=unet, scheduler=scheduler.from_config(scheduler.config))
    pipeline.set_progress_bar_config(disable=True)

    def stop_if_asked(pipeline, step, timestep, tensors):
        if is_to_stop():
            raise _Stopped

    num_classes = unet.config.get("num_classes")
    was_training = unet.training
    unet.eval()
    try:
        drawn = pipeline(
            batch_size=len(places),
            class_labels=None if num_classes is None else torch.tensor(places, device=unet.device) % num_classes,
            generator=[torch.Generator().manual_seed(args.seed + place) for place in places],
            num_inference_steps=args.sample_steps,
            eta=0.0,
            callback_on_step_end=stop_if_asked,
        )
        return list(drawn.images)
    finally:
        unet.train(was_training)
