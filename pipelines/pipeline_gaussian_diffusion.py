"""From a trained DDPM to images or points: with or without class labels, at any number of steps, by any scheduler."""

import inspect
import json
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    ImagePipelineOutput,
    ModelMixin,
    UNet2DModel,
)
from diffusers.image_processor import VaeImageProcessor
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from ddpm_hf.hub.self_contained import PIPELINE_SOURCE
from ddpm_hf.models.exact_denoiser import ExactDenoiser
from ddpm_hf.models.mlp_denoiser import MLPDenoiser
from ddpm_hf.models.network_config import classes_of, is_of_points, sample_shape
from ddpm_hf.models.noisy_image_classifier import NoisyImageClassifier
from ddpm_hf.schedulers.guidance import GUIDANCE_FORMS, classifier_free_guidance, classifier_gradient
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
# The networks that travel with this file, by the names that the index has for them.
OWN_NETWORKS = {network.__name__: network for network in (NoisyImageClassifier, MLPDenoiser, ExactDenoiser)}

CODE_FILE = "pipeline.py"
# What the index has for a model that only this pipeline runs: the file and the class.
OWN_CLASS = ["pipeline", "GaussianDiffusionPipeline"]


class Guidance(NamedTuple):
    """How class labels steer a run, or a step of it: what `__call__` was given, checked and on the device."""

    # for the network: (B,), or (2B,) with the null labels behind where `scale` is not 1, or None without classes
    labels: torch.Tensor | None = None
    scale: float = 1.0
    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    # for the classifier: (B,)
    classifier_labels: torch.Tensor | None = None
    classifier_scale: float = 0.0
    classifier_form: str = "score"


