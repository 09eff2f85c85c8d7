"""Inpainting without retraining: known pixels are restored at every noise level."""

from typing import NamedTuple

import torch
from diffusers.utils.torch_utils import randn_tensor

from ddpm_hf.number_checks import check_count
from ddpm_hf.pipelines.conditioning import ConditionInput, Guidance, make_conditioning
from ddpm_hf.pipelines.image_inputs import check_scheduler, for_each, prepare_images, prepare_mask
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.pipelines.prompts import Prompts, with_prompts
from ddpm_hf.pipelines.run_arguments import StepCallback, agreed_batch_size, check_output


class GaussianDiffusionInpaintPipeline(GaussianDiffusionPipeline):
    """RePaint (Lugmayr et al. 2022, algorithm 1): each step resets the known pixels to the noised image.

    To make the painted part fit the known part, x_t jumps back by some steps of the trajectory with fresh noise, and
    is denoised again (section 4.2). `GaussianDiffusionInpaintPipeline.from_pipe(pipeline)` shares components.
    """

    @torch.no_grad()
    def __call__(
        self,
        image,
        mask_image,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        batch_size: int = 1,
        class_labels=None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        timesteps: list[int] | None = None,
        eta: float | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end=None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
        condition_image=None,
        augmentation_level: float = 0.0,
        prompt=None,
        negative_prompt=None,
        **guidance,
    ):
        """Paint a part of images anew; the rest is returned unchanged.

        Args:
            image: PIL, numpy or torch, one for all or a list of one for each (`image_inputs.prepare_images`).
            mask_image: 1 (white) to paint, 0 (black) known; of the image's size, one for all or one for each.
            jump_length: number of steps of each jump, at most all steps of the trajectory.
            jump_n_sample: how often each stretch of that length is denoised; 1 means no jumps. The network is called
                about `jump_n_sample` times per step.
            batch_size: number of samples, implied by lists of labels, generators, images, masks, or by `latents`.
            class_labels .. negative_prompt, guidance: as in [`GaussianDiffusionPipeline`]. The callback sees
                `latents` with the known pixels restored.

        Returns:
            [`ImagePipelineOutput`] with `.images`, or with `return_dict=False` a tuple of them.
        """
        check_output(output_type, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        check_count("jump_length", jump_length)
        check_count("jump_n_sample", jump_n_sample)
        check_scheduler(self.scheduler, first_order=jump_n_sample > 1)
        x_0, painted = prepare_images(self, image), prepare_mask(self, mask_image, image)
        several = {name: x for name, x in (("image", x_0), ("mask_image", painted)) if len(x) > 1}
        batch_size = agreed_batch_size(
            batch_size, class_labels=class_labels, latents=latents, generator=generator, **several
        )
        x_0, painted = for_each(x_0, batch_size), for_each(painted, batch_size)
        condition = ConditionInput(condition_image, augmentation_level, tuple(x_0.shape[2:]))
        conditioning = make_conditioning(self, class_labels, Guidance(**guidance), batch_size, condition, generator)
        conditioning = with_prompts(self, conditioning, Prompts(prompt, negative_prompt), batch_size)
        self._set_timesteps(num_inference_steps, timesteps)
        visited = resampled(self.scheduler.timesteps.tolist(), jump_length, jump_n_sample)
        callback = StepCallback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        samples = self._denoise(
            self.initial_latents(batch_size, latents, generator, x_0.device, tuple(x_0.shape[2:])),
            torch.tensor(visited),
            conditioning,
            self._step_kwargs(eta=eta, generator=generator),
            RestoringCallback(x_0, painted, visited, generator, callback),
        )
        return self.returned(samples, output_type, return_dict)


class RestoringCallback(NamedTuple):
    """Restores the known pixels of x_s, runs the caller's callback, and adds the noise of a following jump.

    Args:
        x_0: the images, (B, C, H, W).
        painted: the mask, (B, 1, H, W); True where x_s is kept.
        visited: the timesteps of the network calls.
        generator: the source of the noise.
        callback: the caller's.
    """

    x_0: torch.Tensor
    painted: torch.Tensor
    visited: list[int]
    generator: torch.Generator | list[torch.Generator] | None
    callback: StepCallback

    def __call__(self, pipeline, step, timestep, tensors):
        """The latents for the next step."""
        scheduler, x_0 = pipeline.scheduler, self.x_0
        s = scheduler.previous_timestep(int(timestep))
        known = x_0 if s < 0 else scheduler.add_noise(x_0, _noise(x_0, self.generator), s)
        x_s = torch.where(self.painted, tensors["latents"], known)
        x_s = self.callback(pipeline, step, timestep, tensors | {"latents": x_s})
        following = self.visited[step + 1 : step + 2]
        if following and following[0] > s:
            x_s = _noised_again(scheduler, x_s, s, following[0], self.generator)
        return x_s


def _noised_again(scheduler, x_s, s, t, generator):
    """x_t ~ q(x_t | x_s) = N(sqrt(abar_t / abar_s) x_s, (1 - abar_t / abar_s) I), t above s (Ho 2020, eq. 2)."""
    share = (scheduler.alpha_bar(t) / scheduler.alpha_bar(s)).item()
    return share**0.5 * x_s + (1 - share) ** 0.5 * _noise(x_s, generator)


def resampled(timesteps, jump_length, jump_n_sample):
    """The timesteps of the network calls, in order, with jumps back (Lugmayr et al. 2022, section 4.2).

    From the second lowest timestep upwards, each stretch of `jump_length` timesteps is visited `jump_n_sample` times;
    the rest above the highest whole stretch, and the step to clean data, are visited once.

    Args:
        timesteps (`list[int]`): descending.
    """
    *noisy, last = timesteps
    length = min(jump_length, max(1, len(noisy)))
    once = len(noisy) % length
    visited = noisy[:once]
    for first in range(once, len(noisy), length):
        visited += noisy[first : first + length] * jump_n_sample
    return [*visited, last]


def _noise(like, generator):
    return randn_tensor(like.shape, generator, like.device, like.dtype)
