"""Networks of known sizes: keyword arguments of `UNet2DModel` (and so of `DDPMUNet2DModel`), and of `MLPDenoiser`."""

from pathlib import Path

from ddpm_hf.errors import InputError
from ddpm_hf.nearest_names import did_you_mean

UNET_PRESETS = {
    # 0.7M parameters: 28x28 grey, minutes to train on a CPU.
    "fashion_mnist": {
        "sample_size": 28,
        "in_channels": 1,
        "block_out_channels": (16, 32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        "attention_head_dim": 16,
        "norm_num_groups": 8,
    },
    # 2.7M parameters: 32x32 in colour, for a CPU or for few images.
    "small_32": {
        "sample_size": 32,
        "in_channels": 3,
        "block_out_channels": (32, 64, 128),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        "attention_head_dim": 32,
        "norm_num_groups": 8,
    },
    # 3.7M parameters: 64x64 in colour, for a CPU or for few images.
    "small_64": {
        "sample_size": 64,
        "in_channels": 3,
        "block_out_channels": (32, 64, 96, 128),
        "layers_per_block": 1,
        "down_block_types": (*["DownBlock2D"] * 3, "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", *["UpBlock2D"] * 3),
        "attention_head_dim": 32,
        "norm_num_groups": 8,
    },
    # 5.3M parameters: 128x128 in colour, for a small GPU or for few images.
    "small_128": {
        "sample_size": 128,
        "in_channels": 3,
        "block_out_channels": (32, 64, 96, 128, 128),
        "layers_per_block": 1,
        "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", *["UpBlock2D"] * 4),
        "attention_head_dim": 32,
        "norm_num_groups": 8,
    },
    # 10.7M parameters: 32x32 in colour, for ten thousand images and more on a GPU.
    "medium_32": {
        "sample_size": 32,
        "in_channels": 3,
        "block_out_channels": (64, 128, 192),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 32,
    },
    # 22.1M parameters: 64x64 in colour, for ten thousand images and more on a GPU.
    "medium_64": {
        "sample_size": 64,
        "in_channels": 3,
        "block_out_channels": (64, 128, 192, 256),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        "attention_head_dim": 64,
    },
    # 35.7M parameters: the CIFAR-10 network of DDPM (Ho et al. 2020, appendix B), attention at 16x16, one head,
    # dropout 0.1; time embedding and padding as in the checkpoint converted from the authors' code.
    "cifar10": {
        "sample_size": 32,
        "in_channels": 3,
        "block_out_channels": (128, 256, 256, 256),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": None,
        "downsample_padding": 0,
        "dropout": 0.1,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
    # 52.5M parameters: the CIFAR-10 network of Improved DDPM (Nichol & Dhariwal 2021, and the flags of its release),
    # three blocks a level, attention at 16x16 and 8x8 with four heads, the time embedding as scale and shift, dropout
    # 0.3 as its cosine schedule needs.
    "cifar10_iddpm": {
        "sample_size": 32,
        "in_channels": 3,
        "block_out_channels": (128, 256, 256, 256),
        "layers_per_block": 3,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 64,
        "resnet_time_scale_shift": "scale_shift",
        "dropout": 0.3,
    },
    # 121.1M parameters: 64x64, after the ImageNet-64 network of Improved DDPM (Nichol & Dhariwal 2021, section 3):
    # widths 128 to 512, three blocks a level, attention at 16x16 and 8x8, the time embedding as scale and shift.
    "images_64": {
        "sample_size": 64,
        "in_channels": 3,
        "block_out_channels": (128, 256, 384, 512),
        "layers_per_block": 3,
        "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        "attention_head_dim": 64,
        "resnet_time_scale_shift": "scale_shift",
    },
    # 113.7M parameters: the 256x256 network of DDPM (Ho et al. 2020, appendix B), attention at 16x16, one head.
    "images_256": {
        "sample_size": 256,
        "in_channels": 3,
        "block_out_channels": (128, 128, 256, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
    # 1.6M parameters: latents of 8x8 or 14x14 (`--vae`), for a CPU.
    "latents_small": {
        "sample_size": 8,
        "in_channels": 4,
        "block_out_channels": (48, 96),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 32,
        "norm_num_groups": 16,
    },
    # 27.2M parameters: latents of 16x16 to 32x32 (`--vae`), on a GPU.
    "latents_medium": {
        "sample_size": 32,
        "in_channels": 4,
        "block_out_channels": (128, 256, 256),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 64,
    },
}

# Keyword arguments of `UNet2DConditionModel`, which is told a text; its `attention_head_dim` is the number of heads.
TEXT_PRESETS = {
    # 2.3M parameters: latents of 8x8 to 16x16 (`--vae`), for a CPU.
    "text_small": {
        "sample_size": 8,
        "in_channels": 4,
        "block_out_channels": (48, 96),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
        "norm_num_groups": 16,
    },
    # Pixels of 28x28 to 64x64, for a CPU.
    "text_small_32": {
        "sample_size": 32,
        "in_channels": 3,
        "block_out_channels": (32, 64, 128),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
        "norm_num_groups": 16,
    },
    # Latents of 16x16 to 64x64 (`--vae`), on a GPU.
    "text_medium": {
        "sample_size": 32,
        "in_channels": 4,
        "block_out_channels": (128, 256, 384),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8,
    },
}

MLP_PRESETS = {
    # 0.4M parameters, for points in the plane; trains in a minute or two on a CPU.
    "mlp": {"width": 256, "time_embedding_dim": 64},
}

NETWORK_PRESETS = UNET_PRESETS | TEXT_PRESETS | MLP_PRESETS


def check_network_name(name):
    """Checks that a name is a preset, a path that is there, or has the form of a repository's id; nothing is read.

    Raises:
        InputError: for any other name, with the nearest preset, and for the folder of a pipeline.
    """
    path = Path(name)
    if (path / "unet" / "config.json").is_file():
        raise InputError(
            f"unet={name!r} is a pipeline folder: give {path / 'unet'} for a new network of that form, or --init_from "
            f"{name} to start from its weights."
        )
    is_repository = name.count("/") == 1 and path.suffix != ".json" and name[0] not in "./~"
    if name in NETWORK_PRESETS or path.exists() or is_repository:
        return
    raise InputError(
        f"unet={name!r} is not one of {', '.join(map(repr, NETWORK_PRESETS))}, nor a config.json of a network"
        f"{did_you_mean(name, NETWORK_PRESETS)}"
    )
