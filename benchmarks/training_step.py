"""Training throughput of our trainer against the loop of diffusers' unconditional example: the same network, batch and
data, already in memory for both; ours with everything it does between two log lines.

python benchmarks/training_step.py [--unet fashion_mnist] [--batch_size 64] [--updates 10] [--precisions no bf16]
"""

import argparse
import tempfile
from itertools import cycle

import torch
from accelerate.state import AcceleratorState
from side_by_side import report, time_in_turns
from stock_training import StockTraining

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionScheduler
from ddpm_hf.models.presets import UNET_PRESETS
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.data import ImagesInMemory, to_model_range
from ddpm_hf.training.run_setup import make_accelerator
from ddpm_hf.training.trainer import Trainer

NUM_IMAGES = 4096


def stock_run(unet_config, images, batch_size, mixed_precision, updates):
    AcceleratorState._reset_state(reset_partial_state=True)
    batches = cycle(to_model_range(images).split(batch_size))
    training = StockTraining(unet_config, batches, mixed_precision)
    return lambda: training.run(updates)


def our_run(unet_config, images, batch_size, mixed_precision, updates):
    AcceleratorState._reset_state(reset_partial_state=True)
    args = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        batch_size=batch_size,
        max_train_steps=1,
        mixed_precision=mixed_precision,
        log_every=updates,
    )
    unet, scheduler = DDPMUNet2DModel(**unet_config), GaussianDiffusionScheduler()
    trainer = Trainer(args, make_accelerator(args), unet, scheduler, ImagesInMemory({"images": images}), updates)

    def run():
        trainer.total_steps = trainer.progress.step + updates
        trainer.fit()

    return run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--unet", default="fashion_mnist", choices=UNET_PRESETS)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--precisions", nargs="+", default=["no", "bf16"], choices=["no", "bf16", "fp16"])
    options = parser.parse_args()
    config = {"out_channels": UNET_PRESETS[options.unet]["in_channels"], **UNET_PRESETS[options.unet]}
    size = config["sample_size"]
    images = torch.randint(256, (NUM_IMAGES, config["in_channels"], size, size), dtype=torch.uint8)
    contenders = {}
    for precision in options.precisions:
        common = (config, images, options.batch_size, precision, options.updates)
        contenders[f"stock loop, {precision}"] = stock_run(*common)
        contenders[f"ddpm_hf, {precision}"] = our_run(*common)
    measured = time_in_turns(contenders, options.repeats)
    for row in measured.values():
        row["images_per_second"] = options.batch_size * options.updates / row["seconds"]
        row["speed_over_stock_float32"] = 1 / row.pop("ratio")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report(f"training_step_{options.unet}_{'_'.join(options.precisions)}_{device}", measured)


if __name__ == "__main__":
    main()
