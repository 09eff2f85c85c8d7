"""The DDPM family as a plugin for Hugging Face diffusers."""

import importlib
from pathlib import Path

__version__ = "0.1.0"

# In a checkout, `ddpm_hf.pipelines` and `ddpm_hf.training` are the folders `pipelines/` and `training/` beside this
# package; packaging puts them inside it. Installed or not, they are imported through `ddpm_hf` alone.
_root = Path(__file__).resolve().parent.parent
if (_root / "setup.cfg").is_file() and (_root / "pipelines").is_dir():
    __path__.append(str(_root))

_PUBLIC = {
    "GaussianDiffusionScheduler": "ddpm_hf.schedulers.scheduling_gaussian_diffusion",
    "EDMScheduler": "ddpm_hf.schedulers.scheduling_edm",
    "ScoreSDEScheduler": "ddpm_hf.schedulers.scheduling_score_sde",
    "DDPMUNet2DModel": "ddpm_hf.models.unet_2d",
    "MLPDenoiser": "ddpm_hf.models.mlp_denoiser",
    "ExactDenoiser": "ddpm_hf.models.exact_denoiser",
    "ADMUNet2DModel": "ddpm_hf.models.adm_unet_2d",
    "NCSNpp2DModel": "ddpm_hf.models.ncsnpp_2d",
    "LinearAttentionUNet2DModel": "ddpm_hf.models.linear_attention_unet_2d",
    "NoisyImageClassifier": "ddpm_hf.models.noisy_image_classifier",
    "GaussianDiffusionPipeline": "ddpm_hf.pipelines.pipeline_gaussian_diffusion",
    "GaussianDiffusionUpscalePipeline": "ddpm_hf.pipelines.pipeline_upscale",
    "GaussianDiffusionCascadePipeline": "ddpm_hf.pipelines.pipeline_cascade",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name):
    """Imports the public classes on first use, so that `ddpm-hf --help` does not wait for torch."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ddpm_hf' has no attribute '{name}'")