class GaussianDiffusionPipeline(DiffusionPipeline):
    """Samples images from a `UNet2DModel`, as [`DDPMPipeline`] does, and more; and points from an [`MLPDenoiser`].

    What it saves has the code of this class beside it, as `pipeline.py`, and loads with stock classes too:
    `DiffusionPipeline.from_pretrained(R)` gives a [`DDPMPipeline`] of stock components where that can run the model, and with
    `custom_pipeline=R, trust_remote_code=True` this pipeline, whether or not the package is installed. What
    [`DDPMPipeline`] cannot run (with class labels, say) asks for `trust_remote_code=True`. This class loads either.

    Args:
        unet ([`UNet2DModel`]): any, stock or ours; predicts C channels, or 2C with a variance head. For points an
            [`MLPDenoiser`], and for either an [`ExactDenoiser`].
        scheduler ([`SchedulerMixin`]): a [`DDPMScheduler`] or [`DDIMScheduler`] becomes a
            [`GaussianDiffusionScheduler`] that does the same (eta 1 and 0); any other stays what it is.
        classifier ([`NoisyImageClassifier`], *optional*): tells the class of x_t, for `classifier_guidance_scale`; of the
            network's image size, channels and classes. Stock pipelines say that they ignore it.
    """

    model_cpu_offload_seq = "classifier->unet"
    _optional_components = ["classifier"]  # noqa: RUF012
    _callback_tensor_inputs = ("latents", "model_output", "pred_original_sample")

    def __init__(
        self,
        unet: UNet2DModel | MLPDenoiser | ExactDenoiser,
        scheduler: SchedulerMixin,
        classifier: ModelMixin | None = None,
    ):
        super().__init__()
        if isinstance(scheduler, DDPMScheduler):
            scheduler = GaussianDiffusionScheduler.from_config(scheduler.config)
        elif isinstance(scheduler, DDIMScheduler):
            scheduler = GaussianDiffusionScheduler.from_config(scheduler.config, eta=0.0)
        elif _is_copy(scheduler, GaussianDiffusionScheduler):
            scheduler = GaussianDiffusionScheduler.from_config(scheduler.config)
        if classifier is not None:
            _check_classifier(classifier.config, unet.config)
        self.register_modules(unet=unet, scheduler=scheduler, classifier=classifier)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    @classmethod
    def from_pipe(cls, pipeline, **kwargs):
        """A pipeline of this class that shares the components of another.

        Of any class that the constructor takes: diffusers' own shares networks of just the annotated class.
        """
        wanted = inspect.signature(cls.__init__).parameters
        shared = {name: component for name, component in pipeline.components.items() if name in wanted}
        return super().from_pipe(pipeline, **shared | kwargs)

    def save_pretrained(self, save_directory, safe_serialization=True, **kwargs):
        """As [`DiffusionPipeline.save_pretrained`], but never weights as pickle, which runs what it holds when it is read."""
        if not safe_serialization:
            raise ValueError("safe_serialization=False would write pickle files: leave it out, and get safetensors.")
        super().save_pretrained(save_directory, **kwargs)

    def save_config(self, save_directory, push_to_hub=False, **kwargs):
        """The code and the index: the last that `save_pretrained` and `push_to_hub` write."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self._make_configs_portable(folder)
        (folder / CODE_FILE).write_bytes(PIPELINE_SOURCE)
        super().save_config(save_directory, push_to_hub, **kwargs)

    def _make_configs_portable(self, folder):
        """The configs of the networks by the names of stock classes, and without the places that they were loaded from."""
        for name, network in self.components.items():
            file = folder / name / "config.json"
            if file.is_file():
                config = json.loads(file.read_text(encoding="utf-8"))
                config.pop("_name_or_path", None)
                if isinstance(_uncompiled(network), UNet2DModel):
                    config["_class_name"] = UNet2DModel.__name__
                file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def to_json_string(self):
        """The model index, by the names of stock classes as far as these can run the model."""
        index = json.loads(super().to_json_string())
        index.pop("_name_or_path", None)  # where it was loaded from is nothing of the reader's
        own = {name: type(_uncompiled(part)).__name__ for name, part in self.components.items()}
        own = {name: network for name, network in own.items() if network in OWN_NETWORKS}
        stock_runs = "unet" not in own and _stock_pipeline_runs(self.unet.config, self.scheduler)
        index["_class_name"] = "DDPMPipeline" if stock_runs else OWN_CLASS
        if isinstance(_uncompiled(self.unet), UNet2DModel):
            index["unet"] = ["diffusers", "UNet2DModel"]
        if isinstance(self.scheduler, GaussianDiffusionScheduler):
            index["scheduler"] = ["diffusers", "DDPMScheduler"]
        if self.classifier is None:
            del index["classifier"]  # which stock classes would say that they ignore
        # Without a module, because diffusers refuses to load a repository that names one it does not know.
        index |= {name: [None, network] for name, network in own.items()}
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    @classmethod
    def _dict_from_json_file(cls, json_file):
        """The index: an own class is this one, and no reason to ask for trust in the code beside it."""
        index = super()._dict_from_json_file(json_file)
        if index.get("_class_name") == OWN_CLASS:
            index["_class_name"] = cls.__name__
        return index

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        """Reads the index as `to_json_string` writes it."""
        own = {
            name: [OWN_NETWORKS[part[1]].__module__, part[1]]
            for name, part in config_dict.items()
            if isinstance(part, (list, tuple)) and part[0] is None and part[1] in OWN_NETWORKS
        }
        return super().extract_init_dict(config_dict | own, **kwargs)

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
        output_type: str | None = None,
        return_dict: bool = True,
        callback_on_step_end=None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        classifier_guidance_scale: float = 0.0,
        classifier_guidance_form: str = "score",
    ):
        """Draw images, or points.

        Args:
            batch_size: how many; a list of labels, of generators, or `latents` say it as well.
            class_labels: one for all or one per image; None is "no class" where the model has a null label. Of a model
                without classes they are for the classifier.
            guidance_scale: classifier-free guidance (Ho & Salimans 2022): eps_null + scale * (eps_class - eps_null);
                1 is the conditional model alone, and one network call a step in either case.
            guidance_interval: (low, high): where low < sigma_t <= high there is guidance, of either kind, sigma_t =
                sqrt((1 - abar_t) / abar_t) being the noise level (Kynkaanniemi et al. 2024); elsewhere there is one batch,
                for the class alone.
            guidance_rescale: phi of Lin et al. 2023, eq. 16, in [0, 1]: how far the guided output is given the standard
                deviation of the one for the class; see `guidance.rescaled_guidance`.
            classifier_guidance_scale: classifier guidance (Dhariwal & Nichol 2021): the gradient of log p(y | x_t), by
                the pipeline's classifier, times this; 0 is off. It adds to `guidance_scale`.
            classifier_guidance_form: what it shifts: `score` (their algorithm 2, for any eta), or `mean` (their
                algorithm 1: the reverse mean by variance times gradient, so that eta must not be 0).
            generator: the only source of randomness; a list of one per image makes each image its own seed's.
            num_inference_steps, timesteps: how many timesteps, or which (descending); by default all of training.
            eta: 0 (DDIM) to 1 (DDPM), instead of the scheduler's.
            latents: x_T to begin with, (B, C, H, W), for points (B, d), instead of noise.
            output_type: for images `pil`, the default, `np` (B, H, W, C) or `pt` (B, C, H, W), both in [0, 1]; for points
                `np`, the default, or `pt`, (B, d) in the data's own units; or `latent`: x_0 as the network has it.
            callback_on_step_end: called as f(pipeline, step, timestep, tensors) after every step, with the tensors
                named in `callback_on_step_end_tensor_inputs` (`latents`, `model_output`, `pred_original_sample`, which is
                None where the scheduler gives none); may return new `latents`.

        Returns:
            [`ImagePipelineOutput`] with `.images`, or with `return_dict=False` a tuple of them.
        """
        output_type = output_type or ("np" if is_of_points(self.unet.config) else "pil")
        check_output(output_type, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        if output_type == "pil" and is_of_points(self.unet.config):
            raise ValueError("output_type='pil' is for images; this model makes points: take 'np', 'pt' or 'latent'.")
        batch_size = agreed_batch_size(batch_size, class_labels=class_labels, latents=latents, generator=generator)
        device = self._execution_device
        guidance = self._guidance(
            class_labels,
            batch_size,
            device,
            guidance_scale,
            guidance_interval,
            guidance_rescale,
            classifier_guidance_scale,
            classifier_guidance_form,
        )
        self._set_timesteps(num_inference_steps, timesteps)
        step_kwargs = self._step_kwargs(eta=eta, generator=generator)
        latents = self._initial_latents(batch_size, latents, generator, device)
        latents = self._denoise(
            latents,
            self.scheduler.timesteps,
            guidance,
            step_kwargs,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
        )
        images = self._postprocess(latents, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    # A run and its steps ---------------------------------------------------------------------------------------------

    def _denoise(
        self,
        latents,
        timesteps,
        guidance,
        step_kwargs,
        callback_on_step_end=None,
        callback_on_step_end_tensor_inputs=("latents",),
    ):
        """The latents after all of `timesteps`, which are on the host."""
        # The scheduler reads the timesteps on the host, the network on the device: neither waits for the other.
        steps = list(zip(timesteps, timesteps.to(latents.device), strict=True))
        for i, (t, t_on_device) in enumerate(self.progress_bar(steps)):
            step, model_output = self._denoise_step(latents, t, t_on_device, guidance, step_kwargs)
            latents = step.prev_sample
            if callback_on_step_end is not None:
                x0 = getattr(step, "pred_original_sample", None)
                tensors = {"latents": latents, "model_output": model_output, "pred_original_sample": x0}
                tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                latents = (callback_on_step_end(self, i, t, tensors) or {}).get("latents", latents)
        return latents

    def _postprocess(self, latents, output_type):
        if output_type == "latent" or not is_of_points(self.unet.config):
            return self.image_processor.postprocess(latents, output_type=output_type)
        points = points_in_data_units(latents, self.unet.config)
        return points.cpu().numpy() if output_type == "np" else points

    def _denoise_step(self, latents, t, t_on_device, guidance, step_kwargs):
        """One step from x_t: the scheduler's output, and the network's."""
        guidance = self._guidance_at(guidance, t)
        model_output = self.predict(latents, t, t_on_device, guidance.labels, guidance.scale, guidance.rescale)
        classifier_kwargs = self._classifier_kwargs(latents, t_on_device, guidance)
        return self.scheduler.step(model_output, t, latents, **step_kwargs, **classifier_kwargs), model_output

    def predict(self, latents, t, t_on_device, labels, guidance_scale=1.0, guidance_rescale=0.0):
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
            output = classifier_free_guidance(output, channels, guidance_scale, guidance_rescale)
        if not isinstance(self.scheduler, GaussianDiffusionScheduler):
            output = output[:, :channels]  # other schedulers do not know the variance head
        return output

    def encode_labels(self, class_labels, guidance_scale=1.0, batch_size=1, device=None):
        """Labels for the network, (B,) or (2B,) with the null labels behind, or None for an unconditional one."""
        num_classes, null_label = classes_of(self.unet.config)
        if num_classes is None:
            if class_labels is not None or guidance_scale != 1.0:
                raise ValueError(
                    f"class_labels={class_labels} and guidance_scale={guidance_scale} need a class-conditional model; "
                    "this one has no classes. Leave both out, or steer it by a classifier: classifier_guidance_scale=1."
                )
            return None
        if class_labels is None:
            class_labels = null_label
        if class_labels is None:
            raise ValueError(
                f"This model needs class_labels in 0 .. {num_classes - 1}; it has no label for 'no class'."
            )
        labels = _checked_labels(class_labels, num_classes, null_label).expand(batch_size).to(device)
        if guidance_scale == 1.0:
            return labels
        if null_label is None:
            raise ValueError(
                f"guidance_scale={guidance_scale} needs a model trained with a null label (label dropout); "
                "this one was not: use guidance_scale=1."
            )
        return torch.cat([labels, torch.full_like(labels, null_label)])

    # Guidance --------------------------------------------------------------------------------------------------------

    def _guidance(
        self,
        class_labels,
        batch_size,
        device,
        guidance_scale=1.0,
        guidance_interval=None,
        guidance_rescale=0.0,
        classifier_guidance_scale=0.0,
        classifier_guidance_form="score",
    ):
        """The [`Guidance`] of a run, from the arguments of `__call__` of the same names."""
        _check_guidance(guidance_interval, guidance_rescale, classifier_guidance_form)
        for_unet, for_classifier = class_labels, None
        if classifier_guidance_scale != 0:
            for_classifier = self._classifier_labels(class_labels, classifier_guidance_scale, batch_size, device)
            if classes_of(self.unet.config)[0] is None:
                for_unet = None
        return Guidance(
            labels=self.encode_labels(for_unet, guidance_scale, batch_size, device),
            scale=guidance_scale,
            interval=guidance_interval,
            rescale=guidance_rescale,
            classifier_labels=for_classifier,
            classifier_scale=classifier_guidance_scale,
            classifier_form=classifier_guidance_form,
        )

    def _classifier_labels(self, class_labels, scale, batch_size, device):
        if self.classifier is None:
            raise ValueError(
                f"classifier_guidance_scale={scale} needs a pipeline with a classifier, which this one has not: train one "
                "with `ddpm-hf train_classifier`, or use guidance_scale with a class-conditional model."
            )
        if class_labels is None:
            raise ValueError(f"classifier_guidance_scale={scale} needs class_labels: the class to steer to.")
        if not isinstance(self.scheduler, GaussianDiffusionScheduler):
            raise ValueError(
                f"classifier_guidance_scale={scale} needs a GaussianDiffusionScheduler; {type(self.scheduler).__name__} "
                "does not take the gradient of a classifier."
            )
        return _checked_labels(class_labels, self.classifier.config.num_classes).expand(batch_size).to(device)

    def _guidance_at(self, guidance, t):
        """The guidance of timestep t: outside of the interval none, and the labels without the null labels."""
        if guidance.interval is None:
            return guidance
        low, high = guidance.interval
        alpha_bar = self.scheduler.alphas_cumprod[int(t)]
        if low < ((1 - alpha_bar) / alpha_bar).sqrt() <= high:
            return guidance
        labels = guidance.labels
        if guidance.scale != 1.0:
            labels = labels.chunk(2)[0]
        return guidance._replace(labels=labels, scale=1.0, classifier_scale=0.0)

    def _classifier_kwargs(self, latents, t_on_device, guidance):
        """What classifier guidance tells the scheduler's `step`."""
        if guidance.classifier_scale == 0:
            return {}
        gradient = classifier_gradient(
            self.classifier, latents, t_on_device, guidance.classifier_labels, guidance.classifier_scale
        )
        return {"classifier_gradient": gradient, "guidance_form": guidance.classifier_form}

    # The scheduler and its beginning ---------------------------------------------------------------------------------

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
        config, shape = self.unet.config, sample_shape(self.unet.config)
        if latents is not None:
            if latents.ndim != 1 + len(shape) or latents.shape[1] != config.in_channels:
                sides = "" if is_of_points(config) else ", height, width"
                raise ValueError(
                    f"latents of shape {tuple(latents.shape)} must be (batch, {config.in_channels}{sides})."
                )
            return latents.to(device, torch.float32)
        if None in shape:
            raise ValueError("The model's config has no sample_size: pass `latents` of the size wanted.")
        return randn_tensor((batch_size, *shape), generator, device, torch.float32) * self.scheduler.init_noise_sigma


