"""What the weights of improved-diffusion and guided-diffusion do not tell: heads, their order, and the process."""

from ddpm_hf.converters.openai_layout import FAMILY, Heads
from ddpm_hf.converters.options import as_bool, as_numbers, check_agreement
from ddpm_hf.errors import InputError

# Flags of the scripts that say nothing about the network or its process.
OF_THE_SCRIPTS = (
    *("batch_size", "num_samples", "use_ddim", "model_path", "classifier_path", "timestep_respacing", "clip_denoised"),
    *("use_kl", "rescale_learned_sigmas", "use_checkpoint", "microbatch", "lr", "weight_decay", "lr_anneal_steps"),
    *("ema_rate", "log_interval", "save_interval", "resume_checkpoint", "fp16_scale_growth", "data_dir"),
    *("base_samples", "schedule_sampler", "classifier_scale", "iterations", "eval_interval", "val_data_dir"),
    *("anneal_lr", "noised"),
)
OF_THE_NETWORK = (
    *("image_size", "num_channels", "num_res_blocks", "num_heads", "num_heads_upsample", "num_head_channels"),
    *("attention_resolutions", "channel_mult", "dropout", "class_cond", "use_scale_shift_norm", "resblock_updown"),
    *("use_new_attention_order", "learn_sigma", "use_fp16", "large_size", "small_size", "out_channels", "num_classes"),
)
OF_THE_PROCESS = (
    *("diffusion_steps", "noise_schedule", "rescale_timesteps", "predict_xstart", "sigma_small"),
    "data_range",
)
OF_THE_CLASSIFIER = (
    *("classifier_use_fp16", "classifier_width", "classifier_depth", "classifier_attention_resolutions"),
    *("classifier_use_scale_shift_norm", "classifier_resblock_updown", "classifier_pool"),
)
KNOWN = ("codebase", "model_class", *OF_THE_SCRIPTS, *OF_THE_NETWORK, *OF_THE_PROCESS, *OF_THE_CLASSIFIER)


def plain_options(given):
    """Options in the names of the command line; those of the constructor go before flags with the same meaning."""
    made = {name.removeprefix("constructor."): v for name, v in given.items() if name.startswith("constructor.")}
    flags = {name: value for name, value in given.items() if not name.startswith("constructor.")}
    if not made:
        return flags
    replaced = {name: value for name, value in flags.items() if name not in ("class_cond", "learn_sigma")}
    renamed = {
        "model_channels": "num_channels",
        "attention_resolutions": "attention_factors",
        "pool": "classifier_pool",
    }
    replaced |= {renamed.get(name, name): value for name, value in made.items() if name != "in_channels"}
    if "attention_factors" in replaced:
        replaced.pop("attention_resolutions", None)
    return replaced


def side_of(options):
    """The height and width of the images."""
    name = "large_size" if options.get("large_size") else "image_size"
    return int(options.need(name, "the height and width of the images"))


