"""Recipes for the few minutes of `make demo`, compared at equal numbers of images.

python benchmarks/demo_recipes.py FEATURES [--recipes before v_cosine ..] [--output outputs/demo_recipes]

Every recipe trains the network of the preset `fashion_mnist` from nothing on the embedded images, with the number of
images that two quiet cores see in about four minutes (27,200), so that the recipes need the same time whatever else
the machine does. Then each draws samples with the same seed, and their Frechet distance to the embedded test images is
measured in the features of a classifier (FEATURES, from `python -m ddpm_hf.evaluation.feature_network`). A recipe
whose folder is there is not trained again; another `--seed` takes folders of its own.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from image_distance import ImageDistance, drawn
from side_by_side import RESULTS, machine

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.evaluation.run import load_data
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.recipes import with_recipe

SHARED = {
    "unet": "fashion_mnist",
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 40,
    "adam_beta2": 0.99,
    "batch_size": 32,
    "max_train_steps": 850,
    "learning_rate": 2e-3,
    "ema_decay": 0.995,
}
V_COSINE = {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}
RECIPES = {
    "before": {},
    "v_cosine": V_COSINE,
    "even_timesteps": V_COSINE | {"timestep_sampling": "low_discrepancy"},
    "batch_16": V_COSINE
    | {"timestep_sampling": "low_discrepancy", "batch_size": 16, "max_train_steps": 1700, "lr_warmup_steps": 80},
    "faster_rate": V_COSINE | {"timestep_sampling": "low_discrepancy", "learning_rate": 4e-3},
    "min_snr": V_COSINE | {"timestep_sampling": "low_discrepancy", "min_snr_gamma": 5},
    "shorter_average": V_COSINE | {"timestep_sampling": "low_discrepancy", "ema_decay": 0.98},
}
# Sampler and calls of each distance; the second is what `make demo` drew with.
SAMPLERS = {"ddim-2m in 25 calls": ("ddim-2m", 25), "ddpm in 100 calls": ("ddpm", 100)}


def train(recipe, folder, seed):
    """CPU seconds of the training, None if the folder was there."""
    if (folder / "model_index.json").is_file():
        return None
    options = SHARED | RECIPES[recipe] | {"seed": seed, "sample_every": 10**6, "output_dir": folder}
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    process = subprocess.Popen([sys.executable, "-m", "ddpm_hf.cli", "train", *flags])
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"The training of {recipe} failed; its messages are above.")
    return used.ru_utime + used.ru_stime


def distances(folder, distance, num_samples, samplers):
    pipeline = load_pipeline(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn((num_samples, 1, 28, 28), generator=torch.Generator().manual_seed(1))
    own = pipeline.scheduler
    found = {}
    for name in samplers:
        sampler, steps = SAMPLERS[name]
        pipeline.scheduler = with_recipe(own, sampler)
        generator = torch.Generator().manual_seed(2)
        found[name] = float(distance(drawn(pipeline, noise, steps, generator=generator)))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", help="the folder of a classifier")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=[*RECIPES])
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=[*SAMPLERS])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo_recipes"))
    parser.add_argument("--results", type=Path, default=RESULTS / "demo_recipes.json")
    args = parser.parse_args()
    features = load_features(args.features)
    written = json.loads(args.results.read_text(encoding="utf-8")) if args.results.is_file() else {"recipes": {}}
    written |= {"samples": args.samples, "machine": machine()}
    for recipe in args.recipes:
        folder = args.output / f"{recipe}_{args.seed}"
        seconds = train(recipe, folder, args.seed)
        config = load_pipeline(str(folder)).unet.config
        test = load_data(DataArguments(split="test"), config, None)[0]
        with torch.no_grad():
            found = distances(folder, ImageDistance(features, test), args.samples, args.samplers)
        row = written["recipes"].setdefault(recipe, {"options": RECIPES[recipe], "seeds": {}})
        kept = row["seeds"].setdefault(str(args.seed), {})
        kept.update({name: round(value, 2) for name, value in found.items()})
        if seconds is not None:
            kept["training_cpu_seconds"] = round(seconds)
        print(recipe, args.seed, kept, flush=True)
        args.results.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
