"""Checkpoints of score_sde in PyTorch (Song et al. 2021): DDPM++, NCSN++ and DDPM's network.

The code numbers its layers in the order in which they are used, `all_modules.0` first, so their names are found by
walking through the network in that order.
"""

import math

from diffusers import UNet2DModel

from ddpm_hf.converters.conversion import Conversion, network_of
from ddpm_hf.converters.options import Options, as_bool, as_numbers, check_agreement
from ddpm_hf.converters.renaming import weight_of
from ddpm_hf.converters.score_sde_ddpm import ddpm_network
from ddpm_hf.converters.score_sde_walk import Walk
from ddpm_hf.errors import InputError
from ddpm_hf.models.ncsnpp_2d import NCSNpp2DModel

FAMILY = "score_sde"
SECTIONS = ("training", "data", "sampling", "eval", "optim", "evaluate")
KNOWN = (
    *("model.name", "model.sigma_min", "model.sigma_max", "model.num_scales", "model.beta_min", "model.beta_max"),
    *("model.dropout", "model.ema_rate", "model.normalization", "model.nonlinearity", "model.nf", "model.ch_mult"),
    *("model.num_res_blocks", "model.attn_resolutions", "model.resamp_with_conv", "model.conditional", "model.fir"),
    *("model.fir_kernel", "model.skip_rescale", "model.resblock_type", "model.progressive", "model.progressive_input"),
    *("model.progressive_combine", "model.attention_type", "model.init_scale", "model.fourier_scale"),
    *("model.conv_size", "model.scale_by_sigma", "model.embedding_type", "model.embedding_dim", "seed", "device"),
)
# What the class holds of options that its constructor does not have.
HELD = {
    "model.resblock_type": ("biggan",),
    "model.progressive": ("none", "output_skip"),
    "model.progressive_input": ("none", "input_skip", "residual"),
    "model.progressive_combine": ("sum",),
    "model.embedding_type": ("fourier", "positional"),
    "model.nonlinearity": ("swish",),
    "model.normalization": ("GroupNorm",),
    "model.attention_type": ("ddpm",),
}
SDES = {"vpsde": "vp", "subvpsde": "sub_vp", "vesde": "ve"}


def is_score_sde(weights):
    return any(name.startswith("all_modules.") for name in weights)


def convert_score_sde(weights, given):
    """The [`Conversion`] of a checkpoint; `given` are the options of `read_options`."""
    options = Options(given, FAMILY)
    options.check_known(KNOWN, SECTIONS)
    name = options.get("model.name", "ncsnpp")
    options.choice("model.name", name, tuple(NETWORKS))
    for part in ("model.conditional", "model.resamp_with_conv"):
        if not as_bool(options.get(part, True)):
            raise InputError(f"{part}=False of {FAMILY} is not held by any class here; True is.")
    return Conversion(FAMILY, NETWORKS[name](weights, options), process_of(options))


def ncsnpp_network(weights, options):
    """The network of DDPM++ and NCSN++."""
    config = _config(weights, options)
    own, stock = (NCSNpp2DModel, config), (UNet2DModel, stock_config(config))
    network_class, arguments = stock if fits_stock_class(config) else own
    return network_of(network_class, arguments, renamed(weights, config), FAMILY)


NETWORKS = {"ncsnpp": ncsnpp_network, "ddpm": ddpm_network}


