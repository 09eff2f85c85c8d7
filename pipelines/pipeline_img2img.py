"""Image to image without retraining: sampling starts from a noised image."""

import torch
from diffusers.utils.torch_utils import randn_tensor

from ddpm_hf.pipelines.image_inputs import check_scheduler, for_each, prepare_images
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.pipelines.run_arguments import agreed_batch_size


class GaussianDiffusionImg2ImgPipeline(GaussianDiffusionPipeline):
    """SDEdit (Meng et al. 2022, algorithm 2): noise an image up to a timestep t and denoise it from there.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise. Details below the noise level are painted anew, larger structures
    stay. `GaussianDiffusionImg2ImgPipeline.from_pipe(pipeline)` shares the components of another pipeline.
    """

    @torch.no_grad()
    def __call__(
        self,
        image,
        strength: float = 0.8,
        batch_size: int = 1,
        num_inference_steps: int | None = None,
        timesteps: list[int] | None = None,
        **kwargs,
    ):
        """Repaint images.

        Args:
            image: PIL, numpy or torch, one for all or a list of one for each (`image_inputs.prepare_images`).
            strength: the share of the steps, in (0, 1], counted as in diffusers; the last steps are run, at least one.
                1 keeps almost nothing of the image.
            batch_size: number of samples, which a list of labels, generators or images implies too.
            num_inference_steps, timesteps: the whole trajectory, of which the share is run.
            kwargs: arguments of [`GaussianDiffusionPipeline`], such as `class_labels` and `generator`, not `latents`.

        Returns:
            The output of [`GaussianDiffusionPipeline`].
        """
        if not 0 < strength <= 1:
            raise ValueError(f"strength={strength} must be in (0, 1]: the share of the steps that is walked.")
        check_scheduler(self.scheduler)
        x_0 = prepare_images(self, image)
        generator, several = kwargs.get("generator"), {"image": x_0} if len(x_0) > 1 else {}
        batch_size = agreed_batch_size(
            batch_size, **several, class_labels=kwargs.get("class_labels"), generator=generator
        )
        x_0 = for_each(x_0, batch_size)
        self._set_timesteps(num_inference_steps, timesteps)
        walked = self.scheduler.timesteps[-max(1, int(strength * len(self.scheduler.timesteps))) :].tolist()
        self._set_timesteps(None, walked)
        noise = randn_tensor(x_0.shape, generator, x_0.device, x_0.dtype)
        return super().__call__(timesteps=walked, latents=self.scheduler.add_noise(x_0, noise, walked[0]), **kwargs)
