"""Checkpoints of DDPM's network in PyTorch: ddim (Song et al. 2020) and pytorch_diffusion."""

import torch
from diffusers import UNet2DModel

from ddpm_hf.converters.conversion import Conversion, network_of
from ddpm_hf.converters.options import Options, as_bool, as_numbers, check_agreement
from ddpm_hf.converters.renaming import Renaming, numbers_after
from ddpm_hf.errors import InputError

FAMILY = "ddim or pytorch_diffusion"
KNOWN = (
    *("model.type", "model.in_channels", "model.out_ch", "model.ch", "model.ch_mult", "model.num_res_blocks"),
    *("model.attn_resolutions", "model.dropout", "model.var_type", "model.ema_rate", "model.ema"),
    *("model.resamp_with_conv", "data_range", "prediction_type"),
)
# Options of their training, sampling and optimizers say nothing about the network.
SECTIONS = ("data", "diffusion", "training", "sampling", "optim")
VARIANCE_TYPES = {"fixedlarge": "fixed_large", "fixedsmall": "fixed_small"}

RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "temb_proj": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "conv_shortcut",
}
ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def is_ddpm(weights):
    return "temb.dense.0.weight" in weights and "mid.block_1.conv1.weight" in weights


def convert_ddpm(weights, given):
    """The [`Conversion`] of a checkpoint; `given` are the options of `read_options`."""
    options = Options(given, FAMILY)
    options.check_known(KNOWN, SECTIONS)
    side = int(options.need("data.image_size", "the height and width of the images"))
    config = _config(weights, side) | {"dropout": float(options.get("model.dropout", 0))}
    has_convolutions = "down.0.downsample.conv.weight" in weights
    _check_layout(options, config, side, has_convolutions)
    network = network_of(UNet2DModel, config, renamed(weights, config, has_convolutions), FAMILY)
    notes = ()
    if not has_convolutions and len(config["block_out_channels"]) > 1:
        notes = (
            "Its resampling without weights is written as convolutions with fixed ones, which training would move.",
        )
    return Conversion(FAMILY, network, process_of(options) | {"process": "gaussian"}, doubtful(options), notes)


# Reading the weights -------------------------------------------------------------------------------------------------