def points_in_data_units(points, config):
    """Points as the network of this config has them, (B, d), as the data were before they were standardised."""
    if config.get("data_mean") is None:
        return points
    return points * points.new_tensor(config["data_std"]) + points.new_tensor(config["data_mean"])


def _stock_pipeline_runs(unet_config, scheduler):
    """Whether [`DDPMPipeline`] samples a model: it knows no labels, and no other input of the network than x_t."""
    config = dict(scheduler.config.items())  # what stock classes read of it
    variance_type, channels = config.get("variance_type"), unet_config.in_channels
    if (
        classes_of(unet_config)[0] is not None
        or unet_config.get("sample_size") is None
        or scheduler.init_noise_sigma != 1
    ):
        return False
    if "generator" not in inspect.signature(scheduler.step).parameters or variance_type == "fixed_large_log":
        return False
    if unet_config.get("out_channels", channels) == channels:
        return True
    return isinstance(scheduler, GaussianDiffusionScheduler | DDPMScheduler) and variance_type == "learned_range"


def _uncompiled(network):
    """The network that `torch.compile` was given."""
    return getattr(network, "_orig_mod", network)


def _is_copy(component, own_class):
    """Whether it is of this class as the code of a repository has it, or the package, where this code is not from."""
    return type(component).__name__ == own_class.__name__ and not isinstance(component, own_class)


