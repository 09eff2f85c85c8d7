"""Inversion: the noise from which a deterministic sampler makes a given image."""

from dataclasses import dataclass

import torch
from diffusers.utils import BaseOutput

from ddpm_hf.number_checks import check_count
from ddpm_hf.pipelines.conditioning import ConditionInput, Guidance, make_conditioning
from ddpm_hf.pipelines.image_inputs import check_scheduler, for_each, prepare_images
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.pipelines.prompts import Prompts, with_prompts
from ddpm_hf.pipelines.run_arguments import StepCallback, agreed_batch_size
from ddpm_hf.schedulers.choices import COVARIANCE_TYPES

# Network calls per step; with five, the inversion is accurate to a hundredth of a level.
ROUNDS = 5


@dataclass
class InversionPipelineOutput(BaseOutput):
    """`latents`: (B, C, H, W), x_t at the highest timestep of the trajectory."""

    latents: torch.Tensor


class GaussianDiffusionInversionPipeline(GaussianDiffusionPipeline):
    """DDIM inversion (Song et al. 2020, section 4.3; Dhariwal & Nichol 2021, appendix F) to any accuracy.

    A sampling step is x_s = F_t(x_t) with eta = 0. Its inverse at x_s is the fixed point of

        x_t  <-  x_t + sqrt(abar_t / abar_s) (x_s - F_t(x_t)),        from x_t = sqrt(abar_t / abar_s) x_s on,

    whose first iteration is the usual inversion, with eps_hat held constant over the step. F is the scheduler's own
    step, including clipping, so denoising the latents with `eta=0` on the same trajectory gives the image back:

        inverse = GaussianDiffusionInversionPipeline.from_pipe(pipeline)
        latents = inverse(image, num_inference_steps=100).latents
        image = pipeline(latents=latents, num_inference_steps=100, eta=0.0).images[0]
    """

    @torch.no_grad()
    def __call__(
        self,
        image,
        batch_size: int = 1,
        class_labels=None,
        guidance_scale: float = 1.0,
        num_inference_steps: int | None = None,
        timesteps: list[int] | None = None,
        num_fixed_point_iterations: int = ROUNDS,
        return_dict: bool = True,
        callback_on_step_end=None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        condition_image=None,
        prompt=None,
        negative_prompt=None,
    ):
        """Find x_T of images.

        Args:
            image: PIL, numpy or torch, one for all or a list of one for each (`image_inputs.prepare_images`).
            batch_size: number of samples, which a list of labels or images implies too.
            num_fixed_point_iterations: iterations per step, each with one network call; 1 is the usual inversion.
            class_labels, guidance_scale, num_inference_steps, timesteps, guidance_interval, guidance_rescale,
                condition_image, prompt, negative_prompt: as in [`GaussianDiffusionPipeline`].
            callback_on_step_end: called as f(pipeline, step, timestep, {"latents": x_t}) after every step, with the
                timestep at which it arrived; it may return new `latents`.

        Returns:
            [`InversionPipelineOutput`], or with `return_dict=False` a tuple of the latents.
        """
        _check_invertible(self.scheduler)
        check_count("num_fixed_point_iterations", num_fixed_point_iterations)
        latents = prepare_images(self, image)
        batch_size = agreed_batch_size(
            batch_size, image=latents if len(latents) > 1 else None, class_labels=class_labels
        )
        latents = for_each(latents, batch_size)
        guidance = Guidance(guidance_scale, guidance_interval, guidance_rescale)
        condition = ConditionInput(condition_image, sides=tuple(latents.shape[2:]))
        conditioning = make_conditioning(self, class_labels, guidance, batch_size, condition)
        conditioning = with_prompts(self, conditioning, Prompts(prompt, negative_prompt), batch_size)
        self._set_timesteps(num_inference_steps, timesteps)
        _check_ends_with_signal(self.scheduler)
        callback, ascending = StepCallback(callback_on_step_end), self.scheduler.timesteps.flip(0)
        steps = list(zip(ascending, ascending.to(latents.device), strict=True))
        for i, (t, t_on_device) in enumerate(self.progress_bar(steps)):
            latents = self._step_up(latents, t, t_on_device, conditioning, num_fixed_point_iterations)
            latents = callback(self, i, t, {"latents": latents})
        self.maybe_free_model_hooks()
        return InversionPipelineOutput(latents=latents) if return_dict else (latents,)

    def _step_up(self, x_s, t, t_on_device, conditioning, iterations):
        s = self.scheduler.previous_timestep(int(t))
        shrinking = (self.scheduler.alpha_bar(t) / self.scheduler.alpha_bar(s)).sqrt().item()
        now, x_t = conditioning.at(t, self.scheduler), shrinking * x_s
        for _ in range(iterations):
            output = self.predict(x_t, t, t_on_device, now)
            x_t = x_t + shrinking * (x_s - self.scheduler.p_mean_variance(output, t, x_t, eta=0.0).mean)
        return x_t


def _check_invertible(scheduler):
    check_scheduler(scheduler, first_order=True)
    if scheduler.config.variance_type in COVARIANCE_TYPES:
        raise ValueError(
            f"variance_type={scheduler.config.variance_type!r} draws noise at eta=0 too, so no x_T alone leads to an "
            "image: use GaussianDiffusionScheduler.from_config(pipeline.scheduler.config, "
            "variance_type='fixed_small')."
        )


def _check_ends_with_signal(scheduler):
    """Raises ValueError where the highest timestep of the trajectory has no signal."""
    highest = scheduler.timesteps[0].item()
    if scheduler.alpha_bar(highest) == 0:
        raise ValueError(
            f"Timestep {highest} has no signal (rescale_betas_zero_snr), so nothing of an image arrives there: "
            "begin at a lower one, as with timestep_spacing='leading' or `timesteps`."
        )
