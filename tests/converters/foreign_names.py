"""Writes networks of ours out in the names of other codes, and in their orders of rows."""

from itertools import count

import torch
from diffusers.models.resnet import ResnetBlock2D

OPENAI_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
DDIM_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time_emb_proj": "temb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "nin_shortcut",
}
SCORE_SDE_RESNET = {
    "norm1": "GroupNorm_0",
    "conv1": "Conv_0",
    "time_emb_proj": "Dense_0",
    "norm2": "GroupNorm_1",
    "conv2": "Conv_1",
    "conv_shortcut": "Conv_2",
}


class Writer(dict):
    """{name: weight} in the names of a code, filled layer by layer."""

    def layer(self, name, module):
        self[f"{name}.weight"], self[f"{name}.bias"] = module.weight.detach(), module.bias.detach()

    def resnet(self, name, block, names):
        for ours, theirs in names.items():
            if getattr(block, ours) is not None:
                self.layer(f"{name}.{theirs}", getattr(block, ours))


# improved-diffusion and guided-diffusion -----------------------------------------------------------------------------


class OpenAIWriter(Writer):
    """`new_order` is that of the rows of attention, (q|k|v, head, channel); the other is (head, q|k|v, channel)."""

    new_order = False

    def attention(self, name, block):
        self.layer(f"{name}.norm", block.group_norm)
        parts = [(each.weight.detach(), each.bias.detach()) for each in (block.to_q, block.to_k, block.to_v)]
        weights, biases = (self.joined(rows, block.heads) for rows in zip(*parts, strict=True))
        self[f"{name}.qkv.weight"], self[f"{name}.qkv.bias"] = weights[..., None], biases
        self.layer(f"{name}.proj_out", block.to_out[0])
        self[f"{name}.proj_out.weight"] = self[f"{name}.proj_out.weight"][..., None]

    def joined(self, parts, heads):
        if self.new_order:
            return torch.cat(parts)
        divided = [rows.reshape(heads, -1, *rows.shape[1:]) for rows in parts]
        return torch.stack(divided, dim=1).flatten(0, 2)

    def encoder(self, network):
        self.layer("time_embed.0", network.time_embedding.linear_1)
        self.layer("time_embed.2", network.time_embedding.linear_2)
        self.layer("input_blocks.0.0", network.conv_in)
        number = count(1)
        for block in network.down_blocks:
            for index, each in enumerate(block.resnets):
                name = f"input_blocks.{next(number)}"
                self.resnet(f"{name}.0", each, OPENAI_RESNET)
                if hasattr(block, "attentions"):
                    self.attention(f"{name}.1", block.attentions[index])
            for each in block.downsamplers or ():
                self.resampling(f"input_blocks.{next(number)}.0", each, "op")
        self.resnet("middle_block.0", network.mid_block.resnets[0], OPENAI_RESNET)
        self.attention("middle_block.1", network.mid_block.attentions[0])
        self.resnet("middle_block.2", network.mid_block.resnets[1], OPENAI_RESNET)
        self.layer("out.0", network.conv_norm_out)

    def resampling(self, name, module, convolution):
        if isinstance(module, ResnetBlock2D):
            self.resnet(name, module, OPENAI_RESNET)
        else:
            self.layer(f"{name}.{convolution}", module.conv)

    def decoder(self, network):
        number = count()
        for block in network.up_blocks:
            for index, each in enumerate(block.resnets):
                name = f"output_blocks.{next(number)}"
                self.resnet(f"{name}.0", each, OPENAI_RESNET)
                if hasattr(block, "attentions"):
                    self.attention(f"{name}.1", block.attentions[index])
            for each in block.upsamplers or ():
                self.resampling(f"{name}.{2 if hasattr(block, 'attentions') else 1}", each, "conv")
        self.layer("out.2", network.conv_out)


def in_improved_names(unet, new_order=False):
    """{name: weight} of a `UNet2DModel` in the names of improved-diffusion and guided-diffusion."""
    writer = OpenAIWriter()
    writer.new_order = new_order
    writer.encoder(unet)
    if unet.class_embedding is not None:
        writer["label_emb.weight"] = unet.class_embedding.weight.detach()
    writer.decoder(unet)
    return dict(writer)


def classifier_in_guided_names(classifier):
    """{name: weight} of a `NoisyImageClassifier` in the names of guided-diffusion."""
    writer, pool = OpenAIWriter(), classifier.pool
    writer.encoder(classifier)
    writer["out.2.positional_embedding"] = pool.positional_embedding.detach().T
    projections = (pool.q_proj, pool.k_proj, pool.v_proj)
    writer["out.2.qkv_proj.weight"] = torch.cat([each.weight.detach() for each in projections])[..., None]
    writer["out.2.qkv_proj.bias"] = torch.cat([each.bias.detach() for each in projections])
    writer.layer("out.2.c_proj", pool.c_proj)
    writer["out.2.c_proj.weight"] = writer["out.2.c_proj.weight"][..., None]
    return dict(writer)


