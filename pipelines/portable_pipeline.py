"""Saving of portable pipelines: an index with stock names, portable configs, and the code."""

import inspect
import json
from pathlib import Path

from diffusers import DDPMScheduler, UNet2DModel

from ddpm_hf.models.adm_unet_2d import ADMUNet2DModel
from ddpm_hf.models.exact_denoiser import ExactDenoiser
from ddpm_hf.models.level_embedding import LabelAndLevelEmbedding
from ddpm_hf.models.linear_attention_unet_2d import LinearAttentionUNet2DModel
from ddpm_hf.models.mlp_denoiser import MLPDenoiser
from ddpm_hf.models.ncsnpp_2d import NCSNpp2DModel
from ddpm_hf.models.network_config import classes_of
from ddpm_hf.models.noisy_image_classifier import NoisyImageClassifier
from ddpm_hf.models.unet_2d import DDPMUNet2DModel
from ddpm_hf.pipelines.pushing import push_pipeline, save_and_push
from ddpm_hf.portable.own_module import exporting
from ddpm_hf.portable.pipeline_file import pipeline_bytes
from ddpm_hf.samples.condition_images import condition_of
from ddpm_hf.samples.condition_values import value_limits_of
from ddpm_hf.schedulers.scheduling_edm import EDMScheduler
from ddpm_hf.schedulers.scheduling_gaussian_diffusion import GaussianDiffusionScheduler
from ddpm_hf.schedulers.scheduling_score_sde import ScoreSDEScheduler

# The networks whose code is in the saved file, with their class names in the index.
OWN_NETWORKS = {
    network.__name__: network
    for network in (
        *(NoisyImageClassifier, MLPDenoiser, ExactDenoiser, DDPMUNet2DModel),
        *(ADMUNet2DModel, NCSNpp2DModel, LinearAttentionUNet2DModel),
    )
}
# The parts whose code is in the saved file alone, with their class names in the index.
OWN_PARTS = OWN_NETWORKS | {part.__name__: part for part in (ScoreSDEScheduler, EDMScheduler)}

CODE_FILE = "pipeline.py"
# The file and the class in the index of a model that only a pipeline of ours can run.
OWN_FILE = "pipeline"


class PortableSavingMixin:
    """Saves a pipeline in the form that stock classes read; precedes [`DiffusionPipeline`] in the bases."""

    push_to_hub = push_pipeline

    def save_pretrained(self, save_directory, safe_serialization=True, push_to_hub=False, **kwargs):
        """As [`DiffusionPipeline.save_pretrained`], but never with pickled weights, which run code when loaded."""
        if not safe_serialization:
            raise ValueError("safe_serialization=False would write pickle files: leave it out, and get safetensors.")
        if push_to_hub:
            save_and_push(self, save_directory, **kwargs)
        else:
            super().save_pretrained(save_directory, **kwargs)

    def save_config(self, save_directory, push_to_hub=False, **kwargs):
        """Writes the code and the index, the last files of `save_pretrained` and `push_to_hub`."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self._make_configs_portable(folder)
        (folder / CODE_FILE).write_bytes(exporting(pipeline_bytes(), self.class_for_readers))
        super().save_config(save_directory, push_to_hub, **kwargs)

    def _make_configs_portable(self, folder):
        """Rewrites the configs of the networks with stock class names and without the paths they were loaded from."""
        for name, network in self.components.items():
            file = folder / name / "config.json"
            if file.is_file():
                config = json.loads(file.read_text(encoding="utf-8"))
                config.pop("_name_or_path", None)
                if is_stock(network):
                    config["_class_name"] = UNet2DModel.__name__
                file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @property
    def class_for_readers(self):
        """The name of the pipeline that the network was trained for, whichever this one is."""
        condition = condition_of(self.unet.config)
        upscales = condition is not None and condition.low_resolution is not None
        return "GaussianDiffusionUpscalePipeline" if upscales else "GaussianDiffusionPipeline"

    def to_json_string(self):
        """The model index, with stock class names if stock classes can run the model."""
        index = json.loads(super().to_json_string())
        index.pop("_name_or_path", None)  # the local path is of no use to readers
        index["_class_name"] = self._class_in_index()
        for name, part in self.components.items():
            kind = type(uncompiled(part)).__name__
            if part is None:
                del index[name]  # stock classes would warn that they ignore it
            elif is_stock(part):
                index[name] = ["diffusers", "UNet2DModel"]
            elif isinstance(part, GaussianDiffusionScheduler):
                index[name] = ["diffusers", "DDPMScheduler"]
            elif kind in OWN_PARTS:
                # Without a module, because diffusers refuses to load a repository that names one it does not know.
                index[name] = [None, kind]
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def _class_in_index(self):
        """The name of the stock pipeline if that can run the model, else the file and the name of ours."""
        own = {type(uncompiled(part)).__name__ for part in (self.unet, self.scheduler) if not is_stock(part)}
        is_one = self.class_for_readers == "GaussianDiffusionPipeline" and not own & OWN_PARTS.keys()
        is_alone = all(self.components.get(name) is None for name in ("vae", "text_encoder"))
        stock_runs = is_one and is_alone and stock_pipeline_runs(self.unet.config, self.scheduler)
        return "DDPMPipeline" if stock_runs else [OWN_FILE, self.class_for_readers]


def stock_pipeline_runs(unet_config, scheduler):
    """Whether [`DDPMPipeline`] can sample a model: it passes x_t and t to the network, and no labels."""
    config = dict(scheduler.config.items())  # the part that stock classes read
    variance_type, channels = config.get("variance_type"), unet_config.in_channels
    if (
        classes_of(unet_config)[0] is not None
        or condition_of(unet_config) is not None
        or value_limits_of(unet_config) is not None
        or unet_config.get("sample_size") is None
        or scheduler.init_noise_sigma != 1
    ):
        return False
    if "generator" not in inspect.signature(scheduler.step).parameters or variance_type == "fixed_large_log":
        return False
    if unet_config.get("out_channels", channels) == channels:
        return True
    return isinstance(scheduler, GaussianDiffusionScheduler | DDPMScheduler) and variance_type == "learned_range"


def is_stock(part):
    """Whether a stock `UNet2DModel` with the weights and the config of a network computes the same."""
    network = uncompiled(part)
    # By names, because the network may be of another copy of the code. No stock class embeds both labels and levels.
    if type(network).__name__ == DDPMUNet2DModel.__name__:
        return type(network.class_embedding).__name__ != LabelAndLevelEmbedding.__name__
    return isinstance(network, UNet2DModel) and type(network).__name__ not in OWN_NETWORKS


def uncompiled(network):
    """The network inside a module from `torch.compile`."""
    return getattr(network, "_orig_mod", network)
