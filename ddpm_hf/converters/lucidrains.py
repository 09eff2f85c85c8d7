"""Checkpoints of lucidrains' denoising-diffusion-pytorch, with its diffusion process, or of its network alone."""

from ddpm_hf.converters.conversion import Conversion, network_of
from ddpm_hf.converters.options import Options, check_agreement
from ddpm_hf.converters.renaming import Renaming, numbers_after
from ddpm_hf.errors import InputError
from ddpm_hf.models.linear_attention_unet_2d import LinearAttentionUNet2DModel

FAMILY = "denoising-diffusion-pytorch"
KNOWN = (
    *("image_size", "timesteps", "sampling_timesteps", "objective", "beta_schedule", "ddim_sampling_eta"),
    *("auto_normalize", "offset_noise_strength", "min_snr_loss_weight", "min_snr_gamma", "immiscible"),
    *("dim", "init_dim", "out_dim", "dim_mults", "channels", "self_condition", "learned_variance", "dropout"),
    *("learned_sinusoidal_cond", "random_fourier_features", "learned_sinusoidal_dim", "sinusoidal_pos_emb_theta"),
    *("attn_dim_head", "attn_heads", "full_attn", "flash_attn"),
)
# Options that no class here holds, with the value that is held.
HELD = {
    "auto_normalize": True,
    "self_condition": False,
    "learned_variance": False,
    "learned_sinusoidal_cond": False,
    "random_fourier_features": False,
    "offset_noise_strength": 0.0,
    "sinusoidal_pos_emb_theta": 10000,
}
PREDICTIONS = {"pred_noise": "epsilon", "pred_x0": "sample", "pred_v": "v_prediction"}
RESNET = {
    "mlp.1": "time_emb_proj",
    "block1.proj": "conv1",
    "block2.proj": "conv2",
    "res_conv": "conv_shortcut",
}


def is_lucidrains(weights):
    names = {name.removeprefix("model.") for name in weights}
    return {"init_conv.weight", "final_conv.weight", "time_mlp.1.weight"} <= names


def convert_lucidrains(weights, given):
    """The [`Conversion`] of a checkpoint; `given` are the options of `read_options`."""
    options = Options(given, FAMILY)
    options.check_known(KNOWN)
    for name, held in HELD.items():
        if options.get(name, held) not in (held, str(held)):
            raise InputError(f"{name}={options.get(name)} of {FAMILY} is not held by any class here; {held} is.")
    network = {name.removeprefix("model."): value for name, value in weights.items() if _is_of_network(name)}
    tables = {name: value for name, value in weights.items() if name not in network and not name.startswith("model.")}
    config = _config(network, int(options.need("image_size", "the height and width of the images")))
    config["dropout"] = float(options.get("dropout", 0))
    check_agreement({"dim": (options.get("dim"), config["time_embedding_channels"])}, FAMILY)
    process = process_of(options, tables)
    unet = network_of(LinearAttentionUNet2DModel, config, renamed(network, config), FAMILY)
    return Conversion(FAMILY, unet, process | {"process": "gaussian"}, doubtful(process, tables))


def _is_of_network(name):
    """The names of the diffusion process's tables have no dot."""
    return "." in name


def _config(weights, side):
    """The arguments of [`LinearAttentionUNet2DModel`], all of which the weights tell but the side of the images."""
    levels = len(numbers_after(weights, r"downs\.(\d+)\."))
    channels, outputs = weights["init_conv.weight"].shape[1], weights["final_conv.weight"].shape[0]
    if channels != outputs:
        raise InputError(
            f"The checkpoint of {FAMILY} takes {channels} channels and gives {outputs}, as with self_condition or "
            "learned_variance, which no class here holds."
        )
    full, heads, head_dims, memories = [], [], [], []
    for level in range(levels):
        name = f"downs.{level}.2"
        if f"{name}.mem_kv" not in weights:
            raise InputError(
                f"The checkpoint has no {name}.mem_kv: it is of an early version of {FAMILY}, whose network "
                "is another one, which no class here holds."
            )
        full.append(f"{name}.to_out.weight" in weights)
        _, number, *sizes = weights[f"{name}.mem_kv"].shape
        memory, head_dim = sizes if full[-1] else reversed(sizes)
        heads.append(number), head_dims.append(head_dim), memories.append(memory)
    ends = (f"downs.{level}.3{'' if level == levels - 1 else '.1'}.weight" for level in range(levels))
    return {
        "sample_size": side,
        "in_channels": channels,
        "out_channels": outputs,
        "first_channels": weights["init_conv.weight"].shape[0],
        "block_out_channels": tuple(weights[name].shape[0] for name in ends),
        "full_attention": tuple(full),
        "attention_heads": tuple(heads),
        "attention_head_dim": tuple(head_dims),
        "memory_size": tuple(memories),
        "time_embedding_channels": weights["time_mlp.1.weight"].shape[1],
    }


