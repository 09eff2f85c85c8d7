"""Memorisation of a model overfitted on 200 images, beside one trained on many: do number and sheet tell them apart?

python benchmarks/memorisation.py OUTPUT --features FOLDER [--model MODEL] [--num_images 200] [--steps 10]

The overfitted model is the exact predictor of the first 200 training images of the embedded Fashion-MNIST, which is
what training on them for ever gives. MODEL, by default the embedded one, was trained on 60,000 images, a tenth of
which are the embedded training images. The folders `few` and `many` in OUTPUT have `memorisation.png` and the figures,
which are printed. FOLDER is a classifier, as `python -m ddpm_hf.evaluation.feature_network FOLDER` trains it.
"""

import argparse
from pathlib import Path

from ddpm_hf import ExactDenoiser, GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.data import DataArguments, open_images, to_model_range
from ddpm_hf.evaluation.drawn_samples import draw_levels
from ddpm_hf.evaluation.evaluate import evaluate
from ddpm_hf.evaluation.image_archives import write_images
from ddpm_hf.places import EMBEDDED_MODEL

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
    parser.add_argument("--model", default=EMBEDDED_MODEL)
    parser.add_argument("--num_images", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    levels = draw_levels(overfitted(), [*range(options.num_images)], 0, num_inference_steps=options.steps).numpy()
    archive = options.output / "few.npz"
    write_images(archive, levels.shape, [levels])
    common = {"metrics": "memorisation", "features": options.features}
    evaluate(archive, options.output / "few", train_split=FEW, **common)
    drawn = {"num_images": options.num_images, "steps": options.steps}
    evaluate(options.model, options.output / "many", train_split="train", **common, **drawn)


if __name__ == "__main__":
    main()
