"""All measurements of training that need a GPU, with the 35.7M network of CIFAR-10 (about half an hour).

python benchmarks/gpu.py [--unet cifar10] [--batch_size 128]

1. Images per second of our trainer, of a bare loop and of diffusers' example, by precision, with channels_last and
   torch.compile, to choose the defaults of `training/model_setup.py` (FASTER).
2. Peak memory of each.
3. Lines of the loop that wait for the device between two logs, for three objectives; there must be none.
4. Skipped updates under fp16 and with 8-bit AdamW, after which weights must be finite.

Results are in benchmarks/results. IT HAS NOT BEEN RUN ON A GPU YET.
"""

import argparse
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from side_by_side import report

from ddpm_hf import DDPMUNet2DModel
from ddpm_hf.data import ImagesInMemory
from ddpm_hf.models.presets import UNET_PRESETS
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.run_setup import make_accelerator
from ddpm_hf.training.train import make_scheduler
from ddpm_hf.training.trainer import Trainer

HERE = Path(__file__).parent
OBJECTIVES = {
    "simple": {},
    "hybrid": {"variance_head": "learned_range"},
    "vlb": {"objective": "vlb", "timestep_sampling": "importance"},
}
LAYOUTS = [[], ["--channels_last", "yes"], ["--compile", "yes"], ["--channels_last", "yes", "--compile", "yes"]]


class SomeSpoiled(ImagesInMemory):
    """Points, which can be NaN; every fifth batch has one."""

    number = 0

    def __getitems__(self, indices):
        batch = super().__getitems__(indices)
        self.number += 1
        if self.number % 5 == 0:
            batch["images"][0, 0, 0, 0] = torch.nan
        return batch


def make_trainer(unet, updates, data, **options):
    AcceleratorState._reset_state(reset_partial_state=True)
    args = TrainingArguments(
        unet=unet, output_dir=tempfile.mkdtemp(), max_train_steps=updates, batch_size=16, log_every=updates, **options
    )
    config = UNET_PRESETS[unet]
    network = DDPMUNet2DModel(**config, variance_head=args.variance_head)
    size = config["sample_size"]
    images = data({"images": torch.rand(256, config["in_channels"], size, size) * 2 - 1})
    trainer = Trainer(args, make_accelerator(args), network, make_scheduler(args), images, updates)
    trainer.checkpoint = lambda limit=None: None
    return trainer


def waits_between_logs(unet, **options):
    """CUDA's warnings of synchronization in updates 2 to 9 of 10."""
    trainer = make_trainer(unet, 10, ImagesInMemory, mixed_precision="bf16", **options)
    learn, finish, found = trainer.learn, trainer._finish_update, []

    def watched(work):
        def run(*args):
            step = trainer.progress.step
            torch.cuda.set_sync_debug_mode("warn" if 1 <= step < 9 else "default")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                work(*args)
            torch.cuda.set_sync_debug_mode("default")
            found.extend(str(warning.message) for warning in caught if "synchroniz" in str(warning.message))

        return run

    trainer.learn, trainer._finish_update = watched(learn), watched(finish)
    trainer.fit()
    return found


def skipped_updates(unet, **options):
    """Trains for 20 updates, four of which have a NaN in their batch."""
    trainer = make_trainer(unet, 20, SomeSpoiled, **options)
    trainer.fit()
    finite = all(parameter.isfinite().all().item() for parameter in trainer.parameters)
    return {"skipped": trainer.statistics.num_skipped()[0], "weights_are_finite": finite}


def run(script, *arguments):
    subprocess.run([sys.executable, str(HERE / script), *arguments], check=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--unet", default="cifar10", choices=UNET_PRESETS)
    parser.add_argument("--batch_size", default="128")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("This benchmark needs a GPU, and there is none: benchmarks/training_step.py measures a CPU.")
    common = ["--unet", options.unet, "--batch_size", options.batch_size]
    for layout in LAYOUTS:
        run("training_step.py", *common, "--updates", "50", "--precisions", "no", "bf16", "fp16", *layout)
    for precision in ("no", "bf16"):
        run("training_memory.py", *common, "--precision", precision)
    waits = {objective: waits_between_logs(options.unet, **given) for objective, given in OBJECTIVES.items()}
    measured = {
        "waits_between_logs": {
            objective: {"count": len(found), "which": sorted(set(found))} for objective, found in waits.items()
        },
        "fp16": skipped_updates(options.unet, mixed_precision="fp16"),
        "bf16": skipped_updates(options.unet, mixed_precision="bf16"),
        "adamw8bit": skipped_updates(options.unet, mixed_precision="bf16", optimizer="adamw8bit"),
    }
    report(f"training_health_{options.unet}_cuda", measured)


if __name__ == "__main__":
    main()
