"""Checks of each option of a training by itself: its type, its choices, its range."""

import dataclasses
import math
import types
import typing
from typing import Literal

from ddpm_hf.data.limits import check_workers
from ddpm_hf.errors import InputError
from ddpm_hf.nearest_names import not_one_of

RANGES = (
    (
        "at least 1",
        lambda value: value >= 1,
        "num_points shuffle_buffer num_train_timesteps batch_size "
        "gradient_accumulation_steps max_train_steps "
        "log_every num_samples sample_steps checkpoints_limit num_eval_images eval_steps max_nonfinite_steps "
        "ema_snapshot_every width layers_per_block latent_channels",
    ),
    (
        "at least 0",
        lambda value: value >= 0,
        "in_memory_limit_gb on_disk_limit_gb dataloader_workers lr_warmup_steps adam_weight_decay seed sample_every "
        "checkpoint_every eval_every kl_weight discriminator_weight discriminator_start",
    ),
    (
        "greater than 0",
        lambda value: value > 0,
        "num_epochs minutes save_images_epochs max_grad_norm ema_power ema_inv_gamma vlb_weight min_snr_gamma "
        "sigma_max sigma_data perceptual_weight",
    ),
    # Adam moves each weight by about so much in an update.
    ("greater than 0 and at most 1", lambda value: 0 < value <= 1, "learning_rate"),
    # A value that float32 rounds to 0 would be a divisor of 0.
    ("from 1e-37 to 1", lambda value: 1e-37 <= value <= 1, "adam_epsilon"),
    ("in [0, 1]", lambda value: 0 <= value <= 1, "label_dropout value_dropout condition_dropout"),
    ("greater than 0 and at most 1", lambda value: 0 < value <= 1, "max_augmentation_level"),
    ("in [0, 1)", lambda value: 0 <= value < 1, "adam_beta1 adam_beta2 ema_decay dropout"),
    ("between 0 and 1", lambda value: 0 < value < 1, "beta_start beta_end"),
)

# Larger values are slips of the keyboard, and would exhaust memory or time before the training begins.
LIMITS = {
    "seed": 2**32 - 1,  # the limit of numpy
    "num_train_timesteps": 100_000,
    "num_samples": 10_000,
    "max_train_steps": 10**9,
    "num_epochs": 10**6,
    "minutes": 10**6,
}


# Options that are sizes: one number or two each.
SIZES = ("resolution", "low_resolution", "aspect_buckets")


def option_names(kind):
    """The options of a kind of training; what has no choice there is a field, but no option."""
    return [f.name for f in dataclasses.fields(kind) if f.init]


def check_each(args):
    """Raises InputError for the first option whose value is not allowed, whatever the others are."""
    hints = typing.get_type_hints(type(args))
    for name in option_names(type(args)):
        if name not in SIZES:  # these are checked where they are parsed
            _check_type(name, getattr(args, name), hints[name])
    for allowed, holds, names in RANGES:
        for name, value in _given(args, names.split()):
            if not holds(value):
                raise InputError(f"{name}={value} is not allowed: it must be {allowed}.")
    check_workers(args.dataloader_workers)
    for name, value in _given(args, LIMITS):
        if value > LIMITS[name]:
            raise InputError(f"{name}={value} is not allowed: it must be at most {LIMITS[name]}.")


def _given(args, names):
    """(name, value) of those of the options that this kind of training has, and that are not None."""
    values = ((name, getattr(args, name, None)) for name in names)
    return [(name, value) for name, value in values if value is not None]


def _check_type(name, value, hint):
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) or _is_optional(hint) else (hint,)
    if value is None and type(None) in members:
        return
    hint = members[0]
    if typing.get_origin(hint) is Literal:
        check_choice(name, value, typing.get_args(hint))
    elif hint is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{name}={value!r} must be a number.")
        if not _is_finite(value):
            raise InputError(f"{name}={value!r} is not allowed: it must be finite.")
    elif type(value) is not hint:
        raise InputError(f"{name}={value!r} must be of type {hint.__name__}.")


def _is_finite(value):
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _is_optional(hint):
    return typing.get_origin(hint) is typing.Union


def check_choice(name, value, choices):
    if value not in choices:
        raise InputError(f"{name}={value!r} {not_one_of(value, choices)}")


def read_stds(text):
    """`ema_stds` as numbers."""
    try:
        stds = [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"ema_stds={text!r} must be numbers with commas between, as 0.05,0.10.") from None
    for std in stds:
        if not 0.001 <= std <= 0.28:
            raise InputError(
                f"ema_stds={text!r} has {std:g}: each must be from 0.001 to 0.28 (0.289 is the mean over all of it)."
            )
    if len({f"{std:.3f}" for std in stds}) < len(stds):
        raise InputError(f"ema_stds={text!r} has two that agree to 0.001: give different ones.")
    return stds
