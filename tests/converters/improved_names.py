"""Writes a network of ours out in the names of improved-diffusion, with its order of the rows of attention."""

import torch
from diffusers.models.attention_processor import Attention

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def in_improved_names(unet):
    """{name: weight} of a `UNet2DModel` that resamples by convolutions."""
    written = {}

    def layer(name, module):
        if module is not None:
            written[f"{name}.weight"], written[f"{name}.bias"] = module.weight.detach(), module.bias.detach()

    def resnet(name, block):
        for ours, theirs in RESNET.items():
            layer(f"{name}.{theirs}", getattr(block, ours))

    def attention(name, block):
        layer(f"{name}.norm", block.group_norm)
        parts = [(each.weight.detach(), each.bias.detach()) for each in (block.to_q, block.to_k, block.to_v)]
        weights, biases = (rows_by_head(rows, block.heads) for rows in zip(*parts, strict=True))
        written[f"{name}.qkv.weight"], written[f"{name}.qkv.bias"] = weights[..., None], biases
        layer(f"{name}.proj_out", block.to_out[0])
        written[f"{name}.proj_out.weight"] = written[f"{name}.proj_out.weight"][..., None]

    layer("time_embed.0", unet.time_embedding.linear_1)
    layer("time_embed.2", unet.time_embedding.linear_2)
    if unet.class_embedding is not None:
        written["label_emb.weight"] = unet.class_embedding.weight.detach()
    layer("input_blocks.0.0", unet.conv_in)
    number = 0
    for block in unet.down_blocks:
        for index, each in enumerate(block.resnets):
            number += 1
            resnet(f"input_blocks.{number}.0", each)
            if hasattr(block, "attentions"):
                attention(f"input_blocks.{number}.1", block.attentions[index])
        if block.downsamplers is not None:
            number += 1
            layer(f"input_blocks.{number}.0.op", block.downsamplers[0].conv)
    resnet("middle_block.0", unet.mid_block.resnets[0])
    attention("middle_block.1", unet.mid_block.attentions[0])
    resnet("middle_block.2", unet.mid_block.resnets[1])
    number = 0
    for block in unet.up_blocks:
        for index, each in enumerate(block.resnets):
            name = f"output_blocks.{number + index}"
            resnet(f"{name}.0", each)
            if hasattr(block, "attentions"):
                attention(f"{name}.1", block.attentions[index])
        if block.upsamplers is not None:
            layer(f"{name}.{2 if hasattr(block, 'attentions') else 1}.conv", block.upsamplers[0].conv)
        number += len(block.resnets)
    layer("out.0", unet.conv_norm_out)
    layer("out.2", unet.conv_out)
    return written


def rows_by_head(parts, heads):
    """q, k and v as one, in the order (head, q|k|v, channel)."""
    divided = [rows.reshape(heads, -1, *rows.shape[1:]) for rows in parts]
    return torch.stack(divided, dim=1).flatten(0, 2)


def heads_of_all(unet):
    return {module.heads for module in unet.modules() if isinstance(module, Attention)}
