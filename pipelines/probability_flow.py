"""The probability flow of any pipeline's model: exact encoding and decoding, sampling, and interpolation of encodings.

The flow is an ordinary differential equation whose solutions carry data to noise and back (Song et al. 2021, eq. 13);
an adaptive solver follows it as exactly as its tolerances say, in as many calls of the network as that takes.
"""

from typing import NamedTuple

import torch

from ddpm_hf.ode_solver import OdeOptions, solve_ode
from ddpm_hf.pipelines.conditioning import Guidance, make_conditioning
from ddpm_hf.pipelines.image_inputs import prepare_images
from ddpm_hf.pipelines.interpolation import checked_weights, pair_of_images, slerp
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.schedulers.scheduling_score_sde import ScoreSDEScheduler


class FlowResult(NamedTuple):
    """Where the flow ended, (B, C, *) in float32, and the number of calls of the network."""

    samples: torch.Tensor
    calls: int


def in_continuous_time(pipeline):
    """The pipeline with a [`ScoreSDEScheduler`]; that of a DDPM, stock or ours, is made from its config."""
    if pipeline.text_encoder is not None:
        raise ValueError("The probability flow is of models without a text, and this one has one: sample in steps.")
    scheduler = pipeline.scheduler
    if not isinstance(scheduler, ScoreSDEScheduler):
        scheduler = ScoreSDEScheduler.from_config(scheduler.config)
    return GaussianDiffusionPipeline(pipeline.unet, scheduler, vae=pipeline.vae)


class Score:
    """score(x, t), the gradient of log p_t at x, for x (B, C, *) and t (B,), from the network of a pipeline.

    It is computed in float32 at least, and differentiable by autograd.

    Args:
        pipeline ([`GaussianDiffusionPipeline`]): with a [`ScoreSDEScheduler`], from `in_continuous_time`.
        class_labels: one label for all or one for each of the samples, as in the pipeline's call.
        guidance_scale (`float`): of classifier-free guidance.
        batch_size (`int`): B.
    """

    def __init__(self, pipeline, class_labels=None, guidance_scale=1.0, batch_size=1):
        self.pipeline = pipeline
        self.conditioning = make_conditioning(pipeline, class_labels, Guidance(guidance_scale), batch_size)

    def __call__(self, x, t):
        scheduler = self.pipeline.scheduler
        output = self.pipeline.predict(x, t, scheduler.network_time(t), self.conditioning)
        return scheduler.score(output, t, x)


@torch.no_grad()
def follow_flow(score, scheduler, samples, start, end, options=OdeOptions()):
    """Follows the probability flow from the time `start` to `end`, in (0, 1], in float64.

    Args:
        score (`Callable`): score(x, t) for x (B, C, *) and t (B,), both float64; a [`Score`] or an exact one.
        scheduler ([`ScoreSDEScheduler`]): gives the drift.
        samples (`torch.Tensor`): x at `start`, (B, C, *).
        options ([`OdeOptions`]): as in `solve_ode`.

    Returns:
        [`FlowResult`], in float64.
    """

    def derivative(t, state):
        times = t.to(samples.device).expand(len(samples))
        return (scheduler.probability_flow_drift(state[0], times, score(state[0], times)),)

    (moved,), calls = solve_ode(derivative, (samples.double(),), start, end, options)
    return FlowResult(moved, calls)