def _config(weights, options):
    """The arguments of [`NCSNpp2DModel`]: the code's own options, of which the weights confirm the widths."""
    for name, held in HELD.items():
        options.choice(name, options.get(name, held[0]), held)
    if as_numbers(options.get("model.fir_kernel", (1, 3, 3, 1))) != [1, 3, 3, 1]:
        raise InputError(f"model.fir_kernel={options.get('model.fir_kernel')} is not held; [1, 3, 3, 1] is.")
    side = int(options.need("data.image_size", "the height and width of the images"))
    is_fourier = options.need("model.embedding_type", "how the network takes the time") == "fourier"
    check_agreement({"model.embedding_type is 'fourier'": (is_fourier, "all_modules.0.W" in weights)}, FAMILY)
    first = weight_of(weights, f"all_modules.{2 + is_fourier}.weight", FAMILY)
    check_agreement({"model.nf": (options.get("model.nf"), first.shape[0])}, FAMILY)
    multiples = as_numbers(options.need("model.ch_mult", "the widths of the levels"))
    sizes = as_numbers(options.need("model.attn_resolutions", "the resolutions with attention"))
    return {
        "sample_size": side,
        "in_channels": first.shape[1],
        "out_channels": first.shape[1],
        "block_out_channels": tuple(int(first.shape[0] * multiple) for multiple in multiples),
        "attention_levels": tuple(level for level in range(len(multiples)) if side // 2**level in sizes),
        "layers_per_block": int(options.need("model.num_res_blocks", "the residual blocks of each level")),
        "time_embedding_type": "fourier" if is_fourier else "positional",
        "fir": as_bool(options.need("model.fir", "whether resolutions change by a filter")),
        "skip_rescale": as_bool(options.need("model.skip_rescale", "whether residual sums are divided by sqrt(2)")),
        "progressive": options.need("model.progressive", "how the output is summed over resolutions"),
        "progressive_input": options.need("model.progressive_input", "how the input comes in at other resolutions"),
        "center_input_sample": not as_bool(options.need("data.centered", "whether the images are in [-1, 1]")),
        "scale_by_sigma": as_bool(options.need("model.scale_by_sigma", "whether the output is divided by sigma")),
        "sigma_min": float(options.get("model.sigma_min", 0.01)),
        "sigma_max": float(options.get("model.sigma_max", 50)),
        "num_scales": int(options.get("model.num_scales", 1000)),
        "dropout": float(options.get("model.dropout", 0)),
    }


# What a stock `UNet2DModel` with skip blocks always has.
OF_STOCK_SKIP_BLOCKS = {
    "in_channels": 3,
    "time_embedding_type": "fourier",
    "fir": True,
    "skip_rescale": True,
    "progressive": "output_skip",
    "progressive_input": "input_skip",
    "center_input_sample": True,
    "scale_by_sigma": True,
}
# Attentions of stock skip blocks are normalized in 32 groups; in the code, in a quarter of their width at most.
LEAST_STOCK_WIDTH = 128


def fits_stock_class(config):
    """Whether a stock `UNet2DModel` computes what an [`NCSNpp2DModel`] of this config does."""
    widths = config["block_out_channels"]
    beside = {near for level in config["attention_levels"] for near in (level - 1, level, level + 1)}
    attended = [width for level, width in enumerate(widths) if level in beside]
    has_skip_blocks = all(config[name] == value for name, value in OF_STOCK_SKIP_BLOCKS.items())
    return has_skip_blocks and min(attended, default=LEAST_STOCK_WIDTH) >= LEAST_STOCK_WIDTH


def stock_config(config):
    """The arguments of [`UNet2DModel`] for those of an [`NCSNpp2DModel`] that fits it."""
    levels = range(len(config["block_out_channels"]))
    prefixes = ["AttnSkip" if level in config["attention_levels"] else "Skip" for level in levels]
    shared = ("sample_size", "in_channels", "out_channels", "block_out_channels", "layers_per_block", "dropout")
    return {name: config[name] for name in (*shared, "time_embedding_type", "center_input_sample")} | {
        "down_block_types": tuple(f"{prefix}DownBlock2D" for prefix in prefixes),
        "up_block_types": tuple(f"{prefix}UpBlock2D" for prefix in reversed(prefixes)),
        "norm_num_groups": None,
        "norm_eps": 1e-6,
        "mid_block_scale_factor": math.sqrt(2),
        "attention_head_dim": None,
    }


def process_of(options):
    """The diffusion process: which SDE, with its parameters, and whether its time is continuous."""
    sde = options.need("training.sde", "the SDE: vpsde, subvpsde or vesde")
    options.choice("training.sde", sde, tuple(SDES))
    continuous = as_bool(options.need("training.continuous", "whether the training's time is continuous"))
    if sde == "vesde" and not continuous and options.get("model.embedding_type") == "fourier":
        raise InputError(
            "training.continuous=False numbers the noise levels, and model.embedding_type='fourier' takes sigma "
            "itself: the options are of two models."
        )
    return {
        "process": SDES[sde],
        "continuous": continuous,
        "num_train_timesteps": int(options.get("model.num_scales", 1000)),
        "beta_min": float(options.get("model.beta_min", 0.1)),
        "beta_max": float(options.get("model.beta_max", 20)),
        "sigma_min": float(options.get("model.sigma_min", 0.01)),
        "sigma_max": float(options.get("model.sigma_max", 50)),
        "snr": float(options.get("sampling.snr", 0.16)),
        "centered": as_bool(options.need("data.centered", "whether the images are in [-1, 1]")),
    }


# Names ---------------------------------------------------------------------------------------------------------------


def renamed(weights, config):
    """The weights in the names of [`NCSNpp2DModel`]."""
    walk, levels = Walk(weights, FAMILY), len(config["block_out_channels"])
    walk.names.drop(r"^sigmas$")
    if config["time_embedding_type"] == "fourier":
        walk.names.renamed["time_proj.weight"] = walk.names.take(f"{walk.next}.W")
    for target in ("time_embedding.linear_1", "time_embedding.linear_2", "conv_in"):
        walk.layer(target)
    for level in range(levels):
        _walk_down(walk, config, level, is_last=level == levels - 1)
    walk.resnet("mid_block.resnets.0")
    walk.attention("mid_block.attentions.0")
    walk.resnet("mid_block.resnets.1")
    for level in reversed(range(levels)):
        _walk_up(walk, config, level, f"up_blocks.{levels - 1 - level}")
    if config["progressive"] == "none":
        walk.layer("conv_norm_out")
        walk.layer("conv_out")
    return walk.names.finished()


def _walk_down(walk, config, level, is_last):
    target = f"down_blocks.{level}"
    for layer in range(config["layers_per_block"]):
        walk.resnet(f"{target}.resnets.{layer}")
        if level in config["attention_levels"]:
            walk.attention(f"{target}.attentions.{layer}")
    if is_last:
        return
    walk.resnet(f"{target}.resnet_down")
    if config["progressive_input"] == "input_skip":
        walk.layer(f"{target}.skip_conv", "Conv_0")
    elif config["progressive_input"] == "residual" and config["fir"]:
        walk.layer(f"{target}.pyramid_down.fir.Conv2d_0", "Conv2d_0")
    elif config["progressive_input"] == "residual":
        walk.layer(f"{target}.pyramid_down.conv", "Conv_0")


def _walk_up(walk, config, level, target):
    for layer in range(config["layers_per_block"] + 1):
        walk.resnet(f"{target}.resnets.{layer}")
    if level in config["attention_levels"]:
        walk.attention(f"{target}.attentions.0")
    if config["progressive"] == "output_skip":
        walk.layer("conv_norm_out" if level == 0 else f"{target}.skip_norm")
        walk.layer("conv_out" if level == 0 else f"{target}.skip_conv")
    if level > 0:
        walk.resnet(f"{target}.resnet_up")
