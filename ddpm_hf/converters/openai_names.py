"""The names of weights in improved-diffusion and guided-diffusion, and in diffusers."""

from ddpm_hf.converters.openai_layout import FAMILY
from ddpm_hf.converters.renaming import Renaming

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def renamed(weights, layout, heads):
    """The weights in the names of [`UNet2DModel`]."""
    names, levels = encoder(weights, layout, heads), len(layout.widths)
    for block in range(levels * (layout.layers + 1)):
        level, layer = divmod(block, layout.layers + 1)
        source, target = f"output_blocks.{block}", f"up_blocks.{level}"
        names.move(f"{source}.0", f"{target}.resnets.{layer}", RESNET)
        following = 1
        if layout.attention[levels - 1 - level]:
            move_attention(names, f"{source}.1", f"{target}.attentions.{layer}", heads)
            following = 2
        if layer == layout.layers and level < levels - 1:
            if layout.resnet_resampling:
                names.move(f"{source}.{following}", f"{target}.upsamplers.0", RESNET)
            else:
                names.move(f"{source}.{following}.conv", f"{target}.upsamplers.0.conv")
    names.move("out.0", "conv_norm_out")
    names.move("out.2", "conv_out")
    return names.finished()


def encoder(weights, layout, heads):
    """The [`Renaming`] after the embeddings, the levels on the way down, and the middle."""
    names = Renaming(weights, FAMILY)
    names.move("time_embed.0", "time_embedding.linear_1")
    names.move("time_embed.2", "time_embedding.linear_2")
    names.move("input_blocks.0.0", "conv_in")
    if layout.num_classes is not None:
        names.renamed["class_embedding.weight"] = names.take("label_emb.weight")
    for level, has_attention in enumerate(layout.attention):
        target = f"down_blocks.{level}"
        first = 1 + level * (layout.layers + 1)
        for layer in range(layout.layers):
            names.move(f"input_blocks.{first + layer}.0", f"{target}.resnets.{layer}", RESNET)
            if has_attention:
                source = f"input_blocks.{first + layer}.1"
                move_attention(names, source, f"{target}.attentions.{layer}", heads)
        if level < len(layout.widths) - 1:
            source = f"input_blocks.{first + layout.layers}.0"
            if layout.resnet_resampling:
                names.move(source, f"{target}.downsamplers.0", RESNET)
            else:
                names.move(f"{source}.op", f"{target}.downsamplers.0.conv")
    names.move("middle_block.0", "mid_block.resnets.0", RESNET)
    move_attention(names, "middle_block.1", "mid_block.attentions.0", heads)
    names.move("middle_block.2", "mid_block.resnets.1", RESNET)
    return names


def move_attention(names, source, target, heads):
    """Renames an attention, and divides the rows of its qkv into q, k and v."""
    names.move(source, target, {"norm": "group_norm"})
    names.move(f"{source}.proj_out", f"{target}.to_out.0", reshape=without_positions)
    weight, bias = names.take(f"{source}.qkv.weight"), names.take(f"{source}.qkv.bias")
    width = weight.shape[1]
    parts = (qkv_parts(rows, heads.of(width), heads.new_order) for rows in (weight, bias))
    for name, its_weight, its_bias in zip(("to_q", "to_k", "to_v"), *parts, strict=True):
        names.renamed[f"{target}.{name}.weight"] = without_positions(its_weight)
        names.renamed[f"{target}.{name}.bias"] = its_bias


def qkv_parts(rows, heads, new_order):
    """The rows of q, of k and of v, each in the order (head, channel)."""
    if new_order:
        return rows.chunk(3)
    divided = rows.reshape(heads, 3, -1, *rows.shape[1:])  # (head, q|k|v, channel, ..)
    return [divided[:, part].flatten(0, 1) for part in range(3)]


def without_positions(weight):
    """The matrix of a convolution over one position, (out, in, 1)."""
    return weight.flatten(1)