@torch.no_grad()
def decode(pipeline, latents, class_labels=None, guidance_scale=1.0, denoise=None, output_type=None, **tolerances):
    """Samples from latents x at t = 1, deterministically.

    Args:
        pipeline ([`GaussianDiffusionPipeline`]): any model of it, in discrete or continuous time.
        latents (`torch.Tensor`): (B, C, *); `encode` gives those of data, and noise times `init_noise_sigma` gives new
            samples.
        denoise (`bool`): add one step to x0_hat from where the flow stops, which removes the noise that is left there;
            by default the scheduler's `denoise`. False gives back exactly what was encoded.
        output_type (`str`, *optional*): as in the pipeline's call.
        tolerances: `rtol`, `atol` and `on_call` of [`OdeOptions`].

    Returns:
        The samples as the pipeline returns them, and the number of calls of the network.
    """
    pipeline = in_continuous_time(pipeline)
    scheduler, score = pipeline.scheduler, Score(pipeline, class_labels, guidance_scale, len(latents))
    options = OdeOptions(**tolerances)
    samples, calls = follow_flow(score, scheduler, latents, 1.0, scheduler.sampling_eps, options)
    if scheduler.config.denoise if denoise is None else denoise:
        times = torch.full((len(samples),), scheduler.sampling_eps, dtype=torch.float64, device=samples.device)
        signal, sigma = (level[0].item() for level in scheduler.process.levels(times))
        samples, calls = (samples + sigma**2 * score(samples, times)) / signal, calls + 1
    output_type = pipeline.samples.agreed_output_type(output_type)
    return pipeline.returned(samples.float(), output_type, return_dict=True).images, calls


@torch.no_grad()
def encode(pipeline, data, class_labels=None, **tolerances):
    """The latents at t = 1 of data, which are taken as they are where the flow begins, and nothing is added to them.

    Args:
        data: images as `prepare_images` takes them, or a tensor of points, (N, d), in the network's units.
        tolerances: `rtol`, `atol` and `on_call` of [`OdeOptions`].

    Returns:
        [`FlowResult`]
    """
    samples = prepare_images(pipeline, data) if pipeline.samples.side_names else data.to(pipeline.unet.device)
    return _encoded(in_continuous_time(pipeline), samples, class_labels, **tolerances)


def _encoded(pipeline, samples, class_labels=None, **tolerances):
    """`encode` for data as the network takes them, and a pipeline in continuous time."""
    if not pipeline.scheduler.config.centered:
        samples = (samples + 1) / 2
    score = Score(pipeline, class_labels, batch_size=len(samples))
    eps, options = pipeline.scheduler.sampling_eps, OdeOptions(**tolerances)
    found = follow_flow(score, pipeline.scheduler, samples, eps, 1.0, options)
    return found._replace(samples=found.samples.float())


def sample_by_flow(pipeline, num_images, seed=0, batch_size=64, **options):
    """Samples as the pipeline returns them, sample i from the noise of the generator `seed + i`, and the calls.

    Args:
        options: `class_labels`, `guidance_scale`, `output_type` of `decode`, and `rtol`, `atol` and `on_call` of
            [`OdeOptions`], which hold for each sample.

    Returns:
        The list of samples, and the number of calls of the network, those of all batches together.
    """
    pipeline, images, calls = in_continuous_time(pipeline), [], 0
    for first in range(0, num_images, batch_size):
        seeds = range(seed + first, seed + min(first + batch_size, num_images))
        generators = [torch.Generator().manual_seed(each) for each in seeds]
        latents = pipeline.initial_latents(len(generators), None, generators, pipeline.unet.device)
        drawn, more_calls = decode(pipeline, latents, **options)
        images.extend(drawn)
        calls += more_calls
    return images, calls


def interpolate_encodings(pipeline, image_a, image_b, weights=(0.0, 0.25, 0.5, 0.75, 1.0), **options):
    """Images between one image and another, decoded from latents on the great circle between their latents.

    The images of the weights 0 and 1 are the two images themselves, to the tolerance of the solver.

    Args:
        weights (`Iterable[float]`): weights of the second image, in [0, 1]; each gives one image.
        options: `class_labels`, `rtol`, `atol`, `on_call`.

    Returns:
        The images, and the number of calls of the network.
    """
    weights = checked_weights(weights)
    pair = torch.cat([*pair_of_images(pipeline, image_a=image_a, image_b=image_b)])
    (z_a, z_b), calls = _encoded(in_continuous_time(pipeline), pair, **options)
    mixtures = torch.stack([slerp(z_a, z_b, weight) for weight in weights])
    images, more_calls = decode(pipeline, mixtures, denoise=False, **options)
    return images, calls + more_calls
