"""The optimizers, and how each of them skips an update."""

import torch
from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper  # exists without DeepSpeed too


def make_optimizer(parameters, args):
    options = {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "weight_decay": args.adam_weight_decay,
        "eps": args.adam_epsilon,
    }
    if args.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit  # an optional dependency; arguments.py reports if it is missing

        return AdamW8bit(parameters, **options)
    return torch.optim.AdamW(parameters, fused=True, **options)


def step_or_skip(optimizer, skipped):
    """Updates the weights, unless the update is skipped.

    Args:
        optimizer (`accelerate.optimizer.AcceleratedOptimizer`)
        skipped (`torch.Tensor`): bool, (), on the device. If true, weights and state stay unchanged.
    """
    # DeepSpeed updates or skips in the backward pass, and this call does nothing.
    if isinstance(optimizer, DeepSpeedOptimizerWrapper):
        return
    # torch's fused kernels read this on the device and then change nothing. The fp16 scaler checks the gradients
    # itself and sets it likewise.
    if getattr(optimizer.optimizer, "_step_supports_amp_scaling", False):
        optimizer.optimizer.found_inf = skipped.float()
    # Other optimizers have no such flag, so the host reads it and waits once per update.
    elif optimizer.scaler is None and skipped.item():
        return
    optimizer.step()
