"""Reads weights, optimizer, gradient scaler and random states that each engine wrote with `save_state`.

`load_state` is not used, because it would run the code of a pickle and skips a random state that it cannot read.
"""

import random
from pathlib import Path

import numpy as np
import torch
import torch.distributed.checkpoint as dist_cp
from accelerate.utils import DistributedType, load_fsdp_model, load_fsdp_optimizer
from accelerate.utils.constants import FSDP_MODEL_NAME, MODEL_NAME, OPTIMIZER_NAME, SAFE_WEIGHTS_NAME, SCALER_NAME
from safetensors.torch import load_model
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import StateDictType

from ddpm_hf.training.plain_reading import PlainPlanner, PlainReader, load_pickle, named_when_unreadable


def read_engine_state(accelerator, model, optimizer, folder):
    """Restores weights, optimizer and gradient scaler; every process must call this.

    Args:
        model, optimizer: prepared by `accelerator`.

    Raises:
        InputError: if a file cannot be read as plain data.
    """
    folder = Path(folder)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        _refuse_code_for_deepspeed(folder / MODEL_NAME)
        model.load_checkpoint(str(folder), MODEL_NAME)
        return
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(load_pickle(folder / SCALER_NAME))
    if accelerator.distributed_type == DistributedType.FSDP:
        _read_shards(accelerator, model, optimizer, folder)
        return
    with named_when_unreadable(folder / SAFE_WEIGHTS_NAME):
        load_model(accelerator.unwrap_model(model, keep_torch_compile=False), folder / SAFE_WEIGHTS_NAME)
    state = load_pickle(folder / f"{OPTIMIZER_NAME}.bin")
    with named_when_unreadable(folder / f"{OPTIMIZER_NAME}.bin"):
        optimizer.load_state_dict(state)


def _read_shards(accelerator, model, optimizer, folder):
    plugin = accelerator.state.fsdp_plugin
    if plugin.state_dict_type == StateDictType.FULL_STATE_DICT:  # files of `torch.save`, read here as plain data
        load_fsdp_model(plugin, accelerator, model, folder)
        load_fsdp_optimizer(plugin, accelerator, optimizer, model, folder)
        return
    weights = {"model": get_model_state_dict(model)}
    _read_sharded(weights, folder / f"{FSDP_MODEL_NAME}_0")
    set_model_state_dict(model, weights["model"])
    # The unwrapped optimizer: the empty update that creates its state would otherwise go through the gradient scaler.
    state = {"optimizer": get_optimizer_state_dict(model, optimizer.optimizer)}
    _read_sharded(state, folder / f"{OPTIMIZER_NAME}_0")
    set_optimizer_state_dict(model, optimizer.optimizer, state["optimizer"])


def _read_sharded(state, folder):
    try:
        dist_cp.load(state, storage_reader=PlainReader(folder), planner=PlainPlanner())
    except CheckpointException as error:  # in every process; not a subclass of `Exception`
        cause, _ = next(iter(error.failures.values()))
        with named_when_unreadable(folder):
            raise cause from error


def _refuse_code_for_deepspeed(folder):
    """Checks that DeepSpeed's files hold plain data and its own classes only, because it unpickles them."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    own = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    for path in sorted(folder.glob("*.pt")):
        with named_when_unreadable(path), torch.serialization.safe_globals(own):
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def read_random_state(accelerator, folder):
    """Restores the generators of this process.

    Raises:
        InputError: if they cannot be restored, as the run would differ from an uninterrupted one.
    """
    path = Path(folder) / f"random_states_{accelerator.process_index}.pkl"
    states = load_pickle(path)
    with named_when_unreadable(path):
        random.setstate(states["random_state"])
        np.random.set_state(states["numpy_random_seed"])
        torch.set_rng_state(states["torch_manual_seed"])
    # A run may continue on another kind of device, or on fewer; every batch seeds its own device.
    kind = accelerator.device.type
    if of_devices := states.get(f"torch_{kind}_manual_seed"):
        devices = torch.get_device_module(kind)
        devices.set_rng_state_all(of_devices[: devices.device_count()])
