"""The pipeline that samples images or points from a DDPM, with or without labels, in any number of steps."""

import inspect

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    ImagePipelineOutput,
    ModelMixin,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from ddpm_hf.models.exact_denoiser import ExactDenoiser
from ddpm_hf.models.level_embedding import telling_levels
from ddpm_hf.models.linear_attention_unet_2d import LinearAttentionUNet2DModel
from ddpm_hf.models.mlp_denoiser import MLPDenoiser
from ddpm_hf.models.ncsnpp_2d import NCSNpp2DModel
from ddpm_hf.pipelines.conditioning import ConditionInput, Guidance, check_classifier, encode_labels, make_conditioning
from ddpm_hf.pipelines.loading import PortableLoadingMixin
from ddpm_hf.pipelines.portable_pipeline import PortableSavingMixin
from ddpm_hf.pipelines.prompts import Prompts, encode_prompts, with_prompts
from ddpm_hf.pipelines.run_arguments import StepCallback, agreed_batch_size, check_finite, check_output
from ddpm_hf.pipelines.sample_sizes import sides_to_draw
from ddpm_hf.pipelines.schedulers import (
    centered,
    check_time_input,
    network_times,
    own_scheduler,
    reads_head,
    updates,
    without_last_noise,
)
from ddpm_hf.samples import kind_of
from ddpm_hf.samples.images import IMAGE_PROCESSOR
from ddpm_hf.schedulers.guidance import classifier_free_guidance
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler


