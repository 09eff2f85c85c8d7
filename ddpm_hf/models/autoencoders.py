"""Autoencoders for latent diffusion (Rombach et al. 2022): presets and configs of diffusers' `AutoencoderKL`."""

import os

from diffusers import AutoencoderKL

from ddpm_hf.errors import InputError
from ddpm_hf.nearest_names import did_you_mean
from ddpm_hf.samples.latent_units import factor_of
from ddpm_hf.sizes import size_of, written_sides

# Keyword arguments of `AutoencoderKL`; the last number of a name is the factor by which the sides of the latents are
# smaller. Size and channels follow from the data.
AUTOENCODER_PRESETS = {
    # 0.2M parameters: 28x28 to 14x14, minutes to train on a CPU.
    "small_f2": {"block_out_channels": (16, 32), "latent_channels": 2, "norm_num_groups": 8},
    # 0.7M parameters: 32x32 to 8x8, minutes to train on a CPU.
    "small_f4": {"block_out_channels": (16, 32, 64), "latent_channels": 4, "norm_num_groups": 8},
    # 3.3M parameters: 32x32 in colour to 16x16, on a GPU.
    "medium_f2": {"block_out_channels": (64, 128), "latent_channels": 4, "layers_per_block": 2},
    # 8.8M parameters: 64x64 to 16x16, on a GPU.
    "medium_f4": {"block_out_channels": (64, 128, 192), "latent_channels": 4, "layers_per_block": 2},
    # 83.7M parameters: 256x256 to 32x32, the network of Stable Diffusion.
    "large_f8": {"block_out_channels": (128, 256, 512, 512), "latent_channels": 4, "layers_per_block": 2},
}
# Keys of a config that are measured after training.
UNITS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
# The latents of a chosen preset have sides of at least this, and even ones, which a U-Net can halve.
LEAST_LATENT_SIDE = 8


def chosen_preset(sides):
    """The preset for images with these sides (height, width) where none is named."""
    is_large = min(sides) >= 256
    for name in (*(("large_f8",) if is_large else ()), "small_f4", "small_f2"):
        factor = factor_of(AUTOENCODER_PRESETS[name])
        if all(side % (2 * factor) == 0 and side // factor >= LEAST_LATENT_SIDE for side in sides):
            return name
    return "small_f2"


def autoencoder_config(name):
    """The keyword arguments of an [`AutoencoderKL`].

    Args:
        name (`str`): a preset, or a `config.json`, folder or repository that has one.

    Raises:
        InputError: for a name that is none of these, and for the config of another class.
    """
    if name in AUTOENCODER_PRESETS:
        config = AUTOENCODER_PRESETS[name]
        levels = len(config["block_out_channels"])
        blocks = {
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
        }
        return blocks | config
    if not os.path.exists(name) and name.count("/") != 1:
        raise InputError(
            f"autoencoder={name!r} is not one of {', '.join(map(repr, AUTOENCODER_PRESETS))}, nor a config.json of an "
            f"AutoencoderKL{did_you_mean(name, AUTOENCODER_PRESETS)}"
        )
    try:
        config = AutoencoderKL.load_config(name)
    except OSError as error:
        raise InputError(f"Cannot read the config of an AutoencoderKL from autoencoder={name!r}: {error}") from error
    if not isinstance(config, dict) or config.get("_class_name") != AutoencoderKL.__name__:
        raise InputError(f"autoencoder={name!r} is not the config of an AutoencoderKL: give one, or a preset.")
    if not (config.get("use_quant_conv", True) and config.get("use_post_quant_conv", True)):
        raise InputError(
            f"autoencoder={name!r} leaves out use_quant_conv or use_post_quant_conv, the layers in which the means of "
            "the latents are kept: set both to true."
        )
    return {key: value for key, value in config.items() if key not in UNITS and not key.startswith("_")}


def check_sides(config, sides, name):
    """Raises InputError for images whose sides (height, width) the autoencoder called `name` cannot halve so often."""
    factor = factor_of(config)
    if any(side % factor for side in sides):
        fitting = [max(factor, round(side / factor) * factor) for side in sides]
        raise InputError(
            f"{name} makes latents whose sides are {factor} times smaller, and the images are of "
            f"{written_sides(sides)}: give a --resolution whose sides are multiples of {factor}, such as "
            f"{size_of(*fitting)}."
        )
