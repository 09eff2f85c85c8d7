"""Loads pipeline folders and repositories, and checks whether they may be shared."""

import inspect
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SCHEDULER_CONFIG_NAME

from ddpm_hf.errors import InputError
from ddpm_hf.files import read_mapping
from ddpm_hf.hub.model_files import (
    CONFIG_FILE,
    INDEX_FILE,
    check_files,
    check_weights_files,
    component_names,
    is_autoencoder,
)
from ddpm_hf.hub.reading import WHAT_IS_TAKEN, read_index, reading
from ddpm_hf.hub.shared_files import files_left_out, files_to_share, size_of
from ddpm_hf.number_checks import check_all_finite
from ddpm_hf.pipelines.loading import STABLE_DIFFUSION
from ddpm_hf.pipelines.pipeline_cascade import GaussianDiffusionCascadePipeline
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.samples import kind_of
from ddpm_hf.schedulers.scheduling_edm import EDMScheduler
from ddpm_hf.schedulers.scheduling_score_sde import ScoreSDEScheduler

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
# From the Hub's documentation on storage limits (2025).
LARGEST_FILE = 50 * 10**9
# The parts of a [`GaussianDiffusionPipeline`]; a stock pipeline with a vae is of another kind.
PARTS = {"unet", "scheduler", "classifier", "vae"}
TEXT_PARTS = {"text_encoder", "tokenizer"}
# The arguments that a pipeline passes to a scheduler's step.
OF_A_STEP = {"model_output", "timestep", "sample"}


