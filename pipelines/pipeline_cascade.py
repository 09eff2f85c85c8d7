"""The pipeline of a cascade: a model of small images, and models that enlarge them one after another."""

import torch
from diffusers import DiffusionPipeline, ModelMixin, UNet2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from ddpm_hf.models.network_config import classes_of
from ddpm_hf.pipelines.loading import PortableLoadingMixin
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.pipelines.pipeline_upscale import GaussianDiffusionUpscalePipeline
from ddpm_hf.pipelines.portable_pipeline import PortableSavingMixin
from ddpm_hf.samples import kind_of
from ddpm_hf.samples.condition_values import value_limits_of
from ddpm_hf.samples.value_range import EIGHT_BIT_RANGE

# The names of the parts of each stage; the first is the base.
STAGE_PARTS = (("unet", "scheduler"), *((f"unet_{number}", f"scheduler_{number}") for number in range(2, 6)))


class GaussianDiffusionCascadePipeline(PortableSavingMixin, PortableLoadingMixin, DiffusionPipeline):
    """Draws small images from a base, and enlarges them by one or more upscalers (Ho et al. 2021).

    It is saved, pushed and loaded as one repository, like [`GaussianDiffusionPipeline`]. Each stage is loadable alone,
    too: `stages` are pipelines of their own, and the parts of stage 2 are in the folders `unet_2` and `scheduler_2`.
    `from_stages` makes a cascade of trained pipelines.

    Args:
        unet, scheduler: the base, as in [`GaussianDiffusionPipeline`].
        unet_2, scheduler_2 .. unet_5, scheduler_5: the upscalers, as in [`GaussianDiffusionUpscalePipeline`]; the low
            resolution of each is the size of the stage before.
    """

    _optional_components = [name for parts in STAGE_PARTS[1:] for name in parts]  # noqa: RUF012
    model_cpu_offload_seq = "->".join(network for network, _ in STAGE_PARTS)
    class_for_readers = "GaussianDiffusionCascadePipeline"

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        unet_2: ModelMixin | None = None,
        scheduler_2: SchedulerMixin | None = None,
        unet_3: ModelMixin | None = None,
        scheduler_3: SchedulerMixin | None = None,
        unet_4: ModelMixin | None = None,
        scheduler_4: SchedulerMixin | None = None,
        unet_5: ModelMixin | None = None,
        scheduler_5: SchedulerMixin | None = None,
    ):
        super().__init__()
        upscalers = ((unet_2, scheduler_2), (unet_3, scheduler_3), (unet_4, scheduler_4), (unet_5, scheduler_5))
        check_stages([unet.config, *(network.config for network, _ in upscalers if network is not None)])
        base = GaussianDiffusionPipeline(unet, scheduler)
        self.register_modules(unet=base.unet, scheduler=base.scheduler)
        for names, parts in zip(STAGE_PARTS[1:], upscalers, strict=True):
            if parts[0] is not None:
                stage = GaussianDiffusionUpscalePipeline(*parts)
                parts = stage.unet, stage.scheduler
            self.register_modules(**dict(zip(names, parts, strict=True)))

    @classmethod
    def from_stages(cls, *stages):
        """The cascade of the networks and schedulers of pipelines: a base, and upscalers from small to large."""
        if not 2 <= len(stages) <= len(STAGE_PARTS):
            raise ValueError(f"A cascade has 2 to {len(STAGE_PARTS)} stages, and {len(stages)} are given.")
        parts = {}
        for (network, scheduler), stage in zip(STAGE_PARTS, stages, strict=False):
            parts |= {network: stage.unet, scheduler: stage.scheduler}
        return cls(**parts)

    @property
    def stage_parts(self):
        """The names of the network and of the scheduler of each stage."""
        return [names for names in STAGE_PARTS if getattr(self, names[0]) is not None]

    @property
    def stages(self):
        """The pipelines of the stages, which share the parts of this one."""
        (network, scheduler), *upscalers = [[getattr(self, name) for name in names] for names in self.stage_parts]
        base = GaussianDiffusionPipeline(network, scheduler)
        return [base, *(GaussianDiffusionUpscalePipeline(*parts) for parts in upscalers)]

    @property
    def samples(self):
        """The kind of samples that the last stage makes, a [`SampleKind`]."""
        return kind_of(getattr(self, self.stage_parts[-1][0]).config)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels=None,
        guidance_scale: float | list[float] = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | list[int | None] | None = None,
        augmentation_level: float | list[float] = 0.0,
        output_type: str | None = None,
        return_dict: bool = True,
        **kwargs,
    ):
        """Draw images.

        Args:
            batch_size: number of samples, which a list of labels or generators implies too.
            class_labels: as in [`GaussianDiffusionPipeline`], for all stages that have classes.
            guidance_scale: one for all stages that have classes, or a list of one for each stage.
            generator: the only source of randomness, for all stages in turn.
            num_inference_steps: one for all stages, or a list of one for each stage; by default all of training.
            augmentation_level: noise on what each upscaler is told, as in [`GaussianDiffusionUpscalePipeline`]: one
                for all, or a list of one for each upscaler.
            output_type, return_dict: as in [`GaussianDiffusionPipeline`].
            kwargs: further arguments of [`GaussianDiffusionPipeline`], for every stage: `eta`, `guidance_interval`,
                `callback_on_step_end` and so on.

        Returns:
            [`ImagePipelineOutput`] with `.images`, or with `return_dict=False` a tuple of them.
        """
        stages = self.stages
        own = self._arguments_of_stages(class_labels, guidance_scale, num_inference_steps)
        levels = for_each_stage("augmentation_level", augmentation_level, len(stages) - 1)
        told = {"batch_size": batch_size}
        for number, stage in enumerate(stages):
            is_last = stage is stages[-1]
            self._show_progress(stage, number, len(stages))
            result = stage(
                generator=generator,
                output_type=output_type if is_last else "pt",
                return_dict=return_dict,
                **own[number],
                **told,
                **kwargs,
            )
            if not is_last:
                told = {"image": result[0], "batch_size": len(result[0]), "augmentation_level": levels[number]}
        self.maybe_free_model_hooks()
        return result

    def _arguments_of_stages(self, class_labels, guidance_scale, num_inference_steps):
        """The labels, guidance and steps of each stage; one scale is for the stages with classes."""
        conditional = [classes_of(getattr(self, network).config)[0] is not None for network, _ in self.stage_parts]
        # The base refuses labels and guidance where no stage has classes.
        steered = [has_classes or not any(conditional) for has_classes in conditional]
        if isinstance(guidance_scale, (list, tuple)):
            scales = for_each_stage("guidance_scale", guidance_scale, len(steered))
        else:
            scales = [guidance_scale if is_steered else 1.0 for is_steered in steered]
        steps = for_each_stage("num_inference_steps", num_inference_steps, len(steered))
        labels = [class_labels if is_steered else None for is_steered in steered]
        names = ("class_labels", "guidance_scale", "num_inference_steps")
        return [dict(zip(names, values, strict=True)) for values in zip(labels, scales, steps, strict=True)]

    def _show_progress(self, stage, number, count):
        height, width = stage.samples.sides
        given = getattr(self, "_progress_bar_config", {})
        stage.set_progress_bar_config(**{"desc": f"stage {number + 1} of {count}, {height}x{width}"} | given)


