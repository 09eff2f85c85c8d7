"""The engines that distribute training over processes, and their settings beyond accelerate's configuration.

With DDP each process has the whole network. FSDP2 shards weights, gradients and optimizer state; DeepSpeed ZeRO-2
shards gradients and optimizer state. `training/configs/accelerate/` has a configuration for each.
"""

import importlib.util
import sys

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
    parse_flag_from_env,
)

from ddpm_hf.distributed import LONGEST_WAIT, join_processes
from ddpm_hf.errors import InputError


def join_training(args, **options):
    """The [`accelerate.Accelerator`] of a training run, with the engine given to `accelerate launch`.

    Args:
        args (`RunArguments`): the options of the run.
        options: arguments of [`accelerate.Accelerator`].

    Raises:
        InputError: for an unsupported engine, and for options that do not work with the engine.
    """
    options |= {"mixed_precision": args.mixed_precision}
    _look_for_lomo_once()
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        return _join_deepspeed(args, options)
    accelerator = join_processes(**options)
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and accelerator.num_processes > 1:
        _shard_by_fsdp2(args, accelerator)
    return accelerator


def _look_for_lomo_once():
    """Spares accelerate the search for an optimizer's package on the disk, twice an update, where it is missing."""
    if importlib.util.find_spec("lomo_optim") is None:
        sys.modules["lomo_optim"] = None  # Python's mark of a module that cannot be imported


def _join_deepspeed(args, options):
    _check_options(args, "DeepSpeed")
    if args.mixed_precision == "fp16":
        raise InputError("mixed_precision='fp16' is not supported with DeepSpeed: choose bf16, or 'no'.")
    if args.batch_size is None:
        raise InputError("DeepSpeed is set up before the data are seen, so no batch can be chosen: give --batch_size.")
    # With the setting for CPUs, accelerate would not use DeepSpeed.
    backend = {} if torch.accelerator.is_available() else {"backend": "gloo"}
    group = InitProcessGroupKwargs(timeout=LONGEST_WAIT, **backend)
    accelerator = Accelerator(**options, kwargs_handlers=[group])
    plugin = accelerator.state.deepspeed_plugin
    if plugin.zero_stage == 3 or plugin.offload_optimizer_device != "none":
        raise InputError(
            f"DeepSpeed with zero_stage={plugin.zero_stage} and offload_optimizer_device="
            f"{plugin.offload_optimizer_device!r} is not supported: take zero_stage 2 and offload_optimizer_device "
            "none, or fsdp2.yaml, which shards the weights too."
        )
    plugin.deepspeed_config |= {
        "train_micro_batch_size_per_gpu": args.batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "gradient_clipping": args.max_grad_norm,
        # DeepSpeed's bf16 would keep the weights in bf16, whose average would miss small updates.
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": args.mixed_precision == "bf16", "dtype": "bfloat16"},
    }
    return accelerator


def _shard_by_fsdp2(args, accelerator):
    _check_options(args, "FSDP")
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        # On CPUs accelerate ignores FSDP without a warning.
        plugin = FullyShardedDataParallelPlugin()
        if args.mixed_precision != "no":
            plugin.set_mixed_precision(args.mixed_precision)
        accelerator.state.fsdp_plugin = plugin
        for state in (PartialState(), accelerator.state):
            state.distributed_type = DistributedType.FSDP
    if not accelerator.is_fsdp2:
        raise InputError("FSDP is supported in its version 2: set fsdp_version: 2 in accelerate's configuration.")


def _check_options(args, engine):
    """Raises InputError for options that do not work with a sharded network."""
    refused = {
        "optimizer='adamw8bit'": args.optimizer == "adamw8bit",
        "channels_last='yes'": args.channels_last == "yes",
        # Its hooks act on whole weights, and a single convolution leaves nothing to shard.
        "train_head_only": getattr(args, "train_head_only", False),
    }
    for option, is_given in refused.items():
        if is_given:
            raise InputError(
                f"{option} does not go with {engine}: leave it out, or train with multi_gpu.yaml (DDP) instead."
            )
