"""Memorisation of models of few and of many training images: do number and sheet tell them apart?

python benchmarks/memorisation.py OUTPUT --features FOLDER --few MODEL --many MODEL [--num_images 200] [--steps 25]

`--few` was trained on the first 200 training images of the embedded Fashion-MNIST, `--many` on all 6,000 of them:

    ddpm-hf train --preset fashion_mnist --split 'train[:200]' --max_train_steps 2000 \\
        --lr_scheduler constant_with_warmup --output_dir outputs/few
    ddpm-hf train --init_from outputs/few --split 'train[:200]' --max_train_steps 5000 --batch_size 32 \\
        --learning_rate 1e-3 --lr_scheduler cosine --lr_warmup_steps 40 --adam_beta2 0.99 --ema_decay 0.998 \\
        --timestep_sampling low_discrepancy --output_dir outputs/overfitted
    ddpm-hf train --preset fashion_mnist --output_dir outputs/many

The exact predictor of the 200 images, which is what training on them for ever gives, stands beside them. Each is
compared with its own training images; OUTPUT gets a folder of each with `memorisation.png` and the figures.
"""

import argparse
from pathlib import Path

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.data import DataArguments, open_images, to_model_range
from ddpm_hf.evaluation.drawn_samples import draw_levels
from ddpm_hf.evaluation.evaluate import evaluate
from ddpm_hf.evaluation.image_archives import write_images

FEW = "train[:200]"


def overfitted():
    """The pipeline of the exact predictor of few images."""
    images = open_images(DataArguments(split=FEW), None).decode()["images"]
    scheduler = GaussianDiffusionScheduler(eta=0.0)
    return GaussianDiffusionPipeline(ExactDenoiser.from_points(to_model_range(images), scheduler), scheduler)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--features", required=True)
    parser.add_argument("--few", required=True)
    parser.add_argument("--many", required=True)
    parser.add_argument("--num_images", type=int, default=200)
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    levels = draw_levels(overfitted(), [*range(options.num_images)], 0, num_inference_steps=options.steps).numpy()
    archive = options.output / "exact.npz"
    write_images(archive, levels.shape, [levels])
    common = {"metrics": "memorisation", "features": options.features}
    evaluate(archive, options.output / "exact", train_split=FEW, **common)
    drawn = {"num_images": options.num_images, "steps": options.steps, "recipe": "ddim-2m"}
    evaluate(options.few, options.output / "few", train_split=FEW, **common, **drawn)
    evaluate(options.many, options.output / "many", train_split="train", **common, **drawn)


if __name__ == "__main__":
    main()