# The process ---------------------------------------------------------------------------------------------------------


def process_of(options, tables):
    """The diffusion process, from the tables in the checkpoint where it has them, as the config of a scheduler."""
    process = {"variance_type": "fixed_small", "clip_sample": True, "timestep_spacing": "trailing"}
    if "betas" in tables:
        check_agreement({"timesteps": (options.get("timesteps"), len(tables["betas"]))}, FAMILY)
        process["trained_betas"] = tables["betas"].double().tolist()
        process["num_train_timesteps"] = len(tables["betas"])
    else:
        process |= _schedule(options)
    objective = _objective(tables)
    check_agreement({"objective": (options.get("objective"), objective or options.get("objective"))}, FAMILY)
    if objective is None:
        objective = options.need("objective", "what the network predicts, pred_noise, pred_x0 or pred_v", "pred_v")
        options.choice("objective", objective, tuple(PREDICTIONS))
    return process | {"prediction_type": PREDICTIONS[objective]}


def _schedule(options):
    steps = int(options.need("timesteps", "the number of timesteps of the training", usual=1000))
    schedule = options.need("beta_schedule", "the noise schedule", usual="sigmoid")
    options.choice("beta_schedule", schedule, ("linear", "cosine"))
    if schedule == "cosine":
        return {"num_train_timesteps": steps, "beta_schedule": "squaredcos_cap_v2"}
    ends = {"beta_start": 0.1 / steps, "beta_end": 20 / steps}
    return {"num_train_timesteps": steps, "beta_schedule": "linear", **ends}


def _objective(tables):
    """What the network predicts, by the weights of its loss; None without them.

    At a signal-to-noise ratio s, they are 1 for the noise, s for x_0 and s / (s + 1) for v, and where s is below 1/2,
    no bound on them is reached.
    """
    if not {"loss_weight", "alphas_cumprod"} <= set(tables):
        return None
    alphas_bar = tables["alphas_cumprod"].double()
    ratios = alphas_bar / (1 - alphas_bar)
    place = (ratios - 0.5).abs().argmin()
    ratio = ratios[place]
    expected = {"pred_noise": 1.0, "pred_x0": ratio, "pred_v": ratio / (ratio + 1)}
    weight = tables["loss_weight"].double()[place]
    return min(expected, key=lambda name: abs(expected[name] - weight))


def doubtful(process, tables):
    """{option: other values that would fit the weights as well}, for the self-check."""
    if _objective(tables) is not None:
        return {}
    return {"objective": [name for name, kind in PREDICTIONS.items() if kind != process["prediction_type"]]}


# Names ---------------------------------------------------------------------------------------------------------------


def renamed(weights, config):
    """The weights in the names of [`LinearAttentionUNet2DModel`]."""
    names, levels = Renaming(weights, FAMILY), len(config["full_attention"])
    for source, target in (
        *(("time_mlp.1", "time_linear_1"), ("time_mlp.3", "time_linear_2")),
        *(("init_conv", "conv_in"), ("final_conv", "conv_out")),
    ):
        names.move(source, target)
    for level, is_full in enumerate(config["full_attention"]):
        is_last = level == levels - 1
        for side, place, has_shuffle in (("downs", level, not is_last), ("ups", levels - 1 - level, level > 0)):
            source, target = f"{side}.{place}", f"{side.removesuffix('s')}_blocks.{place}"
            for index in range(2):
                _move_resnet(names, f"{source}.{index}", f"{target}.resnets.{index}")
            _move_attention(names, f"{source}.2", f"{target}.attention", is_full)
            names.move(f"{source}.3.1" if has_shuffle else f"{source}.3", f"{target}.resample")
    for index in range(2):
        _move_resnet(names, f"mid_block{index + 1}", f"mid_block.resnets.{index}")
    _move_attention(names, "mid_attn", "mid_block.attention", is_full=True)
    _move_resnet(names, "final_res_block", "resnet_out")
    return names.finished()


def _move_resnet(names, source, target):
    names.move(source, target, RESNET)
    for number in (1, 2):
        names.renamed[f"{target}.norm{number}.gain"] = names.take(f"{source}.block{number}.norm.g")


def _move_attention(names, source, target, is_full):
    names.renamed[f"{target}.norm.gain"] = names.take(f"{source}.norm.g")
    names.renamed[f"{target}.memory"] = names.take(f"{source}.mem_kv")
    names.renamed[f"{target}.to_qkv.weight"] = names.take(f"{source}.to_qkv.weight")
    names.move(f"{source}.to_out" if is_full else f"{source}.to_out.0", f"{target}.to_out")
    if not is_full:
        names.renamed[f"{target}.norm_out.gain"] = names.take(f"{source}.to_out.1.g")
