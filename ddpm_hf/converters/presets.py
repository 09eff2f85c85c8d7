"""The options of published checkpoints, as the pages and configurations of their codes have them."""

GUIDED = {
    "codebase": "guided-diffusion",
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "rescale_timesteps": False,
    "learn_sigma": True,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
    "use_new_attention_order": False,
    "attention_resolutions": "32,16,8",
    "num_channels": 256,
    "num_res_blocks": 2,
    "num_head_channels": 64,
}
GUIDED_CLASSIFIER = {
    "codebase": "guided-diffusion",
    "classifier_attention_resolutions": "32,16,8",
    "classifier_depth": 2,
    "classifier_width": 128,
    "classifier_pool": "attention",
    "classifier_resblock_updown": True,
    "classifier_use_scale_shift_norm": True,
}
IMPROVED = {
    "codebase": "improved-diffusion",
    "diffusion_steps": 4000,
    "noise_schedule": "cosine",
    "rescale_timesteps": True,
    "learn_sigma": True,
    "use_scale_shift_norm": True,
    "attention_resolutions": "16,8",
    "num_channels": 128,
    "num_res_blocks": 3,
    "num_heads": 4,
}
DDPM = {
    "data": {"image_size": 256},
    "model": {
        "ch": 128,
        "ch_mult": [1, 1, 2, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [16],
        "resamp_with_conv": True,
        "var_type": "fixedsmall",
    },
    "diffusion": {
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "num_diffusion_timesteps": 1000,
    },
}


def _ddpm(image_size, ch_mult, var_type="fixedlarge"):
    model = DDPM["model"] | {"ch_mult": ch_mult, "var_type": var_type, "dropout": 0.1}
    return DDPM | {"data": {"image_size": image_size}, "model": model}


def _score_sde(sde, continuous=True, image_size=32, **model):
    shared = {
        "name": "ncsnpp",
        "nf": 128,
        "ch_mult": [1, 2, 2, 2],
        "num_res_blocks": 4,
        "attn_resolutions": [16],
        "skip_rescale": True,
        "resblock_type": "biggan",
        "fir": False,
        "progressive": "none",
        "progressive_input": "none",
        "embedding_type": "positional",
        "scale_by_sigma": False,
        "num_scales": 1000,
        "beta_min": 0.1,
        "beta_max": 20.0,
        "sigma_min": 0.01,
        "sigma_max": 50,
    }
    return {
        "training": {"sde": sde, "continuous": continuous},
        "data": {"image_size": image_size, "centered": sde != "vesde"},
        "model": shared | model,
    }


# DDPM's own network, with two blocks a level.
DDPM_OF_SCORE_SDE = {"name": "ddpm", "num_res_blocks": 2}
# The parts of NCSN++ that DDPM++ does not have, on CIFAR-10 and at high resolution.
RESIDUAL_INPUT = {"fir": True, "progressive_input": "residual"}
PYRAMIDS = {"fir": True, "progressive": "output_skip", "progressive_input": "input_skip"}
OF_SIGMA = {"embedding_type": "fourier", "scale_by_sigma": True}


def _high_resolution(sigma_max, image_size=256, **model):
    levels = {"ch_mult": [1, 1, 2, 2, 2, 2, 2], "num_res_blocks": 2, "num_scales": 2000, "sigma_max": sigma_max}
    return _score_sde("vesde", True, image_size, **(PYRAMIDS | OF_SIGMA | levels | model))


PRESETS = {
    # guided-diffusion
    "guided_imagenet64": GUIDED
    | {
        "image_size": 64,
        "class_cond": True,
        "num_channels": 192,
        "num_res_blocks": 3,
        "noise_schedule": "cosine",
        "use_new_attention_order": True,
        "dropout": 0.1,
    },
    "guided_imagenet128": GUIDED | {"image_size": 128, "class_cond": True, "num_head_channels": -1, "num_heads": 4},
    "guided_imagenet256": GUIDED | {"image_size": 256, "class_cond": True},
    "guided_imagenet256_uncond": GUIDED | {"image_size": 256, "class_cond": False},
    "guided_imagenet512": GUIDED | {"image_size": 512, "class_cond": True},
    "guided_lsun256": GUIDED | {"image_size": 256, "class_cond": False, "dropout": 0.1},
    "guided_upsample_64_256": GUIDED
    | {"large_size": 256, "small_size": 64, "class_cond": True, "num_channels": 192}
    | {"num_head_channels": -1, "num_heads": 4},
    "guided_upsample_128_512": GUIDED
    | {"large_size": 512, "small_size": 128, "class_cond": True, "num_channels": 192}
    | {"attention_resolutions": "32,16"},
    "guided_classifier64": GUIDED_CLASSIFIER | {"image_size": 64, "classifier_depth": 4},
    "guided_classifier128": GUIDED_CLASSIFIER | {"image_size": 128},
    "guided_classifier256": GUIDED_CLASSIFIER | {"image_size": 256},
    "guided_classifier512": GUIDED_CLASSIFIER | {"image_size": 512},
    # improved-diffusion
    "improved_cifar10": IMPROVED | {"image_size": 32, "dropout": 0.3},
    "improved_imagenet64": IMPROVED | {"image_size": 64},
    "improved_imagenet64_cond": IMPROVED
    | {"image_size": 64, "num_channels": 192, "class_cond": True, "rescale_timesteps": False},
    "improved_upsample_64_256": IMPROVED
    | {"large_size": 256, "small_size": 64, "num_channels": 192, "num_res_blocks": 2}
    | {"class_cond": True, "noise_schedule": "linear", "rescale_timesteps": False},
    "improved_lsun_bedroom": IMPROVED
    | {"image_size": 256, "num_res_blocks": 2, "num_heads": 1, "use_scale_shift_norm": False}
    | {"attention_resolutions": "16", "diffusion_steps": 1000, "noise_schedule": "linear", "rescale_timesteps": False},
    # ddim, pytorch_diffusion
    "ddpm_cifar10": _ddpm(32, [1, 2, 2, 2]),
    "ddpm_celeba": _ddpm(64, [1, 2, 2, 2, 4]),
    "ddpm_lsun256": DDPM,
    # score_sde
    "vp_cifar10_ddpm": _score_sde("vpsde", False, **DDPM_OF_SCORE_SDE),
    "vp_cifar10_ddpm_continuous": _score_sde("vpsde", **DDPM_OF_SCORE_SDE),
    "subvp_cifar10_ddpm_continuous": _score_sde("subvpsde", **DDPM_OF_SCORE_SDE),
    "vp_cifar10_ddpmpp": _score_sde("vpsde", False),
    "vp_cifar10_ddpmpp_continuous": _score_sde("vpsde"),
    "vp_cifar10_ddpmpp_deep_continuous": _score_sde("vpsde", num_res_blocks=8),
    "subvp_cifar10_ddpmpp_continuous": _score_sde("subvpsde"),
    "subvp_cifar10_ddpmpp_deep_continuous": _score_sde("subvpsde", num_res_blocks=8),
    "ve_cifar10_ncsnpp": _score_sde("vesde", False, scale_by_sigma=True, **RESIDUAL_INPUT),
    "ve_cifar10_ncsnpp_continuous": _score_sde("vesde", **RESIDUAL_INPUT, **OF_SIGMA),
    "ve_cifar10_ncsnpp_deep_continuous": _score_sde("vesde", num_res_blocks=8, **RESIDUAL_INPUT, **OF_SIGMA),
    "ve_bedroom_ncsnpp_continuous": _high_resolution(378),
    "ve_church_ncsnpp_continuous": _high_resolution(380),
    "ve_celebahq_256_ncsnpp_continuous": _high_resolution(348),
    "ve_ffhq_256_ncsnpp_continuous": _high_resolution(348),
    "ve_ffhq_1024_ncsnpp_continuous": _high_resolution(
        1348, 1024, nf=16, ch_mult=[1, 2, 4, 8, 16, 32, 32, 32], num_res_blocks=1
    ),
}
