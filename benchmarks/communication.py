"""The numbers that a process gives to collectives in an update of training, and in the work between updates.

accelerate launch --config_file training/configs/accelerate/multi_cpu.yaml benchmarks/communication.py
    [--unet fashion_mnist] [--accumulate 2]

The sizes depend neither on the device nor on the number of processes, so two processes on CPUs tell those of many
GPUs; docs/scaling.md makes times of them.
"""

import argparse
import math
import tempfile
from collections import Counter
from pathlib import Path

import torch
from side_by_side import report
from torch.profiler import ProfilerActivity, profile
from training_step import network_config, random_images

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionScheduler
from ddpm_hf.data import ImagesInMemory
from ddpm_hf.distributed import gather_parts
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.run_setup import make_accelerator
from ddpm_hf.training.trainer import Trainer

UPDATES, BATCH_SIZE = 4, 2


def collectives(work):
    """The numbers given to each kind of collective in `work()`, and how often it was called, by the profiler."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        work()
    given, calls = Counter(), Counter()
    for event in profiler.events():
        if event.name.startswith("gloo:"):
            (shape,) = event.input_shapes
            given[event.name] += math.prod(shape[0] if shape and isinstance(shape[0], list) else shape)
            calls[event.name] += 1
    return {name: {"numbers": given[name], "calls": calls[name]} for name in sorted(calls)}


def make_trainer(options):
    config = network_config(options.unet)
    args = TrainingArguments(
        **{"unet": "fashion_mnist", "output_dir": tempfile.mkdtemp(), "batch_size": BATCH_SIZE, "max_train_steps": 1},
        **{"mixed_precision": "no", "log_every": 1000, "gradient_accumulation_steps": options.accumulate},
    )
    network, images = DDPMUNet2DModel(**config), ImagesInMemory({"images": random_images(config)})
    trainer = Trainer(args, make_accelerator(args), network, GaussianDiffusionScheduler(), images, UPDATES + 2)
    trainer.checkpoint = lambda limit=None: None
    trainer.is_logged = lambda: False
    return trainer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--unet", default="fashion_mnist")
    parser.add_argument("--accumulate", type=int, default=1)
    options = parser.parse_args()
    trainer = make_trainer(options)
    accelerator, weights = trainer.accelerator, sum(p.numel() for p in trainer.parameters)
    steps = trainer.total_steps
    trainer.total_steps = 2  # the first updates set up the buckets of gradients
    trainer.fit()
    trainer.total_steps = steps
    of_updates = collectives(trainer.fit)
    measured = {
        "trainable weights": weights,
        "updates": UPDATES,
        "collectives of the updates": of_updates,
        "collectives of a log row": collectives(trainer.statistics.means),
        "collectives of 100 gathered features of 64 float32, in bytes": collectives(
            lambda: gather_parts([torch.zeros(100, 64)], accelerator)
        ),
    }
    if accelerator.is_main_process:
        report(f"communication_{Path(options.unet).name}_accumulate_{options.accumulate}", measured)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
