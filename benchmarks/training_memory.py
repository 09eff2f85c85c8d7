"""Peak memory of training, ours against the loop of diffusers' example, each in its own process.

python benchmarks/training_memory.py [--unet fashion_mnist] [--batch_size 64] [--precision no]
"""

import argparse
import json
import subprocess
import sys

import torch
from side_by_side import report
from training_step import network_config, our_run, random_images, stock_run

from ddpm_hf.models.presets import UNET_PRESETS
from ddpm_hf.training.health import peak_memory_gb

UPDATES = 5
LAYOUT = {"channels_last": "auto", "compile": "auto"}


def peak_of(who, unet, batch_size, precision):
    """Peak GiB of tensors on a GPU; on a CPU the peak of the process, and its increase during training."""
    config = network_config(unet)
    common = (config, random_images(config), batch_size, precision, UPDATES)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = peak_memory_gb(device)
    (our_run(*common, LAYOUT) if who == "ddpm_hf" else stock_run(*common))()
    return {"before": before, "peak": peak_memory_gb(device)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--unet", default="fashion_mnist", choices=UNET_PRESETS)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument(
        "--who", choices=["stock loop", "ddpm_hf"], help="Measure only this one, and print the figures."
    )
    options = parser.parse_args()
    if options.who:
        print(json.dumps(peak_of(options.who, options.unet, options.batch_size, options.precision)))
        return
    measured = {}
    for who in ("stock loop", "ddpm_hf"):
        command = [sys.executable, __file__, *sys.argv[1:], "--who", who]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        measured[who] = json.loads(done.stdout.splitlines()[-1])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report(f"training_memory_{options.unet}_{options.precision}_{device}", measured)


if __name__ == "__main__":
    main()