class GaussianDiffusionPipeline(PortableSavingMixin, PortableLoadingMixin, DiffusionPipeline):
    """Samples images from a `UNet2DModel`, like [`DDPMPipeline`] with more options, or points from an [`MLPDenoiser`].

    Saved folders hold the code of this class as `pipeline.py`, and load with stock classes too:
    `DiffusionPipeline.from_pretrained(R)` gives a [`DDPMPipeline`] of stock components if that can run the model, and
    with `custom_pipeline=R, trust_remote_code=True` it gives this pipeline, even without the package. Models that
    [`DDPMPipeline`] cannot run (with labels, for example) require `trust_remote_code=True`. This class loads both.

    Args:
        unet ([`UNet2DModel`]): stock or ours, with C output channels, or 2C with a variance head. For points it is an
            [`MLPDenoiser`]; an [`ExactDenoiser`] serves for both. Networks of other codes are an [`ADMUNet2DModel`],
            an [`NCSNpp2DModel`] or a [`LinearAttentionUNet2DModel`].
        scheduler ([`SchedulerMixin`]): a [`DDPMScheduler`] or [`DDIMScheduler`] becomes the equivalent
            [`GaussianDiffusionScheduler`] (eta 1 and 0), a [`ScoreSdeVeScheduler`] a [`ScoreSDEScheduler`]; other
            schedulers stay.
        classifier ([`NoisyImageClassifier`], *optional*): predicts the class of x_t, for `classifier_guidance_scale`;
            its image size, channels and classes equal the network's.
        vae ([`AutoencoderKL`], *optional*): decodes the samples of a network of latents, and encodes images to edit.
        text_encoder ([`PreTrainedModel`], *optional*), tokenizer ([`PreTrainedTokenizerBase`], *optional*): of
            transformers, for a [`UNet2DConditionModel`] that is told a text.
    """

    model_cpu_offload_seq = "text_encoder->classifier->unet->vae"
    _optional_components = ["classifier", "vae", "text_encoder", "tokenizer"]  # noqa: RUF012
    _callback_tensor_inputs = ("latents", "model_output", "pred_original_sample")

    def __init__(
        self,
        unet: UNet2DModel
        | UNet2DConditionModel
        | MLPDenoiser
        | ExactDenoiser
        | NCSNpp2DModel
        | LinearAttentionUNet2DModel,
        scheduler: SchedulerMixin,
        classifier: ModelMixin | None = None,
        vae: AutoencoderKL | None = None,
        text_encoder: torch.nn.Module | None = None,
        tokenizer: object | None = None,  # transformers, which has its class, may be missing where this is loaded
    ):
        super().__init__()
        scheduler = own_scheduler(scheduler)
        check_time_input(unet.config, scheduler)
        if classifier is not None:
            check_classifier(classifier.config, unet.config)
        if vae is not None:
            kind_of(unet.config).decoded_by(vae)
        self.register_modules(unet=unet, scheduler=scheduler, classifier=classifier, vae=vae)
        self.register_modules(text_encoder=text_encoder, tokenizer=tokenizer)
        self.image_processor = IMAGE_PROCESSOR

    @property
    def samples(self):
        """The kind of samples that the network makes, a [`SampleKind`]."""
        samples = kind_of(self.unet.config)
        return samples if self.vae is None else samples.decoded_by(self.vae)

    @property
    def stage_parts(self):
        """The names of the network and of the scheduler of each stage; a cascade has several."""
        return [("unet", "scheduler")]

    @property
    def stages(self):
        """The pipelines of the stages."""
        return [self]

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: int | str | list[int] | list[str] | torch.Tensor | None = None,
        guidance_scale: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        timesteps: list[int] | None = None,
        eta: float | None = None,
        latents: torch.Tensor | None = None,
        output_type: str | None = None,
        return_dict: bool = True,
        callback_on_step_end=None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        classifier_guidance_scale: float = 0.0,
        classifier_guidance_form: str = "score",
        condition_image=None,
        augmentation_level: float = 0.0,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
    ):
        """Draw images, or points.

        Args:
            batch_size: number of samples, which a list of labels or generators, or `latents`, implies too.
            class_labels: one for all or one per image, as numbers or as names in the network's `id2label`; None is "no
                class" if the model has a null label. For a model without classes they go to the classifier. A model
                that learned a column of numbers takes such numbers.
            guidance_scale: classifier-free guidance (Ho & Salimans 2022): eps_null + scale * (eps_class - eps_null); 1
                is the conditional model alone. Each step takes one network call in either case.
            guidance_interval: (low, high): guidance of both kinds applies at noise levels low < sigma_t <= high, with
                sigma_t = sqrt((1 - abar_t) / abar_t) (Kynkaanniemi et al. 2024); elsewhere only the class.
            guidance_rescale: phi of Lin et al. 2023, eq. 16, in [0, 1]: how far the standard deviation of the guided
                output moves to that of the conditional output; see `guidance.rescaled_guidance`.
            classifier_guidance_scale: classifier guidance (Dhariwal & Nichol 2021): the gradient of log p(y | x_t), by
                the pipeline's classifier, times this; 0 is off. It adds to `guidance_scale`.
            classifier_guidance_form: what the gradient shifts: `score` (their algorithm 2, for any eta), or `mean`
                (their algorithm 1: the reverse mean by variance times gradient, which requires eta above 0).
            generator: the only source of randomness; a list gives each image its own generator.
            num_inference_steps, timesteps: how many timesteps, or which (descending); by default all of training.
            eta: 0 (DDIM) to 1 (DDPM), instead of the scheduler's eta.
            latents: the initial x_T, (B, C, H, W), for points (B, d), instead of noise.
            output_type: for images `pil`, the default, `np` (B, H, W, C) or `pt` (B, C, H, W), both in [0, 1]; for
                points `np`, the default, or `pt`, (B, d) in the data's own units; or `latent`: the network's x_0.
            callback_on_step_end: called as f(pipeline, step, timestep, tensors) after every step, with the tensors
                named in `callback_on_step_end_tensor_inputs` (`latents`, `model_output`, `pred_original_sample`, which
                is None if the scheduler gives none); it may return new `latents`.
            condition_image: what a model of condition images is told: PIL, numpy or torch, one for all or one for
                each, of the samples' size or of the model's low resolution (`condition_inputs.prepare_condition`).
            augmentation_level: noise to add to it, up to the highest level of its training (Ho et al. 2021): more
                hides faults of the condition image, and follows it less.
            prompt: for a model of captions, one text for all, or one for each; None is the empty text.
            negative_prompt: the texts that `guidance_scale` leads away from, by default the empty one.
            prompt_embeds, negative_prompt_embeds: instead of these their hidden states, (B, L, D) or (1, L, D).
            height, width: of the images, such as one of the shapes of `--aspect_buckets`; by default the model's own,
                and those of `latents`.

        Returns:
            [`ImagePipelineOutput`] with `.images`, or with `return_dict=False` a tuple of them.
        """
        output_type = self.samples.agreed_output_type(output_type)
        check_output(output_type, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        batch_size = agreed_batch_size(
            batch_size, class_labels=class_labels, latents=latents, generator=generator, prompt=prompt
        )
        guidance = Guidance(
            guidance_scale, guidance_interval, guidance_rescale, classifier_guidance_scale, classifier_guidance_form
        )
        sides = sides_to_draw(self, height, width) if latents is None else tuple(latents.shape[2:])
        condition = ConditionInput(condition_image, augmentation_level, sides)
        conditioning = make_conditioning(self, class_labels, guidance, batch_size, condition, generator)
        prompts = Prompts(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
        conditioning = with_prompts(self, conditioning, prompts, batch_size)
        self._set_timesteps(num_inference_steps, timesteps)
        guidance.check_fitted(self.scheduler)
        step_kwargs = self._step_kwargs(eta=eta, generator=generator)
        latents = self.initial_latents(batch_size, latents, generator, self._execution_device, sides)
        callback = StepCallback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        latents = self._denoise(latents, self.scheduler.timesteps, conditioning, step_kwargs, callback)
        return self.returned(latents, output_type, return_dict)

    # A run and its steps ---------------------------------------------------------------------------------------------

    def _denoise(self, latents, timesteps, conditioning, step_kwargs, callback):
        """The latents after all `timesteps`, which are on the host."""
        # The scheduler reads timesteps on the host and the network on the device, so that neither waits for the other.
        on_device = network_times(self.scheduler, timesteps).to(latents.device)
        steps = list(zip(timesteps, on_device, strict=True))
        for i, (t, t_on_device) in enumerate(self.progress_bar(steps)):
            for update in updates(self.scheduler, i):
                step, model_output = self._updated(update, latents, t, t_on_device, conditioning, step_kwargs)
                latents = step.prev_sample
            if i == len(steps) - 1:
                latents = without_last_noise(self.scheduler, step)
            x0 = getattr(step, "pred_original_sample", None)
            tensors = {"latents": latents, "model_output": model_output, "pred_original_sample": x0}
            latents = callback(self, i, t, tensors)
        return latents

    def _updated(self, update, latents, t, t_on_device, conditioning, step_kwargs):
        """One update of x_t by the scheduler's method `update`: the outputs of the scheduler and of the network."""
        now = conditioning.at(t, self.scheduler)
        model_output = self.predict(latents, t, t_on_device, now)
        step_kwargs = step_kwargs | now.step_kwargs(latents, t_on_device)
        return update(model_output, t, latents, **step_kwargs), model_output

    def returned(self, latents, output_type, return_dict):
        """What a run returns for x_0 as the network has it."""
        images = latents
        if output_type != "latent":
            check_finite(latents)
            images = self.samples.to_output(centered(self.scheduler, latents), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def predict(self, latents, t, t_on_device, conditioning):
        """The network's guided output for x_t, in float32; a variance head keeps its channels for the class.

        Args:
            t, t_on_device: the timestep on the host for the scheduler, and on the device for the network; one for all,
                or one for each, (B,).
            conditioning ([`Conditioning`]): what the network is told at t; `Conditioning(labels)` without guidance,
                with the labels of `encode_labels`.
        """
        if (conditioning.image is None) != (self.samples.condition is None):
            raise ValueError("This model is told a condition image, for which there is no place here.")
        guidance = conditioning.guidance
        channels, guided = latents.shape[1], guidance.guidance_scale != 1.0
        model_input = self.scheduler.scale_model_input(latents, t).to(conditioning.dtype or self.unet.dtype)
        if guided:
            model_input = torch.cat([model_input, model_input])
            t_on_device = t_on_device.repeat(2) if t_on_device.ndim else t_on_device
        if conditioning.image is not None:
            model_input = torch.cat([model_input, conditioning.image.to(model_input.dtype)], dim=1)
        with telling_levels(self.unet):
            output = self.unet(model_input, t_on_device, conditioning.labels, return_dict=False)[0].to(latents.dtype)
        if guided:
            output = classifier_free_guidance(output, channels, guidance.guidance_scale, guidance.guidance_rescale)
        if not reads_head(self.scheduler):
            output = output[:, :channels]
        return output

    def encode_labels(self, class_labels, guidance_scale=1.0, batch_size=1, device=None):
        """Labels for the network, (B,), or (2B,) followed by null labels, or None for an unconditional network.

        For a network that is told a text they are the hidden states of the empty one.
        """
        if self.text_encoder is not None:
            return encode_prompts(self, None, None, guidance_scale, batch_size)
        return encode_labels(self.unet.config, class_labels, guidance_scale, batch_size, device)

    # The scheduler and its beginning ---------------------------------------------------------------------------------

    def _set_timesteps(self, num_inference_steps, timesteps):
        check_time_input(self.unet.config, self.scheduler)  # the scheduler may have been replaced
        given = {"num_inference_steps": num_inference_steps, "timesteps": timesteps}
        given = {name: value for name, value in given.items() if value is not None}
        if not given and not isinstance(self.scheduler, GaussianDiffusionScheduler):
            given = {"num_inference_steps": self.scheduler.config.num_train_timesteps}
        self.scheduler.set_timesteps(**given)

    def _step_kwargs(self, **kwargs):
        """The arguments that the scheduler's `step` accepts; stock schedulers differ."""
        accepted = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in kwargs.items() if name in accepted and value is not None}

    def initial_latents(self, batch_size, latents, generator, device, sides=None):
        """x_T, always in float32, because rounding in half precision would add up over the steps."""
        samples = self.samples
        if latents is not None:
            if not samples.fits(latents):
                raise ValueError(f"latents of shape {tuple(latents.shape)} must be {samples.layout('batch')}.")
            if not latents.is_floating_point() or not latents.isfinite().all():
                raise ValueError(f"latents of dtype {latents.dtype} must be finite floating-point numbers.")
            return latents.to(device, torch.float32)
        shape = samples.channels, *(samples.sides if sides is None else sides)
        if None in shape:
            raise ValueError("The model's config has no sample_size: pass `latents`, or height and width.")
        return randn_tensor((batch_size, *shape), generator, device, torch.float32) * self.scheduler.init_noise_sigma