def check_layout(options, layout, side):
    """Checks options against what the weights tell of the same things."""
    multiples = options.get("channel_mult")
    factors = options.get("attention_factors")
    if options.get("attention_resolutions") is not None:
        factors = [side // size for size in as_numbers(options.get("attention_resolutions"))]
    attention = None if factors is None else tuple(2**level in factors for level in range(len(layout.widths)))
    pairs = {
        "num_channels": (options.get("num_channels"), layout.time_channels),
        "num_res_blocks": (options.get("num_res_blocks"), layout.layers),
        "attention_resolutions (levels with attention)": (attention, layout.attention),
        "out_channels": (options.get("out_channels"), layout.out_channels),
        "num_classes": (options.get("num_classes"), layout.num_classes),
    }
    flags = {
        "class_cond": layout.num_classes is not None,
        "use_scale_shift_norm": layout.scale_shift,
        "resblock_updown": layout.resnet_resampling,
        "learn_sigma": layout.learns_sigma,
    }
    for name, read in flags.items():
        pairs[name] = (None if options.get(name) is None else as_bool(options.get(name)), read)
    if multiples:
        widths = tuple(int(layout.time_channels * multiple) for multiple in as_numbers(multiples))
        pairs["channel_mult (widths of the levels)"] = (widths, layout.widths)
    check_agreement(pairs, FAMILY)


def heads_of(options, layout):
    """The [`Heads`] of a network.

    The codes take `num_head_channels` where it is not -1, and else `num_heads`. A stock network has heads of one
    width everywhere, so a number of heads is written as a width where all attentions are equally wide.
    """
    new_order, channels = is_new_order(options, layout), options.get("num_head_channels", -1)
    if channels != -1:
        check_divides("num_head_channels", channels, layout.attention_widths)
        return Heads(channels, None, new_order)
    number = options.need("num_heads", "the number of heads of each attention", usual=4)
    upsample = options.get("num_heads_upsample", -1)
    if upsample not in (-1, number):
        raise InputError(
            f"num_heads_upsample={upsample} beside num_heads={number} is not held by any class here, in which a level "
            "has the same heads on its ways down and up."
        )
    check_divides("num_heads", number, layout.attention_widths)
    if number == 1:
        return Heads(None, None, new_order)
    if len(layout.attention_widths) == 1:
        return Heads(layout.attention_widths.pop() // number, None, new_order)
    return Heads(None, number, new_order)


def check_divides(name, value, widths):
    for width in sorted(widths):
        if type(value) is not int or value < 1 or width % value:
            raise InputError(
                f"{name}={value} does not divide the {width} channels of an attention of this checkpoint: the options "
                "are those of another model."
            )


def is_new_order(options, layout):
    """Whether the rows of qkv are divided into q, k and v first, and then into heads."""
    name, codebase = "use_new_attention_order", options.get("codebase")
    upsamples = layout.is_upsampler or options.get("large_size") is not None
    if codebase == "improved-diffusion" or upsamples:
        if as_bool(options.get(name, False)):
            raise InputError(
                f"{name}=True contradicts a model of {codebase or 'super-resolution'}, which never has it."
            )
        return False
    if options.get("num_heads") == 1 and options.get("num_head_channels", -1) == -1:
        return False  # with one head both orders are the same
    return as_bool(options.need(name, "the order of the rows of its attention", usual="False"))


def process_of(options, layout):
    """The diffusion process, as the config of a scheduler, and `timestep_scale`."""
    steps = int(options.need("diffusion_steps", "the number of timesteps of the training", usual=1000))
    schedule = options.need("noise_schedule", "the noise schedule, linear or cosine", usual="linear")
    options.choice("noise_schedule", schedule, ("linear", "cosine"))
    if str(options.get("data_range", "-1,1")) != "-1,1":
        raise InputError(
            f"data_range={options.get('data_range')} is not held by the pipelines here, whose images are in [-1, 1], "
            f"as those of {FAMILY} are."
        )
    scale = 1.0
    if steps != 1000:  # at 1000 timesteps there is nothing to rescale
        rescaled = options.need("rescale_timesteps", "whether the network is given 1000 t / T", usual="False")
        scale = 1000 / steps if as_bool(rescaled) else 1.0
    return {
        "num_train_timesteps": steps,
        **betas_of(schedule, steps),
        "variance_type": _variance_type(options, layout),
        "prediction_type": "sample" if as_bool(options.get("predict_xstart", False)) else "epsilon",
        "clip_sample": True,
        "timestep_spacing": "linspace",
        "timestep_scale": scale,
    }


def betas_of(schedule, steps):
    """The codes stretch the range of the linear schedule, which is for 1000 timesteps, to others."""
    if schedule == "cosine":
        return {"beta_schedule": "squaredcos_cap_v2"}
    return {"beta_schedule": "linear", "beta_start": 0.1 / steps, "beta_end": 20 / steps}


def _variance_type(options, layout):
    if layout.learns_sigma:
        return "learned_range"
    return "fixed_small" if as_bool(options.get("sigma_small", False)) else "fixed_large"


def doubtful(options, layout):
    """{option: other values that would fit the weights as well}, for the self-check."""
    others = {"noise_schedule": [each for each in ("linear", "cosine") if each != options.get("noise_schedule")]}
    others["predict_xstart"] = [not as_bool(options.get("predict_xstart", False))]
    if "use_new_attention_order" in options.given and options.get("codebase") != "improved-diffusion":
        others["use_new_attention_order"] = [not as_bool(options.get("use_new_attention_order", False))]
    if options.get("num_head_channels", -1) == -1:
        fitting = (heads for heads in (1, 2, 4, 8) if all(not width % heads for width in layout.attention_widths))
        others["num_heads"] = [heads for heads in fitting if heads != options.get("num_heads")]
    else:
        fitting = (c for c in (16, 32, 64, 128) if all(not width % c for width in layout.attention_widths))
        others["num_head_channels"] = [c for c in fitting if c != options.get("num_head_channels")]
    if options.get("diffusion_steps") != 1000:
        others["rescale_timesteps"] = [not as_bool(options.get("rescale_timesteps", False))]
    return others
