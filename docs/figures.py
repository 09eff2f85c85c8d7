"""The pictures of README and docs, each made by the code that it shows: `make figures`.

python docs/figures.py                               all of them, from the models in outputs/
python docs/figures.py schedules.png langevin.png    these
python docs/figures.py --model stock=a/folder        with another model than outputs/stock
python docs/figures.py --list                        the function and the models of each
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import demo_figures
import draw_captions
import editing_figures
import emoji_pictures
import grey_pairs
import image_figures
import point_figures

IMAGES = Path(__file__).parent / "images"

# The models, by the name of their folder in outputs/, and how each is made; `make figures` makes missing ones.
MODELS = {
    "stock": "python benchmarks/train_stock_model.py outputs/stock",
    "with_classes": "the command in docs/guidance.md, from outputs/stock",
    "steered": "the command in docs/guidance.md, from outputs/stock",
    "demo_text": "make demo_text",
    "latents/latents": "the command in docs/latent_and_text.md",
    "latents/pixels": "the command in docs/latent_and_text.md",
    "super_resolution/upscaler_without_noise": "the command in docs/conditions.md",
    "unseen/text": "python benchmarks/unseen_captions.py outputs/unseen",
    "emoji_model": "the commands in docs/training.md",
    "overfitted": "the commands in benchmarks/memorisation.py",
    "swiss_roll": "ddpm-hf train --preset swiss_roll --output_dir outputs/swiss_roll",
    "colours": "the commands in docs/conditions.md",
    "swiss_roll_calibrated": "ddpm-hf calibrate outputs/swiss_roll --dataset swiss_roll --plan 25 --output_dir "
    "outputs/swiss_roll_calibrated",
}


class Picture(NamedTuple):
    """make: a function of the file to write and of the folders of `models`."""

    make: callable
    models: tuple[str, ...] = ()


PICTURES = {
    "noise_to_images.png": Picture(image_figures.noise_to_images),
    "words_to_images.png": Picture(image_figures.words_to_images, ("unseen/text",)),
    "forward_images.png": Picture(image_figures.forward),
    "exact_images.png": Picture(image_figures.exact_model),
    "copies.png": Picture(image_figures.copies),
    "few_calls.png": Picture(image_figures.few_calls),
    "improved.png": Picture(image_figures.improved, ("stock",)),
    "memorisation_few.png": Picture(image_figures.memorised, ("overfitted",)),
    "latents_and_pixels.png": Picture(image_figures.latents_and_pixels, ("latents/latents", "latents/pixels")),
    "guidance.png": Picture(image_figures.guidance, ("with_classes", "steered")),
    "demo.png": Picture(demo_figures.page),
    "demo_phone.png": Picture(demo_figures.phone),
    "image_to_image.png": Picture(editing_figures.image_to_image, ("stock",)),
    "inpainting.png": Picture(editing_figures.inpainting, ("stock",)),
    "interpolation.png": Picture(editing_figures.interpolation, ("stock",)),
    "inversion.png": Picture(editing_figures.inversion, ("stock",)),
    "trajectory.png": Picture(editing_figures.trajectory, ("stock",)),
    "trajectory.gif": Picture(editing_figures.trajectory, ("stock",)),
    "colours.png": Picture(grey_pairs.colours, ("colours",)),
    "upscaled.png": Picture(image_figures.upscaled, ("super_resolution/upscaler_without_noise",)),
    "unseen_captions.png": Picture(image_figures.unseen_captions, ("unseen/text",)),
    "emoji.png": Picture(emoji_pictures.draw, ("emoji_model",)),
    "captions.png": Picture(draw_captions.draw, ("demo_text",)),
    "schedules.png": Picture(point_figures.schedules),
    "forward_points.png": Picture(point_figures.forward),
    "score.png": Picture(point_figures.score_field),
    "four_samplers.png": Picture(point_figures.four_samplers),
    "langevin.png": Picture(point_figures.langevin),
    "time_index.png": Picture(point_figures.time_index),
    "swiss_roll_loss.png": Picture(point_figures.loss, ("swiss_roll",)),
    "swiss_roll_samples.png": Picture(point_figures.samples, ("swiss_roll",)),
    "swiss_roll_path.png": Picture(point_figures.path, ("swiss_roll",)),
    "swiss_roll_path.gif": Picture(point_figures.path, ("swiss_roll",)),
    "gamma.png": Picture(point_figures.gamma, ("swiss_roll_calibrated",)),
    "variances.png": Picture(point_figures.variances, ("swiss_roll_calibrated",)),
    "timesteps.png": Picture(point_figures.timesteps, ("swiss_roll_calibrated",)),
}


def model_folders(names, overrides):
    """The folder of each model; says all that are missing, and how they are made, before any work."""
    folders = {name: Path(overrides.get(name, f"outputs/{name}")) for name in names}
    missing = [name for name, folder in folders.items() if not (folder / "model_index.json").is_file()]
    if missing:
        lines = [f"{folders[name]} is not there; made by: {MODELS[name]}" for name in missing]
        sys.exit("\n".join([*lines, "`make figures` makes all that are missing."]))
    return folders


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help="names of files in docs/images; all by default")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    unknown = set(args.pictures) - set(PICTURES)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(PICTURES)}")
    chosen = {name: PICTURES[name] for name in args.pictures or PICTURES}
    if args.list:
        for name, picture in chosen.items():
            made_by = f"{picture.make.__module__}.{picture.make.__name__}"
            print(f"{name}: {made_by}; needs {', '.join(picture.models) or 'no model'}")
        return
    needed = {model for picture in chosen.values() for model in picture.models}
    folders = model_folders(sorted(needed), dict(pair.split("=", 1) for pair in args.model))
    IMAGES.mkdir(exist_ok=True)
    for name, picture in chosen.items():
        print(name, flush=True)
        picture.make(IMAGES / name, *(folders[model] for model in picture.models))


if __name__ == "__main__":
    main()
