"""The likelihood of a model in bits per dimension: the variational bound on a set of images, term by term."""

import json
import math
from dataclasses import asdict, dataclass

import torch

from ddpm_hf.evaluation.discrete_chains import check_chain_length, discrete_chain
from ddpm_hf.evaluation.image_labels import check_labels
from ddpm_hf.evaluation.noised_batches import Measuring, noised_batches, numbered
from ddpm_hf.evaluation.variational_bound import bound_term, prior_term
from ddpm_hf.number_checks import check_all_finite
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.samples import kind_of


@dataclass(frozen=True)
class BitsPerDim:
    """The variational bound on -log2 p(x0) per dimension (pixel and channel), a mean over images; lower is better.

    total: prior + sum(terms). standard_error: standard error of `total` over images and noise; None for one image.
    prior: KL(q(x_T | x0) || N(0, I)). terms: one for each of `timesteps`, descending; the last is the decoder's.
    per_image: the total of each image. levels: number of values of an image; None for points, whose bound is on a
    density in the network's units (standardised data); in the data's own units it is higher by the mean of
    log2(data_std). seed: the seed of the noise.
    """

    total: float
    standard_error: float | None
    prior: float
    terms: list[float]
    timesteps: list[int]
    per_image: list[float]
    levels: int | None
    seed: int

    def to_dict(self):
        return {"unit": "bits per dimension", "num_images": len(self.per_image), **asdict(self)}

    def to_json(self):
        return json.dumps(self.to_dict(), indent=2) + "\n"


@torch.no_grad()
def bits_per_dim(unet, scheduler, images, num_inference_steps=None, timesteps=None, levels=None, **measuring):
    """Bits per dimension of `images` under a diffusion model in any number of steps (Nichol & Dhariwal 2021, eq. 4-7).

    Each image costs one network call for each step of the trajectory. Its noise is a function of the seed, of its
    place in the data, and of the kind of device, so that the result does not depend on the batches or processes.

    Args:
        unet ([`UNet2DModel`]): the network, stock or ours, on the device of the computation. Dropout is switched off.
        scheduler ([`SchedulerMixin`]): a [`GaussianDiffusionScheduler`]; a stock scheduler of a discrete chain stands
            for the DDPM (eta = 1) of its config. Its own trajectory stays as it is.
        images: (N, C, H, W), integer levels 0 .. levels - 1, or floats in [-1, 1] on the grid of these levels; or an
            iterable of such batches. A network of points takes (N, d), in its own units.
        num_inference_steps, timesteps: how many timesteps, or which (descending); by default all of training.
        levels (`int`, *optional*): number of values that the images can take, by default 256, for 8 bits. Points
            have none.
        measuring: how the network is called, as in [`Measuring`]: `class_labels`, one for all or (N,), where None is
            "no class" if the model has a null label; `batch_size`, 64; `seed`, 0; `accelerator`, whose processes share
            the batches and all get the result; `progress_bar`, True.

    Returns:
        [`BitsPerDim`]

    Raises:
        ValueError: for images off the grid, a scheduler that has no bound, a network that does not fit, and for a term
            that is not finite, with its timestep and image.
    """
    measuring = Measuring(images, **measuring)
    unet = measuring.unwrapped(unet)
    scheduler = discrete_chain(scheduler, "be scored in bits per dimension")
    scheduler.set_timesteps(num_inference_steps, timesteps=timesteps)
    check_chain_length(unet, scheduler)
    return _measure(GaussianDiffusionPipeline(unet, scheduler), measuring, kind_of(unet.config, levels))


def _measure(pipeline, measuring, samples):
    """The [`BitsPerDim`] over the trajectory of the pipeline's scheduler."""
    timesteps = pipeline.scheduler.timesteps
    if isinstance(measuring.data, torch.Tensor):
        for first, batch in numbered(measuring.batches):  # checked before the work
            samples.check_data(batch, first)
        check_labels(measuring.class_labels, len(measuring.data))
    rows = []
    with noised_batches(pipeline, measuring, len(timesteps), "bits/dim") as batches:
        for batch in batches:
            samples.check_data(batch.data, batch.first)
            x0, condition_image = samples.split(samples.from_data(batch.data).to(pipeline.unet.device))
            terms = _bound_of_batch(batch, x0, condition_image, samples.levels)
            _check_finite(terms, timesteps, batch.first)
            rows.append((batch.first, terms / (x0[0].numel() * math.log(2))))
    num_images = batches.num_images
    totals, sums = _gathered(rows, num_images, len(timesteps), measuring)
    return BitsPerDim(
        total=totals.mean().item(),
        standard_error=(totals.std() / math.sqrt(num_images)).item() if num_images > 1 else None,
        prior=sums[0].item() / num_images,
        terms=(sums[1:] / num_images).tolist(),
        timesteps=timesteps.tolist(),
        per_image=totals.tolist(),
        levels=samples.levels,
        seed=measuring.seed,
    )


def _bound_of_batch(batch, x0, condition_image, levels):
    """The prior term and the terms of all steps, in nats: (B, 1 + K), float64, on the host, which waits only here."""
    scheduler = batch.pipeline.scheduler
    terms = [prior_term(scheduler, x0)]
    for t, _, x_t, output in batch.noised(x0, scheduler.timesteps, condition_image):
        terms.append(bound_term(scheduler, output, t, x0, x_t, levels=levels))
    return torch.stack(terms, dim=1).cpu().double()


def _gathered(rows, num_images, steps, measuring):
    """The totals of all images (N,) and the sums over them (1 + K,), from rows (first image, (B, 1 + K))."""
    totals = torch.zeros(num_images, dtype=torch.float64)
    sums = torch.zeros(1 + steps, dtype=torch.float64)
    for first, terms in rows:
        totals[first : first + len(terms)] = terms.sum(1)
        sums += terms.sum(0)
    # The total of an image is 0 in all processes but one.
    totals, sums = measuring.total(torch.cat([totals, sums])).split([num_images, 1 + steps])
    return totals, sums


def _check_finite(terms, timesteps, first):
    """Raises ValueError for the first term (B, 1 + K) that is not finite; the prior term comes first."""

    def name_of(column, image):
        what = "prior term" if column == 0 else f"term of timestep {timesteps[column - 1].item()}"
        return f"The {what} of image {first + image}"

    advice = "Is the network's output finite there (half precision, weights), and its variance not 0?"
    check_all_finite(terms.T, name_of, advice)
