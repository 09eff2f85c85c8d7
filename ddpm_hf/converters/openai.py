"""Checkpoints of improved-diffusion and guided-diffusion (Nichol & Dhariwal 2021; Dhariwal & Nichol 2021).

Both codes name their weights alike. What differs, and what the weights do not tell, is the number of heads, the order
of the rows in their attention (`qkv_parts`), and the whole diffusion process.
"""

from ddpm_hf.converters.conversion import Conversion, network_of
from ddpm_hf.converters.guided_classifier import convert_classifier
from ddpm_hf.converters.openai_layout import EPS, FAMILY, GROUPS, read_layout
from ddpm_hf.converters.openai_names import renamed
from ddpm_hf.converters.openai_options import (
    KNOWN,
    check_layout,
    doubtful,
    heads_of,
    plain_options,
    process_of,
    side_of,
)
from ddpm_hf.converters.options import Options
from ddpm_hf.models.adm_unet_2d import ADMUNet2DModel
from ddpm_hf.models.unet_2d import DDPMUNet2DModel


def is_openai(weights):
    return "time_embed.0.weight" in weights and "input_blocks.0.0.weight" in weights


def convert_openai(weights, given):
    """The [`Conversion`] of a denoiser or of an upsampler; `given` are the options of `read_options`."""
    if "output_blocks.0.0.in_layers.0.weight" not in weights:
        return convert_classifier(weights, given)
    options = Options(plain_options(given), FAMILY)
    options.check_known((*KNOWN, "attention_factors"))
    layout, side = read_layout(weights), side_of(options)
    check_layout(options, layout, side)
    heads, process = heads_of(options, layout), process_of(options, layout)
    config = network_config(layout, side, heads.channels) | {"dropout": float(options.get("dropout", 0))}
    own = {
        "num_attention_heads": heads.number,
        "time_embedding_channels": None if layout.time_channels == layout.widths[0] else layout.time_channels,
        "timestep_scale": process.pop("timestep_scale"),
    }
    is_stock = own == {"num_attention_heads": None, "time_embedding_channels": None, "timestep_scale": 1.0}
    if layout.learns_sigma:
        config["variance_head"] = "learned_range"
    if layout.is_upsampler:
        config |= condition_of(options, layout)
    network_class, arguments = (DDPMUNet2DModel, config) if is_stock else (ADMUNet2DModel, config | own)
    network = network_of(network_class, arguments, renamed(weights, layout, heads), FAMILY)
    return Conversion(
        family=str(options.get("codebase", FAMILY)),
        network=network,
        process=process | {"process": "upsampler" if layout.is_upsampler else "gaussian"},
        doubtful=doubtful(options, layout),
    )


def condition_of(options, layout):
    """The arguments of an upsampler's condition image, which the codes make by the mean over small squares."""
    small = int(options.need("small_size", "the height and width of the small images"))
    return {"condition_channels": layout.in_channels // 2, "low_resolution": small, "downsampling": "area"}


def network_config(layout, side, head_channels):
    """The arguments of [`UNet2DModel`] for a layout."""
    plain = {"down": "DownBlock2D", "up": "UpBlock2D"}
    if layout.resnet_resampling:
        plain = {"down": "ResnetDownsampleBlock2D", "up": "ResnetUpsampleBlock2D"}
    resampling = "resnet" if layout.resnet_resampling else "conv"
    return {
        "sample_size": side,
        "in_channels": layout.in_channels,
        "out_channels": layout.out_channels,
        "block_out_channels": layout.widths,
        "layers_per_block": layout.layers,
        "down_block_types": tuple("AttnDownBlock2D" if has else plain["down"] for has in layout.attention),
        "up_block_types": tuple("AttnUpBlock2D" if has else plain["up"] for has in reversed(layout.attention)),
        "downsample_type": resampling,
        "upsample_type": resampling,
        "attention_head_dim": head_channels,
        "norm_num_groups": GROUPS,
        # With scale and shift, stock networks leave the norm out of the middle attention unless they are told this.
        "attn_norm_num_groups": GROUPS,
        "norm_eps": EPS,
        "resnet_time_scale_shift": "scale_shift" if layout.scale_shift else "default",
        "time_embedding_dim": 4 * layout.time_channels,
        "num_class_embeds": layout.num_classes,
    }
