"""The classifier of guided-diffusion: an encoder with a pooling by attention (Dhariwal & Nichol 2021)."""

import math

from ddpm_hf.converters.conversion import Conversion, network_of
from ddpm_hf.converters.openai_layout import EPS, FAMILY, GROUPS, Heads, read_layout
from ddpm_hf.converters.openai_names import encoder, qkv_parts, without_positions
from ddpm_hf.converters.openai_options import KNOWN, OF_THE_SCRIPTS, check_divides, check_layout, plain_options
from ddpm_hf.converters.options import Options, check_agreement
from ddpm_hf.errors import InputError
from ddpm_hf.models.noisy_image_classifier import NoisyImageClassifier


def convert_classifier(weights, given):
    """The [`Conversion`] of a classifier of noisy images, an encoder with a pooling by attention."""
    options = Options(_classifier_options(given), f"{FAMILY}, classifier")
    options.check_known((*KNOWN, "attention_factors"))
    embedding = weights.get("out.2.positional_embedding")
    if embedding is None or "out.2.qkv_proj.weight" not in weights:
        pool = options.get("classifier_pool", "another one")
        raise InputError(f"classifier_pool={pool!r} is not held by any class here; 'attention' is.")
    layers = int(options.need("num_res_blocks", "the residual blocks of each level (classifier_depth)", usual=2))
    layout = read_layout(weights, layers)
    side = math.isqrt(embedding.shape[1] - 1) * 2 ** (len(layout.widths) - 1)
    num_classes = weights["out.2.c_proj.weight"].shape[0]
    check_layout(options, layout._replace(out_channels=num_classes), side)
    check_agreement({"image_size": (options.get("image_size"), side)}, FAMILY)
    head_channels = options.get("num_head_channels", 64)
    check_divides("num_head_channels", head_channels, layout.attention_widths)
    heads = Heads(head_channels, None, new_order=False)
    config = {
        "sample_size": side,
        "in_channels": layout.in_channels,
        "num_classes": num_classes,
        "block_out_channels": layout.widths,
        "down_block_types": tuple("AttnDownBlock2D" if has else "DownBlock2D" for has in layout.attention),
        "layers_per_block": layout.layers,
        "attention_head_dim": head_channels,
        "norm_num_groups": GROUPS,
        "attn_norm_num_groups": GROUPS,
        "norm_eps": EPS,
        "resnet_time_scale_shift": "scale_shift" if layout.scale_shift else "default",
        "downsample_type": "resnet" if layout.resnet_resampling else "conv",
        "time_embedding_channels": None if layout.time_channels == layout.widths[0] else layout.time_channels,
    }
    names = encoder(weights, layout, heads)
    _move_pool(names)
    network = network_of(NoisyImageClassifier, config, names.finished(), FAMILY)
    return Conversion("guided-diffusion, classifier", network, {"process": "classifier"})


def _classifier_options(given):
    """The classifier's options in the names that they have for denoisers."""
    renamed = {"width": "num_channels", "depth": "num_res_blocks"}
    prefix, options = "classifier_", plain_options(given)
    for name in [each for each in options if each.startswith(prefix) and each not in OF_THE_SCRIPTS]:
        if name != "classifier_pool":
            short = name.removeprefix(prefix)
            options.setdefault(renamed.get(short, short), options.pop(name))
    if "attention_factors" in options:
        options.pop("attention_resolutions", None)
    return options


def _move_pool(names):
    names.move("out.0", "conv_norm_out")
    names.renamed["pool.positional_embedding"] = names.take("out.2.positional_embedding").T.contiguous()
    # This pooling has always had the new order, whatever the attentions below it have.
    parts = (qkv_parts(names.take(f"out.2.qkv_proj.{kind}"), 1, new_order=True) for kind in ("weight", "bias"))
    for name, weight, bias in zip(("q_proj", "k_proj", "v_proj"), *parts, strict=True):
        names.renamed[f"pool.{name}.weight"] = without_positions(weight)
        names.renamed[f"pool.{name}.bias"] = bias
    names.move("out.2.c_proj", "pool.c_proj", reshape=without_positions)