def _config(weights, side):
    """The arguments of [`UNet2DModel`], as the weights tell them."""
    levels, layers = (len(numbers_after(weights, rf"down\.{pattern}\.")) for pattern in (r"(\d+)", r"0\.block\.(\d+)"))
    widths = tuple(weights[f"down.{level}.block.0.conv2.weight"].shape[0] for level in range(levels))
    attention = [f"down.{level}.attn.0.q.weight" in weights for level in range(levels)]
    return {
        "sample_size": side,
        "in_channels": weights["conv_in.weight"].shape[1],
        "out_channels": weights["conv_out.weight"].shape[0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        **unet_layout(attention),
    }


def unet_layout(attention):
    """The arguments of [`UNet2DModel`] for the blocks of DDPM; `attention` says of each level whether it has one."""
    return {
        "down_block_types": tuple("AttnDownBlock2D" if has else "DownBlock2D" for has in attention),
        "up_block_types": tuple("AttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)),
        "attention_head_dim": None,
        "norm_num_groups": 32,
        "norm_eps": 1e-6,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    }


def _check_layout(options, config, side, has_convolutions):
    width, multiples = options.get("model.ch"), options.get("model.ch_mult")
    sizes = options.get("model.attn_resolutions")
    levels = range(len(config["block_out_channels"]))
    attention = tuple(name == "AttnDownBlock2D" for name in config["down_block_types"])
    wanted = None if sizes is None else tuple(side // 2**level in as_numbers(sizes) for level in levels)
    widths = None
    if width is not None and multiples is not None:
        widths = tuple(width * multiple for multiple in as_numbers(multiples))
    resamples = options.get("model.resamp_with_conv") if len(levels) > 1 else None
    pairs = {
        "model.ch_mult (widths of the levels)": (widths, config["block_out_channels"]),
        "model.num_res_blocks": (options.get("model.num_res_blocks"), config["layers_per_block"]),
        "model.attn_resolutions (levels with attention)": (wanted, attention),
        "model.in_channels": (options.get("model.in_channels"), config["in_channels"]),
        "model.out_ch": (options.get("model.out_ch"), config["out_channels"]),
        "model.resamp_with_conv": (None if resamples is None else as_bool(resamples), has_convolutions),
    }
    check_agreement(pairs, FAMILY)


def process_of(options):
    """The diffusion process, as the config of a scheduler."""
    schedule = options.get("diffusion.beta_schedule", "linear")
    options.choice("diffusion.beta_schedule", schedule, ("linear", "quad"))
    variance = options.get("model.var_type", "fixedlarge")
    options.choice("model.var_type", variance, tuple(VARIANCE_TYPES))
    prediction = options.get("prediction_type", "epsilon")
    options.choice("prediction_type", prediction, ("epsilon", "sample"))
    if not as_bool(options.get("data.rescaled", True)):
        raise InputError(
            "data.rescaled=False, images in [0, 1], is not held by the pipelines here, whose images are in [-1, 1]."
        )
    return {
        "num_train_timesteps": int(
            options.need("diffusion.num_diffusion_timesteps", "the number of timesteps of the training", usual=1000)
        ),
        "beta_start": float(options.need("diffusion.beta_start", "the first beta", usual=1e-4)),
        "beta_end": float(options.need("diffusion.beta_end", "the last beta", usual=0.02)),
        "beta_schedule": "linear" if schedule == "linear" else "scaled_linear",
        "variance_type": VARIANCE_TYPES[variance],
        "prediction_type": prediction,
        "clip_sample": True,
    }


def doubtful(options):
    """{option: other values that would fit the weights as well}, for the self-check."""
    prediction = options.get("prediction_type", "epsilon")
    return {"prediction_type": [each for each in ("epsilon", "sample") if each != prediction]}


# Names ---------------------------------------------------------------------------------------------------------------


def renamed(weights, config, has_convolutions):
    """The weights in the names of [`UNet2DModel`]; `up.0` is the level of the highest resolution."""
    names, widths, layers = Renaming(weights, FAMILY), config["block_out_channels"], config["layers_per_block"]
    levels = len(widths)
    for source, target in (
        *(("temb.dense.0", "time_embedding.linear_1"), ("temb.dense.1", "time_embedding.linear_2")),
        *(("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out")),
    ):
        names.move(source, target)
    for level, width in enumerate(widths):
        down, up = f"down_blocks.{level}", f"up_blocks.{levels - 1 - level}"
        _move_level(names, f"down.{level}", down, layers)
        _move_level(names, f"up.{level}", up, layers + 1)
        if level < levels - 1:
            _move_resampling(
                names, f"down.{level}.downsample.conv", f"{down}.downsamplers.0.conv", width, has_convolutions
            )
        if level > 0:
            _move_resampling(names, f"up.{level}.upsample.conv", f"{up}.upsamplers.0.conv", width, has_convolutions)
    for layer in range(2):
        names.move(f"mid.block_{layer + 1}", f"mid_block.resnets.{layer}", RESNET)
    _move_attention(names, "mid.attn_1", "mid_block.attentions.0")
    return names.finished()


def _move_level(names, source, target, layers):
    for layer in range(layers):
        names.move(f"{source}.block.{layer}", f"{target}.resnets.{layer}", RESNET)
        if names.has(f"{source}.attn.{layer}.q.weight"):
            _move_attention(names, f"{source}.attn.{layer}", f"{target}.attentions.{layer}")


def _move_attention(names, source, target):
    names.move(source, target, {"norm": "group_norm"})
    names.move(source, target, ATTENTION, reshape=lambda weight: weight.flatten(1))


def _move_resampling(names, source, target, width, has_convolutions):
    """Renames the convolution of a change of resolution, or writes one that does what the code does without weights.

    A mean of four is the kernel with 1/4 in its first 2x2, for zeros are added right and below; a repetition needs the
    identity after it.
    """
    if has_convolutions:
        names.move(source, target)
        return
    kernel = torch.zeros(3, 3)
    if "downsample" in source:
        kernel[:2, :2] = 0.25
    else:
        kernel[1, 1] = 1
    names.renamed[f"{target}.weight"] = torch.eye(width)[:, :, None, None] * kernel
    names.renamed[f"{target}.bias"] = torch.zeros(width)
