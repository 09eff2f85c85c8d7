"""Training throughput of our trainer against the loop of diffusers' unconditional example, and a bare loop.

All have the same network, batch and data in memory; ours includes everything between two log rows.

python benchmarks/training_step.py [--unet fashion_mnist] [--batch_size 64] [--updates 10] [--precisions no bf16]
    [--channels_last yes] [--compile yes] [--stock_compiles] [--clock cpu]
"""

import argparse
import tempfile
from itertools import cycle

import torch
from accelerate.state import AcceleratorState
from bare_training import BareTraining
from side_by_side import add_clock_option, report, time_in_turns
from stock_training import StockTraining

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionScheduler
from ddpm_hf.data import ImagesInMemory, to_model_range
from ddpm_hf.models.presets import UNET_PRESETS
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.run_setup import make_accelerator
from ddpm_hf.training.trainer import Trainer

NUM_IMAGES = 4096


def network_config(unet):
    return {"out_channels": UNET_PRESETS[unet]["in_channels"], **UNET_PRESETS[unet]}


def random_images(config):
    size = config["sample_size"]
    return torch.randint(256, (NUM_IMAGES, config["in_channels"], size, size), dtype=torch.uint8)


def stock_run(unet_config, images, batch_size, mixed_precision, updates, is_compiled=False):
    AcceleratorState._reset_state(reset_partial_state=True)
    batches = cycle(to_model_range(images).split(batch_size))
    training = StockTraining(unet_config, batches, mixed_precision, is_compiled)
    return lambda: training.run(updates)


def bare_run(unet_config, images, batch_size, mixed_precision, updates, layout):
    training = BareTraining(unet_config, to_model_range(images[:batch_size]), mixed_precision, layout)
    return lambda: training.run(updates)


def our_run(unet_config, images, batch_size, mixed_precision, updates, layout):
    AcceleratorState._reset_state(reset_partial_state=True)
    args = TrainingArguments(
        unet="fashion_mnist",  # with the settings of a named network; the network itself is given below
        output_dir=tempfile.mkdtemp(),
        batch_size=batch_size,
        max_train_steps=1,
        mixed_precision=mixed_precision,
        log_every=updates,
        **layout,
    )
    unet, scheduler = DDPMUNet2DModel(**unet_config), GaussianDiffusionScheduler()
    trainer = Trainer(args, make_accelerator(args), unet, scheduler, ImagesInMemory({"images": images}), updates)
    trainer.checkpoint = lambda: None  # a turn would end with one, and the other loops save nothing

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
    parser.add_argument("--channels_last", default="auto", choices=["auto", "yes", "no"])
    parser.add_argument("--compile", default="auto", choices=["auto", "yes", "no"])
    parser.add_argument("--stock_compiles", action="store_true", help="Compile the network of the stock loop too.")
    add_clock_option(parser)
    options = parser.parse_args()
    config = network_config(options.unet)
    images = random_images(config)
    layout = {"channels_last": options.channels_last, "compile": options.compile}
    contenders = {}
    for precision in options.precisions:
        common = (config, images, options.batch_size, precision, options.updates)
        contenders[f"stock loop, {precision}"] = stock_run(*common, options.stock_compiles)
        contenders[f"bare loop, {precision}"] = bare_run(*common, layout)
        contenders[f"ddpm_hf, {precision}"] = our_run(*common, layout)
    measured = time_in_turns(contenders, options.repeats, clock=options.clock)
    for name, row in measured.items():
        row["images_per_second"] = options.batch_size * options.updates / row["seconds"]
        row["speed_over_stock_float32"] = 1 / row.pop("ratio")
        if name.startswith("ddpm_hf"):
            bare = measured[name.replace("ddpm_hf", "bare loop")]
            row["overhead_over_bare_loop"] = row["seconds"] / bare["seconds"] - 1
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = "".join(f"_{name}" for name, choice in layout.items() if choice == "yes")
    report(f"training_step_{options.unet}_{'_'.join(options.precisions)}{chosen}_{device}", measured, options.clock)


if __name__ == "__main__":
    main()
