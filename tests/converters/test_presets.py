"""The options of published checkpoints, on networks of their full sizes without values."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from foreign_names import classifier_in_guided_names, in_ddim_names, in_improved_names, in_score_sde_names
from numbered_ddpm import NumberedDDPM, Weights

from ddpm_hf import ADMUNet2DModel, NCSNpp2DModel, NoisyImageClassifier
from ddpm_hf.converters.families import family_of
from ddpm_hf.converters.options import read_options
from ddpm_hf.converters.presets import PRESETS

GUIDE = Path(__file__).parents[2] / "docs" / "convert.md"
# The widths that the codes derive from the size of the images.
CHANNEL_MULT = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 2, 2),
}
# Parameters of published networks, from their papers, in millions.
SIZES = {
    "guided_imagenet64": 296,
    "guided_imagenet128": 422,
    "guided_imagenet256": 554,
    "guided_imagenet512": 559,
    "improved_imagenet64": 121,
    "improved_imagenet64_cond": 270,
    "ddpm_cifar10": 35.7,
    "ddpm_lsun256": 114,
}


def levels_of(options, size, width):
    """The widths and the levels with attention."""
    is_upsampler = "large_size" in options
    multiples = CHANNEL_MULT[256 if is_upsampler else size]
    sizes = [int(each) for each in str(options["attention_resolutions"]).split(",")]
    return tuple(int(width * m) for m in multiples), [size // 2**level in sizes for level in range(len(multiples))]


def openai_weights(options):
    size = options.get("large_size", options.get("image_size"))
    widths, attention = levels_of(options, size, options["num_channels"])
    resnets = options.get("resblock_updown", False)
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if resnets else ("DownBlock2D", "UpBlock2D")
    channels, heads = options.get("num_head_channels", -1), options.get("num_heads")
    with torch.device("meta"):
        network = ADMUNet2DModel(
            sample_size=size,
            in_channels=6 if "large_size" in options else 3,
            out_channels=6,
            block_out_channels=widths,
            layers_per_block=options["num_res_blocks"],
            down_block_types=tuple("AttnDownBlock2D" if each else plain[0] for each in attention),
            up_block_types=tuple("AttnUpBlock2D" if each else plain[1] for each in reversed(attention)),
            downsample_type="resnet" if resnets else "conv",
            upsample_type="resnet" if resnets else "conv",
            attention_head_dim=None if channels == -1 else channels,
            num_attention_heads=heads if channels == -1 else None,
            attn_norm_num_groups=32,
            resnet_time_scale_shift="scale_shift" if options["use_scale_shift_norm"] else "default",
            time_embedding_dim=4 * options["num_channels"],
            time_embedding_channels=options["num_channels"],
            num_class_embeds=1000 if options.get("class_cond") else None,
        )
    return in_improved_names(network, options.get("use_new_attention_order", False))


def classifier_weights(options):
    options = options | {"attention_resolutions": options["classifier_attention_resolutions"]}
    widths, attention = levels_of(options, options["image_size"], options["classifier_width"])
    with torch.device("meta"):
        classifier = NoisyImageClassifier(
            sample_size=options["image_size"],
            in_channels=3,
            num_classes=1000,
            block_out_channels=widths,
            down_block_types=tuple("AttnDownBlock2D" if each else "DownBlock2D" for each in attention),
            layers_per_block=options["classifier_depth"],
            attention_head_dim=64,
            norm_num_groups=32,
            attn_norm_num_groups=32,
            downsample_type="resnet",
            time_embedding_channels=options["classifier_width"],
        )
    return classifier_in_guided_names(classifier)


def ddim_weights(options):
    side, levels = options["data.image_size"], range(len(options["model.ch_mult"]))
    attention = [side // 2**level in options["model.attn_resolutions"] for level in levels]
    with torch.device("meta"):
        network = UNet2DModel(
            block_out_channels=tuple(options["model.ch"] * multiple for multiple in options["model.ch_mult"]),
            layers_per_block=options["model.num_res_blocks"],
            down_block_types=tuple("AttnDownBlock2D" if each else "DownBlock2D" for each in attention),
            up_block_types=tuple("AttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attention)),
            attention_head_dim=None,
        )
    return in_ddim_names(network)


def score_sde_weights(options):
    side = options["data.image_size"]
    sizes = [side // 2**level for level in range(len(options["model.ch_mult"]))]
    with torch.device("meta"):
        network = NCSNpp2DModel(
            block_out_channels=tuple(options["model.nf"] * multiple for multiple in options["model.ch_mult"]),
            attention_levels=tuple(
                level for level, size in enumerate(sizes) if size in options["model.attn_resolutions"]
            ),
            layers_per_block=options["model.num_res_blocks"],
            time_embedding_type=options["model.embedding_type"],
            fir=options["model.fir"],
            progressive=options["model.progressive"],
            progressive_input=options["model.progressive_input"],
        )
    return in_score_sde_names(network)


def numbered_ddpm_weights(options):
    widths = tuple(options["model.nf"] * multiple for multiple in options["model.ch_mult"])
    side, weights = options["data.image_size"], Weights()
    with torch.device("meta"):
        network = NumberedDDPM(weights, widths, options["model.num_res_blocks"], options["model.attn_resolutions"])
        network(torch.randn(1, 3, side, side), torch.zeros(1))
    return weights.named()


def weights_of(options):
    if options.get("model.name") == "ddpm":
        return numbered_ddpm_weights(options)
    if "classifier_width" in options:
        return classifier_weights(options)
    if "diffusion_steps" in options:
        return openai_weights(options)
    return ddim_weights(options) if "diffusion.beta_start" in options else score_sde_weights(options)


@pytest.fixture(scope="module")
def table():
    """{preset: class} of the guide."""
    rows = re.findall(r"^\|.*\| `(\w+)` \| `(\w+)`", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(rows)


def test_the_guide_lists_all(table):
    assert list(table) == list(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_network_of_the_size_of_a_published_one_is_converted(table, name):
    options = read_options(name)
    weights = weights_of(options)
    network = family_of(name, weights).convert(weights, options).network
    stock = {"DDPMUNet2DModel": "UNet2DModel"}  # ours is saved as the stock class
    assert stock.get(type(network).__name__, type(network).__name__) == table[name]
    if name in SIZES:
        millions = sum(each.numel() for each in network.parameters()) / 1e6
        assert millions == pytest.approx(SIZES[name], rel=0.015)