def _checked_labels(class_labels, num_classes, null_label=None):
    labels = torch.as_tensor(class_labels).cpu()
    largest = num_classes - 1 if null_label is None else null_label
    if labels.ndim > 1 or labels.is_floating_point() or labels.min() < 0 or labels.max() > largest:
        extra = "" if null_label is None else f", or {null_label} for no class"
        raise ValueError(f"class_labels={class_labels} must be whole numbers in 0 .. {num_classes - 1}{extra}.")
    return labels


def _check_guidance(interval, rescale, classifier_form):
    if interval is not None and not (len(interval) == 2 and 0 <= interval[0] < interval[1]):
        raise ValueError(
            f"guidance_interval={interval} must be (low, high), 0 <= low < high: noise levels sqrt((1 - abar) / abar)."
        )
    if not 0 <= rescale <= 1:
        raise ValueError(f"guidance_rescale={rescale} must be in [0, 1]; 0 is off.")
    if classifier_form not in GUIDANCE_FORMS:
        raise ValueError(
            f"classifier_guidance_form={classifier_form!r} is not one of {', '.join(map(repr, GUIDANCE_FORMS))}."
        )


def _check_classifier(classifier, unet):
    """That it was made for the same images and classes; both are configs."""
    values = {
        "in_channels": (classifier.in_channels, unet.in_channels),
        "num_classes": (classifier.num_classes, classes_of(unet)[0]),
    }
    if None not in sample_shape(unet):
        values["sample_size"] = (sample_shape(classifier)[1:], sample_shape(unet)[1:])
    for name, (given, wanted) in values.items():
        if wanted is not None and given != wanted:
            raise ValueError(
                f"The classifier has {name}={given}, the model {wanted}: train a classifier for this model with "
                "`ddpm-hf train_classifier`."
            )


def agreed_batch_size(batch_size, **per_image):
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


def check_output(output_type, tensor_names, allowed_names):
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type={output_type!r} is not one of {', '.join(map(repr, OUTPUT_TYPES))}.")
    if not set(tensor_names) <= set(allowed_names):
        raise ValueError(f"callback_on_step_end_tensor_inputs={tensor_names} may name {allowed_names} only.")