def for_each_stage(name, value, count):
    """A list of one value for each stage, from one for all or a list; ValueError for a list of another length."""
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name}={value} must be one for all, or {count} values, one for each stage.")
    return list(value)


def check_stages(configs):
    """Raises ValueError unless each of the stages enlarges what the stage before makes; the first is the base.

    Args:
        configs: the configs of the networks.
    """
    kinds = [kind_of(config) for config in configs]
    if any(value_limits_of(config) is not None for config in configs):
        raise ValueError("A stage is told a number of each image, and the stages of a cascade are told classes alone.")
    if kinds[0].condition is not None:
        raise ValueError("The first stage is told a condition image: a cascade begins with a model that is told none.")
    for number in range(1, len(configs)):
        before, kind, condition = kinds[number - 1], kinds[number], kinds[number].condition
        if condition is None or condition.low_resolution is None:
            raise ValueError(
                f"Stage {number + 1} of the cascade enlarges no images: train one with `ddpm-hf train "
                "--low_resolution`."
            )
        values = {
            "images of height and width": (condition.low_resolution, before.sides),
            "channels": (kind.channels, before.channels),
            "values": tuple(each.value_range or EIGHT_BIT_RANGE for each in (kind, before)),
        }
        classes = classes_of(configs[number])[0], classes_of(configs[number - 1])[0]
        if None not in classes:
            values["classes"] = classes
        for what, (wanted, given) in values.items():
            if wanted != given:
                raise ValueError(
                    f"Stage {number + 1} of the cascade is for {what} {wanted}, and the stage before makes {given}."
                )
