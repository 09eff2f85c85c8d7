"""Interpolation between two images by denoising mixtures of their noised versions."""

import torch
from diffusers.utils.torch_utils import randn_tensor

from ddpm_hf.number_checks import is_whole
from ddpm_hf.pipelines.image_inputs import check_scheduler, prepare_images, size_to_edit
from ddpm_hf.schedulers.config_checks import check_choice

MODES = ("linear", "spherical")


@torch.no_grad()
def interpolate(
    pipeline,
    image_a,
    image_b,
    weights=(0.0, 0.25, 0.5, 0.75, 1.0),
    depth=500,
    mode="linear",
    generator=None,
    num_inference_steps=None,
    **kwargs,
):
    """Images between one image and another (Ho et al. 2020, section 4.4 and figure 8).

    Both are noised to the timestep `depth` with the same noise and mixed there. All mixtures are denoised with the
    same noise in every step; the weights 0 and 1 give the model's versions of the two images.

    Args:
        pipeline ([`GaussianDiffusionPipeline`]): the model's pipeline.
        image_a, image_b: one image each, PIL, numpy or torch (`image_inputs.prepare_images`).
        weights (`Iterable[float]`): weights of the second image, in [0, 1]; each gives one image, in one batch.
        depth (`int`): the timestep, 0 .. T-1; a higher one gives less resemblance to both images.
        mode (`str`): `linear`, (1 - w) x_a + w x_b, which keeps the strength of the shared noise; or `spherical`
            (Shoemake 1985), along the great circle, which keeps the length of x_t.
        generator (`torch.Generator`, *optional*): the source of all noise.
        num_inference_steps (`int`, *optional*): steps of the whole chain; `depth` and those below it run.
        kwargs: arguments of [`GaussianDiffusionPipeline`], except `latents` and `timesteps`.

    Returns:
        The pipeline's output, with one image per weight.

    Raises:
        ValueError: for weights, a depth, a mode or images that are not as described above.
    """
    weights = checked_weights(weights)
    _check_mixture(depth, mode, pipeline.scheduler.config.num_train_timesteps)
    check_scheduler(pipeline.scheduler)
    x_a, x_b = pair_of_images(pipeline, image_a=image_a, image_b=image_b)
    if generator is None:
        generator = torch.Generator().manual_seed(torch.randint(2**63 - 1, ()).item())
    noise = randn_tensor(x_a.shape, generator, x_a.device, x_a.dtype)
    x_a, x_b = (pipeline.scheduler.add_noise(x, noise, depth) for x in (x_a, x_b))
    mix = torch.lerp if mode == "linear" else slerp
    pipeline.scheduler.set_timesteps(num_inference_steps)
    return pipeline(
        latents=torch.cat([mix(x_a, x_b, weight) for weight in weights]),
        timesteps=[depth, *(t for t in pipeline.scheduler.timesteps.tolist() if t < depth)],
        generator=[_copy(generator) for _ in weights],
        **kwargs,
    )


def slerp(a, b, weight):
    """sin((1 - w) angle) / sin(angle) a + sin(w angle) / sin(angle) b for the angle from a to b (Shoemake 1985)."""
    cosine = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).clamp(-1, 1)
    angle = cosine.acos()
    if angle.sin() < 1e-4:  # the formula is 0/0 for parallel vectors
        return torch.lerp(a, b, weight)
    # Factors are computed first, because at the ends they are exactly 0 and 1.
    return ((1 - weight) * angle).sin() / angle.sin() * a + (weight * angle).sin() / angle.sin() * b


def checked_weights(weights):
    """The weights of a second image as a list; ValueError for none, and for one that is not in [0, 1]."""
    weights = [float(weight) for weight in weights]
    if not weights or any(not 0 <= weight <= 1 for weight in weights):
        raise ValueError(f"weights={weights} must be one or more numbers in [0, 1].")
    return weights


def _check_mixture(depth, mode, steps):
    if not is_whole(depth, 0, steps - 1):
        raise ValueError(f"depth={depth} must be a timestep, a whole number in 0 .. {steps - 1}.")
    check_choice("mode", mode, MODES)


def pair_of_images(pipeline, **images):
    """x_0 of each of two named images, (1, C, H, W), in the size of the first; ValueError for several in a place."""
    size = size_to_edit(pipeline, next(iter(images.values())))
    both = {name: prepare_images(pipeline, image, size) for name, image in images.items()}
    for name, x_0 in both.items():
        if len(x_0) != 1:
            raise ValueError(f"{name} is {len(x_0)} images; it must be one.")
    return both.values()


def _copy(generator):
    return torch.Generator(generator.device).set_state(generator.get_state())
