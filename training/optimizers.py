"""The optimizers, and how each skips an update."""

import torch
from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper  # is there without DeepSpeed too


def make_optimizer(parameters, args):
    options = {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "weight_decay": args.adam_weight_decay,
        "eps": args.adam_epsilon,
    }
    if args.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit  # an extra; arguments.py says so where it is missing

        return AdamW8bit(parameters, **options)
    return torch.optim.AdamW(parameters, fused=True, **options)


def step_or_skip(optimizer, skipped):
    """One update of the weights, or none.

    Args:
        optimizer (`accelerate.optimizer.AcceleratedOptimizer`)
        skipped (`torch.Tensor`): bool, (), on the device. Where it is true, weights and state stay as they are.
    """
    # DeepSpeed has made or skipped its update in the backward pass, and this one does nothing.
    if isinstance(optimizer, DeepSpeedOptimizerWrapper):
        return
    # torch's fused kernels read this on the device and then leave everything alone. The scaler of fp16 looks at the
    # gradients itself, and sets it likewise.
    if getattr(optimizer.optimizer, "_step_supports_amp_scaling", False):
        optimizer.optimizer.found_inf = skipped.float()
    # Others have no such way, so the host must know, and waits once in each update.
    elif optimizer.scaler is None and skipped.item():
        return
    optimizer.step()
