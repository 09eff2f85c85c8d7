"""The plan of a run: its parts, its cost and its files, measured with a few updates."""

import math
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from ddpm_hf.data import count_images, describe_data
from ddpm_hf.hub.cards import CARD_FILE
from ddpm_hf.reports.loss_curve import BITS_PER_DIM_FILE, DISTANCE_FILE, LOSS_FILE, LOSS_PICTURE
from ddpm_hf.training.health import peak_memory_gb
from ddpm_hf.training.run_length import seconds_per_update
from ddpm_hf.training.summaries import describe_end
from ddpm_hf.training.trial import check_can_be_tried, example_batch, trial_of_diffusion


def describe_plan(args, accelerator, unet, scheduler, source, total_steps):
    """The plan as text. It trains a copy of `unet` for a few updates on this device, and writes nothing.

    Raises:
        InputError: for engines that shard the network.
    """
    check_can_be_tried(
        accelerator, "dry_run", "to know all but memory and time, launch it with multi_gpu.yaml instead"
    )
    batch = example_batch(source, args.batch_size)
    flops = flops_per_image(args, accelerator, unet, scheduler, example_batch(source, 1))
    trial = trial_of_diffusion(args, accelerator, unet, scheduler)
    with saved_activations(trial.model) as activations:
        trial.loss(batch).backward()
    memory = memory_of(trial) | {"activations": sum(activations.values())}
    seconds = seconds_per_update(trial, batch)
    images_per_update = args.batch_size * args.gradient_accumulation_steps * accelerator.num_processes
    images, drawn = images_per_update * total_steps, source.samples.output_name
    parts = ", ".join(f"{name} {tqdm.format_sizeof(size, 'B')}" for name, size in memory.items())
    lines = {
        "network": f"{args.init_from or args.unet}, {sum(p.numel() for p in unet.parameters()) / 1e6:.2f}M parameters",
        "data": describe_data(source, source.kind),
        "update": f"{images_per_update} {drawn}: {args.batch_size} at a time, "
        f"{args.gradient_accumulation_steps} times, on {accelerator.num_processes} process(es)",
        "length": f"{total_steps} updates, {images} {drawn}{describe_passes(images, count_images(source))}",
        "compute": f"{flops / 1e9:.3f} GFLOPs per {drawn.removesuffix('s')}, forward and backward; "
        f"{flops * images:.2e} FLOPs in all",
        "memory": f"{tqdm.format_sizeof(sum(memory.values()), 'B')} of tensors in each process: {parts}; the most "
        f"that was taken in this dry run is {peak_memory_gb(accelerator.device):.2f} GiB",
        "time": f"{format_seconds(seconds * total_steps)} at {images_per_update / seconds:.1f} {drawn} per second "
        f"(median of some updates on {accelerator.device}), without reading data, sampling, measuring and saving"
        f"{describe_end(seconds * total_steps / 60)}",
        "writes": describe_files(args, memory, total_steps),
    }
    head = f"Plan of the run in {args.output_dir} (nothing is written now)"
    return "\n".join([head, *(f"  {name:<9}{text}" for name, text in lines.items())])


def describe_passes(images, images_in_data):
    return "" if images_in_data is None else f", {images / images_in_data:.1f} passes over the data"


def flops_per_image(args, accelerator, unet, scheduler, batch):
    """FLOPs of the loss and gradients of one image, counted by torch with two per multiply-add."""
    plain = trial_of_diffusion(replace(args, compile="no"), accelerator, unet, scheduler)
    with FlopCounterMode(display=False) as counter:
        plain.loss(batch).backward()
    return counter.get_total_flops()


@contextmanager
def saved_activations(model):
    """Bytes, by memory address, of the activations saved for the backward pass, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield sizes


def memory_of(trial):
    """Bytes of the tensors kept between updates. One update is run, so that the optimizer has its state."""
    trial.optimizer.step()
    gradients = _bytes(p.grad for p in trial.model.parameters() if p.grad is not None)
    trial.optimizer.zero_grad()
    states = (value for state in trial.optimizer.state.values() for value in state.values())
    averages = [trial.ema, *getattr(trial.ema, "others", [])]
    return {
        "weights": _bytes(trial.model.parameters()),
        "gradients": gradients,
        "optimizer": _bytes(value for value in states if torch.is_tensor(value)),
        "averages": _bytes(weight for average in averages for weight in average.shadow_params),
    }


def _bytes(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def describe_files(args, memory, total_steps):
    """The files that the run writes into its folder, and their sizes."""
    weights = memory["weights"]
    checkpoint = weights + memory["optimizer"] + memory["averages"]
    times = total_steps // args.checkpoint_every if args.checkpoint_every else 0
    parts = [
        f"the pipeline of {tqdm.format_sizeof(weights, 'B')}",
        f"{args.checkpoints_limit} checkpoint(s) of {tqdm.format_sizeof(checkpoint, 'B')}, {times} times and at the "
        "end",
        f"{total_steps // args.sample_every if args.sample_every else 0} grids of samples and one at the end",
        f"{LOSS_FILE}, {LOSS_PICTURE}, {CARD_FILE}",
    ]
    if args.ema == "power":
        snapshots = math.ceil(total_steps / args.ema_snapshot_every)
        parts.append(f"ema_snapshots of {tqdm.format_sizeof(snapshots * memory['averages'], 'B')}")
    if args.eval_every:
        parts.append(BITS_PER_DIM_FILE)
    if args.eval_features:
        parts.append(DISTANCE_FILE)
    return f"into {args.output_dir}: {'; '.join(parts)}"


def format_seconds(seconds):
    return str(timedelta(seconds=round(seconds)))
