"""The figures that `ddpm-hf show` draws of a model and its data."""

from dataclasses import replace

import torch

from ddpm_hf.calibration.reverse_variances import reverse_variances
from ddpm_hf.data import to_model_range
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.forward_process import forward_marginals
from ddpm_hf.evaluation.run import load_data
from ddpm_hf.models.network_config import has_head
from ddpm_hf.pipelines.conditioning import Conditioning
from ddpm_hf.recipes import check_head
from ddpm_hf.visualization.calibration import draw_variances
from ddpm_hf.visualization.forward_process import draw_forward_process
from ddpm_hf.visualization.points import draw_samples, draw_score_field

# Default timesteps, out of 1000.
FORWARD_THOUSANDTHS = (0, 29, 59, 99, 299, 999)
SCORE_THOUSANDTHS = (9, 99, 199, 299, 499, 999)


def forward(pipeline, data, num_samples, timesteps=None, num_images=2, seed=0):
    """The forward process on a model's data, step by step and in closed form, with the test that both agree.

    Args:
        data (`DataArguments`): which samples.
        num_samples (`int`): samples drawn at random with `seed`; the test compares halves of them.
        timesteps (`list[int]`, *optional*): 0-based; t = 0, 29, 59, 99, 299, 999 by default, scaled to T.
        num_images (`int`): rows of images.
    """
    timesteps = timesteps or _scaled(FORWARD_THOUSANDTHS, pipeline.scheduler)
    x_0 = clean_samples(pipeline, data, num_samples, seed)
    generator = torch.Generator().manual_seed(seed)
    return draw_forward_process(forward_marginals(pipeline.scheduler, x_0, timesteps, generator), num_images)


def samples(pipeline, data, num_samples, seed=0, **options):
    """Samples of a model of points over equally many data points, in the data's own units.

    Args:
        data (`DataArguments`): which points.
        options: arguments of the pipeline call.
    """
    _check_points(pipeline, "For images, `ddpm-hf sample` writes a grid.")
    points = clean_samples(pipeline, data, num_samples, seed)
    drawn = pipeline(num_samples, generator=torch.Generator().manual_seed(seed), output_type="pt", **options).images
    return draw_samples(pipeline.samples.in_data_units(points), drawn.cpu())


def path(pipeline, num_samples, num_frames, seed=0, **options):
    """The reverse process of points as `{title: points}`, at evenly falling noise levels sqrt(1 - abar_t).

    Args:
        num_frames (`int`): number of frames, including the noise at the beginning and the samples at the end.
        options: arguments of the pipeline call.
    """
    _check_points(pipeline, "For images, `ddpm-hf sample --trajectory` writes the way.")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_samples, *pipeline.samples.shape, generator=generator)
    states = []

    def keep(pipeline, step, timestep, tensors):
        states.append(tensors["latents"].cpu())

    pipeline(latents=noise, generator=generator, callback_on_step_end=keep, output_type="latent", **options)
    timesteps = pipeline.scheduler.timesteps.cpu()
    left = (1 - pipeline.scheduler.alpha_bar(torch.cat([timesteps, torch.tensor([-1])]))).sqrt()
    wanted = torch.linspace(left[0].item(), 0, num_frames, dtype=left.dtype)
    chosen = (left[None] - wanted[:, None]).abs().argmin(1).unique().tolist()
    titles = [f"t = {t}" for t in timesteps.tolist()] + ["samples"]
    return {titles[i]: [noise, *states][i] for i in chosen}


def score_field(pipeline, data, num_samples, timesteps=None, seed=0):
    """The model's score over its data.

    Args:
        data (`DataArguments`): which points.
        timesteps (`list[int]`, *optional*): a panel for each; t = 9, 99, 199, 299, 499, 999 by default, scaled to T.
    """
    _check_points(pipeline, "Arrows show a plane, not images.")
    timesteps = timesteps or _scaled(SCORE_THOUSANDTHS, pipeline.scheduler)
    points = clean_samples(pipeline, data, num_samples, seed)
    return draw_score_field(pipeline.scheduler, _predictor(pipeline), points, timesteps)


def variances(pipeline, num_inference_steps, data=None, num_samples=256, seed=0):
    """The variances of every recipe that the model can use; a variance head is read on `num_samples` of its data.

    Args:
        data (`DataArguments`): which samples; read only for a variance head.
    """
    head = pipeline.scheduler.config.variance_type if has_head(pipeline.unet.config) else None
    of_head = {}
    if head is not None:
        check_head(pipeline.unet, pipeline.scheduler)
        x_0 = clean_samples(pipeline, data, num_samples, seed)
        of_head = {"predict": _predictor(pipeline), "head": head, "samples": x_0}
    generator = torch.Generator().manual_seed(seed)
    return draw_variances(reverse_variances(pipeline.scheduler, num_inference_steps, generator=generator, **of_head))


def clean_samples(pipeline, data, num_samples, seed):
    """x_0 in the range of the network, float32, (N, C, *)."""
    # A named distribution gives any number of points.
    data = replace(data, num_points=max(data.num_points, num_samples))
    x_0, _ = load_data(data, pipeline.unet.config, num_samples, seed)
    return to_model_range(x_0)


def _scaled(thousandths, scheduler):
    """Timesteps out of 1000 scaled to the scheduler's T, ascending and without repeats."""
    return sorted({round((t + 1) * len(scheduler) / 1000 - 1e-9) - 1 for t in thousandths} - {-1})


def _predictor(pipeline):
    """The network as a function (x_t, t) of CPU tensors."""
    device = pipeline.unet.device

    @torch.no_grad()
    def predict(x_t, t):
        labels = pipeline.encode_labels(None, 1.0, len(x_t), device)
        return pipeline.predict(x_t.to(device), t, t.to(device), Conditioning(labels)).cpu()

    return predict


def _check_points(pipeline, otherwise):
    shape = pipeline.samples.shape
    if shape != (2,):
        raise InputError(
            f"This picture is of points of the plane, and the model makes samples of shape {shape}. {otherwise}"
        )
