"""DDPM's network as score_sde has it, in a stock `UNet2DModel`.

A level has one attention on the way up, after its last residual block, where `AttnUpBlock2D` has one after each: the
others get weights of zero, with which an attention adds nothing.
"""

import torch
from diffusers import UNet2DModel

from ddpm_hf.converters.conversion import network_of
from ddpm_hf.converters.ddpm import unet_layout
from ddpm_hf.converters.options import as_bool, as_numbers, check_agreement
from ddpm_hf.converters.renaming import weight_of
from ddpm_hf.converters.score_sde_walk import Walk
from ddpm_hf.errors import InputError

FAMILY = "score_sde (ddpm)"


def ddpm_network(weights, options):
    """The network of a checkpoint with `model.name: ddpm`."""
    if as_bool(options.get("model.scale_by_sigma", False)):
        raise InputError(
            "model.scale_by_sigma=True with model.name='ddpm' is not held by any class here: no stock network of "
            "timesteps divides its output by sigma. False is held."
        )
    if not as_bool(options.need("data.centered", "whether the images are in [-1, 1]")):
        raise InputError("data.centered=False with model.name='ddpm' is not held by any class here; True is.")
    config = _config(weights, options)
    return network_of(UNet2DModel, config, _renamed(weights, config), FAMILY)


def _config(weights, options):
    first = weight_of(weights, "all_modules.2.weight", FAMILY)
    check_agreement({"model.nf": (options.get("model.nf"), first.shape[0])}, FAMILY)
    side = int(options.need("data.image_size", "the height and width of the images"))
    multiples = as_numbers(options.need("model.ch_mult", "the widths of the levels"))
    sizes = as_numbers(options.need("model.attn_resolutions", "the resolutions with attention"))
    attention = [side // 2**level in sizes for level in range(len(multiples))]
    return {
        "sample_size": side,
        "in_channels": first.shape[1],
        "out_channels": first.shape[1],
        "block_out_channels": tuple(int(first.shape[0] * multiple) for multiple in multiples),
        "layers_per_block": int(options.need("model.num_res_blocks", "the residual blocks of each level")),
        **unet_layout(attention),
        "dropout": float(options.get("model.dropout", 0)),
    }


def _renamed(weights, config):
    walk = Walk(weights, FAMILY)
    walk.names.drop(r"^sigmas$")
    for target in ("time_embedding.linear_1", "time_embedding.linear_2", "conv_in"):
        walk.layer(target)
    last = len(config["block_out_channels"]) - 1
    for level, kind in enumerate(config["down_block_types"]):
        for layer in range(config["layers_per_block"]):
            walk.resnet(f"down_blocks.{level}.resnets.{layer}")
            if kind == "AttnDownBlock2D":
                walk.attention(f"down_blocks.{level}.attentions.{layer}")
        if level < last:
            walk.layer(f"down_blocks.{level}.downsamplers.0.conv", "Conv_0")
    walk.resnet("mid_block.resnets.0")
    walk.attention("mid_block.attentions.0")
    walk.resnet("mid_block.resnets.1")
    for level, kind in enumerate(config["up_block_types"]):
        for layer in range(config["layers_per_block"] + 1):
            walk.resnet(f"up_blocks.{level}.resnets.{layer}")
        if kind == "AttnUpBlock2D":
            walk.attention(f"up_blocks.{level}.attentions.{config['layers_per_block']}")
            _idle(walk.names.renamed, f"up_blocks.{level}.attentions", config["layers_per_block"])
        if level < last:
            walk.layer(f"up_blocks.{level}.upsamplers.0.conv", "Conv_0")
    walk.layer("conv_norm_out")
    walk.layer("conv_out")
    return walk.names.finished()


def _idle(renamed, attentions, number):
    """Writes attentions that add nothing, of the shape of the one after them."""
    pattern = f"{attentions}.{number}."
    used = {name.removeprefix(pattern): weight for name, weight in renamed.items() if name.startswith(pattern)}
    for layer in range(number):
        renamed |= {f"{attentions}.{layer}.{name}": torch.zeros_like(weight) for name, weight in used.items()}