# ddim ----------------------------------------------------------------------------------------------------------------


def in_ddim_names(unet):
    """{name: weight} of a `UNet2DModel` in the names of ddim; `up.0` is the level of the highest resolution."""
    writer, levels = Writer(), len(unet.down_blocks)

    def attention(name, block):
        writer.layer(f"{name}.norm", block.group_norm)
        parts = {"q": block.to_q, "k": block.to_k, "v": block.to_v, "proj_out": block.to_out[0]}
        for part, module in parts.items():
            writer.layer(f"{name}.{part}", module)
            writer[f"{name}.{part}.weight"] = writer[f"{name}.{part}.weight"][..., None, None]

    def level(name, block):
        for index, each in enumerate(block.resnets):
            writer.resnet(f"{name}.block.{index}", each, DDIM_RESNET)
            if hasattr(block, "attentions"):
                attention(f"{name}.attn.{index}", block.attentions[index])

    writer.layer("temb.dense.0", unet.time_embedding.linear_1)
    writer.layer("temb.dense.1", unet.time_embedding.linear_2)
    writer.layer("conv_in", unet.conv_in)
    for number, block in enumerate(unet.down_blocks):
        level(f"down.{number}", block)
        if block.downsamplers is not None:
            writer.layer(f"down.{number}.downsample.conv", block.downsamplers[0].conv)
    for number, block in enumerate(unet.mid_block.resnets):
        writer.resnet(f"mid.block_{number + 1}", block, DDIM_RESNET)
    attention("mid.attn_1", unet.mid_block.attentions[0])
    for number, block in enumerate(unet.up_blocks):
        level(f"up.{levels - 1 - number}", block)
        if block.upsamplers is not None:
            writer.layer(f"up.{levels - 1 - number}.upsample.conv", block.upsamplers[0].conv)
    writer.layer("norm_out", unet.conv_norm_out)
    writer.layer("conv_out", unet.conv_out)
    return dict(writer)


# score_sde -----------------------------------------------------------------------------------------------------------


def in_score_sde_names(network):
    """{name: weight} of an `NCSNpp2DModel` in the names of score_sde: its layers are numbered as they are used."""
    writer, numbers = Writer(), count()

    def name():
        return f"all_modules.{next(numbers)}"

    def attention(block):
        place = name()
        writer.layer(f"{place}.GroupNorm_0", block.group_norm)
        for number, module in enumerate((block.to_q, block.to_k, block.to_v, block.to_out[0])):
            writer[f"{place}.NIN_{number}.W"] = module.weight.detach().T
            writer[f"{place}.NIN_{number}.b"] = module.bias.detach()

    if network.config.time_embedding_type == "fourier":
        writer[f"{name()}.W"] = network.time_proj.weight.detach()
    for module in (network.time_embedding.linear_1, network.time_embedding.linear_2, network.conv_in):
        writer.layer(name(), module)
    for block in network.down_blocks:
        for index, each in enumerate(block.resnets):
            writer.resnet(name(), each, SCORE_SDE_RESNET)
            if block.attentions:
                attention(block.attentions[index])
        if block.resnet_down is not None:
            writer.resnet(name(), block.resnet_down, SCORE_SDE_RESNET)
        if block.skip_conv is not None:
            writer.layer(f"{name()}.Conv_0", block.skip_conv)
        if block.pyramid_down is not None:
            writer.layer(f"{name()}.Conv2d_0", block.pyramid_down.fir.Conv2d_0)
    writer.resnet(name(), network.mid_block.resnets[0], SCORE_SDE_RESNET)
    attention(network.mid_block.attentions[0])
    writer.resnet(name(), network.mid_block.resnets[1], SCORE_SDE_RESNET)
    for block in network.up_blocks:
        for each in block.resnets:
            writer.resnet(name(), each, SCORE_SDE_RESNET)
        for each in block.attentions:
            attention(each)
        if block.skip_norm is not None:
            writer.layer(name(), block.skip_norm)
            writer.layer(name(), block.skip_conv)
        if block.resnet_up is not None:
            writer.resnet(name(), block.resnet_up, SCORE_SDE_RESNET)
    writer.layer(name(), network.conv_norm_out)
    writer.layer(name(), network.conv_out)
    return dict(writer)
