"""From a trained DDPM to images: with or without class labels, at any number of steps, by any scheduler."""

import inspect
import json

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, ImagePipelineOutput, SchedulerMixin, UNet2DModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor

from ddpm_hf.configuration import PACKED_KEY
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class GaussianDiffusionPipeline(DiffusionPipeline):
    """Samples images from a `UNet2DModel`, as [`DDPMPipeline`] does, and more.

    What it saves loads with stock `DiffusionPipeline.from_pretrained` as a [`DDPMPipeline`] of stock classes.

    Args:
        unet ([`UNet2DModel`]): any, stock or ours; predicts C channels, or 2C with a variance head.
        scheduler ([`SchedulerMixin`]): a [`DDPMScheduler`] or [`DDIMScheduler`] becomes a
            [`GaussianDiffusionScheduler`] that does the same (eta 1 and 0); any other stays what it is.
    """

    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = ("latents", "model_output")

    def __init__(self, unet: UNet2DModel, scheduler: SchedulerMixin):
        super().__init__()
        if isinstance(scheduler, DDPMScheduler):
            scheduler = GaussianDiffusionScheduler.from_config(scheduler.config)
        elif isinstance(scheduler, DDIMScheduler):
            scheduler = GaussianDiffusionScheduler.from_config(scheduler.config, eta=0.0)
        self.register_modules(unet=unet, scheduler=scheduler)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    def to_json_string(self):
        """The model index, by the names of stock classes, which load what ours have saved."""
        index = json.loads(super().to_json_string())
        index["_class_name"] = "DDPMPipeline"
        if isinstance(self.unet, UNet2DModel):
            index["unet"] = ["diffusers", "UNet2DModel"]
        if isinstance(self.scheduler, GaussianDiffusionScheduler):
            index["scheduler"] = ["diffusers", "DDPMScheduler"]
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: int | list[int] | torch.Tensor | None = None,
        guidance_scale: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        timesteps: list[int] | None = None,
        eta: float | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end=None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
    ):
        """Draw images.

        Args:
            batch_size: how many; a list of labels, of generators, or `latents` say it as well.
            class_labels: one for all or one per image; None is "no class" where the model has a null label.
            guidance_scale: classifier-free guidance (Ho & Salimans 2022): eps_null + scale * (eps_class - eps_null);
                1 is the conditional model alone, and one network call a step in either case.
            generator: the only source of randomness; a list of one per image makes each image its own seed's.
            num_inference_steps, timesteps: how many timesteps, or which (descending); by default all of training.
            eta: 0 (DDIM) to 1 (DDPM), instead of the scheduler's.
            latents: x_T to begin with, (B, C, H, W), instead of noise.
            output_type: `pil`, `np` (B, H, W, C) or `pt` (B, C, H, W), both in [0, 1], or `latent`: x_0 as it is.
            callback_on_step_end: called as f(pipeline, step, timestep, tensors) after every step, with the tensors
                named in `callback_on_step_end_tensor_inputs` (`latents`, `model_output`); may return new `latents`.

        Returns:
            [`ImagePipelineOutput`] with `.images`, or with `return_dict=False` a tuple of them.
        """
        _check_output(output_type, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        batch_size = _batch_size(batch_size, class_labels=class_labels, latents=latents, generator=generator)
        device = self._execution_device
        labels = self.encode_labels(class_labels, guidance_scale, batch_size, device)
        self._set_timesteps(num_inference_steps, timesteps)
        step_kwargs = self._step_kwargs(eta=eta, generator=generator)
        latents = self._initial_latents(batch_size, latents, generator, device)

        # The scheduler reads the timesteps on the host, the network on the device: neither waits for the other.
        steps = list(zip(self.scheduler.timesteps, self.scheduler.timesteps.to(device), strict=True))
        for i, (t, t_on_device) in enumerate(self.progress_bar(steps)):
            model_output = self.predict(latents, t, t_on_device, labels, guidance_scale)
            latents = self.scheduler.step(model_output, t, latents, **step_kwargs).prev_sample
            if callback_on_step_end is not None:
                tensors = {"latents": latents, "model_output": model_output}
                tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                latents = (callback_on_step_end(self, i, t, tensors) or {}).get("latents", latents)

        images = self.image_processor.postprocess(latents, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def predict(self, latents, t, t_on_device, labels, guidance_scale=1.0):
        """The network's output for x_t, guided, in float32; the head of a learned variance is left as the class has it.

        Args:
            t, t_on_device: the timestep where the scheduler reads it and where the network does: neither waits.
            labels: what `encode_labels` gave.
        """
        channels, guided = latents.shape[1], guidance_scale != 1.0
        model_input = self.scheduler.scale_model_input(latents, t).to(self.unet.dtype)
        if guided:
            model_input = torch.cat([model_input, model_input])
        output = self.unet(model_input, t_on_device, labels, return_dict=False)[0].to(latents.dtype)
        if guided:
            output, null = output.chunk(2)
            mean = null[:, :channels].lerp(output[:, :channels], guidance_scale)
            output = torch.cat([mean, output[:, channels:]], dim=1)
        if not isinstance(self.scheduler, GaussianDiffusionScheduler):
            output = output[:, :channels]  # other schedulers do not know the variance head
        return output

    def encode_labels(self, class_labels, guidance_scale=1.0, batch_size=1, device=None):
        """Labels for the network, (B,) or (2B,) with the null labels behind, or None for an unconditional one."""
        num_classes, null_label = _classes(self.unet.config)
        if num_classes is None:
            if class_labels is not None or guidance_scale != 1.0:
                raise ValueError(
                    f"class_labels={class_labels} and guidance_scale={guidance_scale} need a class-conditional model; "
                    "this one has no classes. Leave both out."
                )
            return None
        if class_labels is None:
            class_labels = null_label
        if class_labels is None:
            raise ValueError(
                f"This model needs class_labels in 0 .. {num_classes - 1}; it has no label for 'no class'."
            )
        labels = torch.as_tensor(class_labels).cpu()
        largest = num_classes - 1 if null_label is None else null_label
        if labels.is_floating_point() or labels.min() < 0 or labels.max() > largest:
            extra = "" if null_label is None else f", or {null_label} for no class"
            raise ValueError(f"class_labels={class_labels} must be whole numbers in 0 .. {num_classes - 1}{extra}.")
        labels = labels.expand(batch_size).to(device)
        if guidance_scale == 1.0:
            return labels
        if null_label is None:
            raise ValueError(
                f"guidance_scale={guidance_scale} needs a model trained with a null label (label dropout); "
                "this one was not: use guidance_scale=1."
            )
        return torch.cat([labels, torch.full_like(labels, null_label)])

    def _set_timesteps(self, num_inference_steps, timesteps):
        given = {"num_inference_steps": num_inference_steps, "timesteps": timesteps}
        given = {name: value for name, value in given.items() if value is not None}
        if not given and not isinstance(self.scheduler, GaussianDiffusionScheduler):
            given = {"num_inference_steps": self.scheduler.config.num_train_timesteps}
        self.scheduler.set_timesteps(**given)

    def _step_kwargs(self, **kwargs):
        """What the scheduler's `step` takes of them: stock schedulers differ."""
        accepted = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in kwargs.items() if name in accepted and value is not None}

    def _initial_latents(self, batch_size, latents, generator, device):
        """x_T in float32, whatever the precision of the network: rounding would add up over the steps."""
        config = self.unet.config
        if latents is not None:
            if latents.ndim != 4 or latents.shape[1] != config.in_channels:
                raise ValueError(
                    f"latents of shape {tuple(latents.shape)} must be (batch, {config.in_channels}, height, width)."
                )
            return latents.to(device, torch.float32)
        if config.sample_size is None:
            raise ValueError("The model's config has no sample_size: pass `latents` of the size wanted.")
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (batch_size, config.in_channels, height, width)
        return randn_tensor(shape, generator, device, torch.float32) * self.scheduler.init_noise_sigma


def _classes(config):
    """The number of classes and the null label of a `UNet2DModel`, as far as it has them, stock or ours."""
    num_classes = config.get("num_classes", config.get(PACKED_KEY, {}).get("num_classes"))
    if num_classes is not None:
        return num_classes, num_classes
    return config.get("num_class_embeds"), None


def _batch_size(batch_size, **per_image):
    """The one batch size that all arguments agree on."""
    sizes = {}
    for name, value in per_image.items():
        if isinstance(value, (list, tuple)) or (isinstance(value, torch.Tensor) and value.ndim > 0):
            sizes[name] = len(value)
    if batch_size != 1 or not sizes:
        sizes["batch_size"] = batch_size
    if len(set(sizes.values())) > 1 or min(sizes.values()) < 1:
        given = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise ValueError(f"The arguments must agree on one number of images, at least 1; got {given}.")
    return next(iter(sizes.values()))


def _check_output(output_type, tensor_names, allowed_names):
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type={output_type!r} is not one of {', '.join(map(repr, OUTPUT_TYPES))}.")
    if not set(tensor_names) <= set(allowed_names):
        raise ValueError(f"callback_on_step_end_tensor_inputs={tensor_names} may name {allowed_names} only.")