def check_model_folder(folder):
    """Checks that a folder loads as a pipeline and holds nothing that should not be shared.

    Raises:
        InputError: otherwise, with the reason and the remedy.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder: give a pipeline folder, as training or `save_pretrained` writes it."
        )
    for name in files_left_out(folder):
        if Path(name).suffix in PICKLES:
            raise InputError(
                f"{folder} has {name}, a pickle file, which runs code when it is loaded: save the weights as "
                "safetensors (`pipeline.save_pretrained(folder)`), or move the file away."
            )
    for name, content in files_to_share(folder).items():
        _check_size(folder, name, content)
    _check_loads(folder)


def _check_size(folder, name, content):
    size = size_of(content)
    if size > LARGEST_FILE:
        raise InputError(
            f"{folder} has {name} of {size / 1e9:.1f} GB, and the Hub takes files up to {LARGEST_FILE / 1e9:.0f} GB: "
            "save the "
            'weights in parts (`pipeline.save_pretrained(folder, max_shard_size="10GB")`).'
        )


def _check_loads(folder):
    if is_autoencoder(folder):
        load_autoencoder(folder)
        return
    check_files(folder)
    own = GaussianDiffusionCascadePipeline if is_cascade(folder) else GaussianDiffusionPipeline
    try:
        ours = _components(folder) <= set(inspect.signature(own.__init__).parameters)
        (own if ours else DiffusionPipeline).from_pretrained(folder)
    # Loaders raise many kinds of errors (missing, truncated or mismatched files); users see one kind.
    except Exception as error:
        raise InputError(
            f"{folder} does not load as a pipeline ({str(error).strip().splitlines()[0]}): nobody could use it; write "
            "it again with `save_pretrained`."
        ) from error


def load_autoencoder(name):
    """The [`AutoencoderKL`] of a folder or a Hub id, by itself or as the `vae` of a pipeline, to be used as it is.

    Raises:
        InputError: for what is none, or cannot be read.
        ValueError: for weights that are not finite.
    """
    folder = Path(name)
    inside = (folder / "vae" / CONFIG_FILE).is_file()
    for place in [folder / "vae" if inside else folder] if folder.is_dir() else []:
        if not (place / CONFIG_FILE).is_file():
            raise InputError(
                f"{name} holds no autoencoder, for it has no {CONFIG_FILE}: give a folder that "
                "`ddpm-hf train_autoencoder` has written, a pipeline with a vae, or a Hub id."
            )
        check_weights_files(place)
    place = {"subfolder": "vae"} if inside else {}
    try:
        config = AutoencoderKL.load_config(name, **place)
        _check_autoencoder(name, config)
        vae = AutoencoderKL.from_pretrained(name, **place)
    except InputError:
        raise
    # Loaders raise many kinds of errors; users see one kind.
    except Exception as error:
        raise InputError(f"Cannot load an AutoencoderKL from {name}: {str(error).strip().splitlines()[0]}") from error
    check_weights_finite(name, {"vae": vae})
    return vae.requires_grad_(False).eval()


def _check_autoencoder(name, config):
    """Raises InputError for the config of another class, or of latents in units of each channel."""
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != AutoencoderKL.__name__:
        raise InputError(f"{name} holds a {kind}, and latents are those of an AutoencoderKL: give one.")
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        raise InputError(
            f"The autoencoder of {name} scales each channel by its own latents_mean and latents_std, which the "
            "pipelines here do not: give one with a scaling_factor alone."
        )


def load_pipeline(model, latents=True, texts=False, **parts):
    """The [`GaussianDiffusionPipeline`] of a folder or a Hub id.

    Args:
        latents (`bool`): whether a model of the latents of an autoencoder is taken too.
        texts (`bool`): whether a model that is told a text is taken too.
        parts: components that replace the stored ones: `classifier=`.

    Raises:
        InputError: for a model that is not a DDPM of images, and for a repository that cannot be read.
        ValueError: for weights that are not finite.
    """
    if is_cascade(model):
        raise InputError(
            f"{model} is a cascade of several models, and this is for one of them: give the folder of one. "
            "`ddpm-hf sample` draws from the whole."
        )
    components = _components(model)
    others, missing = components - PARTS - (TEXT_PARTS if texts else set()), {"unet", "scheduler"} - components
    name = read_index(model)["_class_name"]
    is_ours = isinstance(name, list) or (texts and name == STABLE_DIFFUSION)
    others |= set() if is_ours and latents else {"vae"} & components
    if TEXT_PARTS & others:
        raise InputError(
            f"Cannot take model={str(model)!r}: it is told a text, which this does not give it. `ddpm-hf sample "
            "--prompt` draws from it, and `ddpm-hf evaluate --metrics fid` and `compare` measure its samples."
        )
    if others:
        raise InputError(
            f"Cannot take model={str(model)!r}: it has a {' and a '.join(sorted(others))} too, so its network does "
            f"not see images. {WHAT_IS_TAKEN}"
        )
    if missing:
        raise InputError(
            f"Cannot take model={str(model)!r}: its {INDEX_FILE} names no {' and no '.join(sorted(missing))}. "
            f"{WHAT_IS_TAKEN}"
        )
    _check_configs(Path(model), components)
    with reading(model):
        pipeline = GaussianDiffusionPipeline.from_pretrained(model, **parts)
    check_sampled(model, pipeline.unet.config, pipeline.scheduler)
    networks = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    check_weights_finite(model, networks)
    return pipeline


def _check_configs(folder, components):
    """Raises InputError for a config of a folder that is no mapping: diffusers looks for a string on the Hub."""
    for part in sorted(components):
        for name in (CONFIG_FILE, SCHEDULER_CONFIG_NAME):
            if (folder / part / name).is_file():
                read_mapping(folder / part / name)


def is_cascade(model):
    """Whether a folder or repository holds a [`GaussianDiffusionCascadePipeline`]."""
    name = read_index(model)["_class_name"]
    return isinstance(name, list) and name[-1] == GaussianDiffusionCascadePipeline.__name__


def load_cascade(model):
    """The [`GaussianDiffusionCascadePipeline`] of a folder or a Hub id, checked like `load_pipeline`."""
    with reading(model):
        cascade = GaussianDiffusionCascadePipeline.from_pretrained(model)
    for stage in cascade.stages:
        check_sampled(model, stage.unet.config, stage.scheduler)
    check_weights_finite(model, {network: getattr(cascade, network) for network, _ in cascade.stage_parts})
    return cascade


def check_weights_finite(model, networks):
    """Checks that all weights are finite.

    Args:
        model (`str`): name of the model in the message.
        networks (`dict[str, torch.nn.Module]`): networks by the name of the pipeline's part.

    Raises:
        ValueError: with the name of the first weight that is not finite.
    """
    for part, network in networks.items():
        for name, weight in network.state_dict().items():
            check_all_finite(
                weight,
                lambda *place, name=name, part=part: f"{model}: the weight {name}{list(place)} of its {part}",
                "Its training diverged, or the file is damaged: take an earlier checkpoint, or train it again.",
            )


def check_sampled(model, unet_config, scheduler):
    """Checks that the network has a valid image size and the scheduler's process is that of DDPM.

    Raises:
        InputError: otherwise, for example for flow matching, whose networks take another time and predict a velocity.
    """
    size = unet_config.get("sample_size")
    sides = size if isinstance(size, (list, tuple)) else [size, size]
    if size is not None and not (len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)):
        raise InputError(
            f"Cannot take model={str(model)!r}: the config of its network has sample_size={size!r}, which must be a "
            "positive whole number, or two of them (height, width); correct it in unet/config.json."
        )
    _check_halves(model, unet_config)
    step = inspect.signature(scheduler.step).parameters.values() if hasattr(scheduler, "step") else ()
    needed = {parameter.name for parameter in step if parameter.default is inspect.Parameter.empty} - {"kwargs"}
    # Schedulers of other processes (flow matching, EDM, consistency) lack the noise levels of DDPM.
    is_taken = isinstance(scheduler, ScoreSDEScheduler | EDMScheduler) or hasattr(scheduler, "alphas_cumprod")
    if not is_taken or not needed <= OF_A_STEP:
        raise InputError(
            f"Cannot take model={str(model)!r}: its scheduler, {type(scheduler).__name__}, is of another process than "
            f"DDPM. {WHAT_IS_TAKEN}"
        )


def _check_halves(model, unet_config):
    """Raises InputError for sides that a U-Net cannot halve at each level, as stock classes do not check it."""
    levels = len(unet_config.get("block_out_channels", [0]))
    sides, factor = kind_of(unet_config).sides, 2 ** (levels - 1)
    if any(side is not None and side % factor for side in sides):
        raise InputError(
            f"Cannot take model={str(model)!r}: the config of its network has "
            f"sample_size={unet_config['sample_size']!r}, and a network of {levels} levels needs sides divisible by "
            f"{factor}; correct it in unet/config.json."
        )


def _components(model):
    return set(component_names(read_index(model)))
