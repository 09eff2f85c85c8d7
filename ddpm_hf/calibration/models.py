"""Reading and writing of the models that `ddpm-hf calibrate` takes: of pixels, or of an autoencoder's latents.

Stock pipelines of latents stay what they are, with all of their parts: an unconditional one, and `StableDiffusionPipeline`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline
from diffusers.configuration_utils import FrozenDict

from ddpm_hf.data.model_range import to_model_range
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.discrete_chains import discrete_chain
from ddpm_hf.hub.model_folder import check_weights_finite, load_pipeline
from ddpm_hf.hub.reading import read_captions, read_index, reading
from ddpm_hf.models.network_config import is_told_text
from ddpm_hf.pipelines.loading import STABLE_DIFFUSION
from ddpm_hf.pipelines.network_speed import set_up_network
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.samples import kind_of
from ddpm_hf.samples.kind import sides_of
from ddpm_hf.schedulers.scheduling_score_sde import ScoreSDEScheduler

AUTOENCODERS = ("vae", "vqvae")
# A fitted solver has timesteps of its own, and those of a stock scheduler stay as they were.
OF_STOCK_STEPS = ("timestep_spacing", "steps_offset")


class CalibratedModel(NamedTuple):
    """A model and how images become its inputs.

    pipeline: has a `unet` and a `scheduler`. image_config: the config of the network with the size and channels of the
    images. encode: function of images in [-1, 1] to latents; None for a model of pixels. captions: what its folder tells
    of the captions of its training, {} if it does not.
    """

    pipeline: DiffusionPipeline
    image_config: FrozenDict
    encode: Callable | None
    captions: dict = FrozenDict()

    @property
    def is_told_text(self):
        return is_told_text(self.pipeline.unet.config)

    @property
    def has_known_units(self):
        """Whether the units of the network's data are known; only a training here tells them of latents.

        The network's config then says how large the images are, and is the config of the images too.
        """
        return self.image_config is self.pipeline.unet.config

    def encoded(self, images, batch_size):
        """Images, uint8 (N, C, H, W), as data of the network, on the host; None if it is not known what these are."""
        if not self.has_known_units:
            return None
        if self.encode is None:
            return images
        parts = (part.to(self.pipeline.unet.device) for part in images.split(batch_size))
        return torch.cat([self.encode(to_model_range(part)).cpu() for part in parts])

    @property
    def own_pipeline(self):
        """The [`GaussianDiffusionPipeline`] of the same parts.

        Raises:
            InputError: for a network that was not trained here, of which it is not known what its latents are.
        """
        if isinstance(self.pipeline, GaussianDiffusionPipeline):
            return self.pipeline
        if not self.has_known_units:
            raise InputError(
                f"The {type(self.pipeline).__name__} was not trained by ddpm_hf, and only its solvers can be fitted: use "
                "`ddpm-hf calibrate --solver 5,10`."
            )
        parts = {name: self.pipeline.components.get(name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
        return GaussianDiffusionPipeline(scheduler=self.pipeline.scheduler, **parts)


def load_for_measuring(options, accelerator):
    """The [`CalibratedModel`] of the options, whose network computes in float32; every process must call this.

    Raises:
        InputError: for half precision, whose errors would be taken for the model's.
    """
    if options.precision in ("bf16", "fp16"):
        raise InputError(
            f"precision={options.precision!r} is for drawing samples: what is measured of a model and fitted to it is computed "
            "in float32, for the errors of half precision would be taken for the model's. Leave it out."
        )
    loaded = load_model(options.model, options.device or accelerator.device)
    set_up_network(loaded.pipeline, options, options.batch_size, calls=0, accelerator=accelerator)
    return loaded


def load_model(name, device):
    """Loads a pipeline folder or repository as a [`CalibratedModel`].

    It becomes a [`GaussianDiffusionPipeline`], of latents too if `train --vae` made it, and a VP process in continuous
    time becomes its chain. A stock pipeline with an unconditional `unet` on the latents of a `vae` or `vqvae`, such as
    [`LDMPipeline`], stays as it is, and so does a [`StableDiffusionPipeline`].

    Raises:
        InputError: for a latent model whose network takes further inputs than a text.
    """
    components = read_index(name)
    autoencoder = next((part for part in AUTOENCODERS if part in components), None)
    is_ours = isinstance(components["_class_name"], list)
    captions = read_captions(name) if "text_encoder" in components else {}
    if autoencoder is None or is_ours:
        pipeline = load_pipeline(name, texts=True).to(device)
        if isinstance(pipeline.scheduler, ScoreSDEScheduler):
            pipeline.register_modules(scheduler=discrete_chain(pipeline.scheduler, "be calibrated"))
        encode = pipeline.samples.encoded if autoencoder else None
        return CalibratedModel(pipeline, pipeline.unet.config, encode, captions)
    if components["_class_name"] != STABLE_DIFFUSION and components.get("unet", [None, None])[1] != "UNet2DModel":
        raise InputError(
            f"{name} has the network {components.get('unet', [None, 'none'])[1]}; only a UNet2DModel, which takes an "
            f"image, or its latents, and the time, and the network of a {STABLE_DIFFUSION} can be calibrated."
        )
    with reading(name):
        pipeline = DiffusionPipeline.from_pretrained(name).to(device)
    networks = {part: each for part, each in pipeline.components.items() if isinstance(each, torch.nn.Module)}
    check_weights_finite(name, networks)
    vae = getattr(pipeline, autoencoder)
    return CalibratedModel(pipeline, _image_config(pipeline.unet.config, vae.config), _encoder(vae), captions)


def _image_config(config, vae_config):
    """The config of a network of latents, with the size and the channels of the images."""
    if kind_of(config).needs_vae:  # such a config says itself how large the images are
        return config
    factor = 2 ** (len(vae_config.block_out_channels) - 1)
    size = {"sample_size": [side * factor for side in sides_of(config)], "in_channels": vae_config.in_channels}
    return FrozenDict(dict(config) | size)


def _encoder(vae):
    @torch.no_grad()
    def encode(images):
        output = vae.encode(images.to(vae.dtype))
        # The mode of a Gaussian posterior is enough, because its spread is small beside that of the latents.
        latents = output.latents if hasattr(output, "latents") else output.latent_dist.mode()
        return latents * vae.config.scaling_factor

    return encode


def save_model(model, scheduler, folder):
    """Saves the pipeline with another scheduler.

    A stock pipeline of latents saves a stock scheduler, whose config keeps our keys: `with_recipe` or
    `GaussianDiffusionScheduler.from_config` makes it ours again.
    """
    if not isinstance(model.pipeline, GaussianDiffusionPipeline):
        stock = DDIMScheduler if scheduler.config.eta == 0 else DDPMScheduler
        kept = OF_STOCK_STEPS if scheduler.config.fitted_solvers else ()
        was = model.pipeline.scheduler.config
        scheduler = stock.from_config(scheduler.config, **{key: was[key] for key in kept if key in was})
    model.pipeline.register_modules(scheduler=scheduler)
    model.pipeline.save_pretrained(folder)
