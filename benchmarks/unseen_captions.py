"""Captions whose words are known and whose combination is not: what a text-to-image model draws for them.

    python benchmarks/unseen_captions.py outputs/unseen [--updates 1200] [--autoencoder_updates 900] [--per_caption 40]

Images of the embedded Fashion-MNIST get a colour each, and the caption "a {colour} {class}". Five combinations of a
colour and a class are left out; their colours and classes occur in all others. On the rest it trains, each in a folder
of its own and unless it is there: an autoencoder, a text-to-image model of its latents, and a classifier of classes,
which reads the brightest channel and has no part in the training. Then both kinds of captions are drawn, guided, from
the same noise. Of each the share is told in which the classifier finds the class, in which the colour is nearer to the
asked one than to the others, and in which both are right, with standard errors over the images.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from class_recognition import classes_of
from diffusers import DiffusionPipeline
from PIL import Image
from side_by_side import report, told_options
from transformers import AutoImageProcessor, AutoModelForImageClassification

from ddpm_hf.data import DataArguments, draw_images, open_images
from ddpm_hf.data.stored_rows import open_rows
from ddpm_hf.evaluation.feature_network import train_feature_network
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.autoencoder_arguments import AutoencoderArguments
from ddpm_hf.training.train import train
from ddpm_hf.training.train_autoencoder import train_autoencoder

COLOURS = {"red": (1, 0.1, 0.1), "green": (0.1, 1, 0.1), "blue": (0.1, 0.1, 1), "yellow": (1, 1, 0.1)}
LEFT_OUT = {"Bag": "red", "Dress": "green", "Sneaker": "blue", "Pullover": "yellow", "Ankle boot": "red"}
SIDE, STEPS = 32, 25


def caption_of(colour, name):
    return f"a {colour} {name}"


def write_images(folder, number, seed):
    """Writes coloured images and their captions as a folder of images with a `metadata.csv`."""
    names = open_rows(DataArguments()).features["label"].names
    data = DataArguments(class_conditional=True, resolution=SIDE)
    drawn = draw_images(open_images(data, None), number, seed).decode()
    chance = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "text"])
        for place, (image, label) in enumerate(zip(drawn["images"], drawn["labels"], strict=True)):
            name = names[label]
            colour = chance.choice([each for each in COLOURS if LEFT_OUT.get(name) != each])
            pixels = image[0].numpy()[..., None] * np.array(COLOURS[colour])
            Image.fromarray(pixels.round().astype(np.uint8)).save(folder / f"{place}.png")
            table.writerow([f"{place}.png", caption_of(colour, name)])


def trained(options):
    """The folder of the text-to-image model, and that of the classifier."""
    folders = {name: options.output / name for name in ("images", "autoencoder", "text", "judge")}
    if not folders["images"].exists():
        write_images(folders["images"], options.num_images, seed=0)
    if not (folders["judge"] / "config.json").exists():
        train_feature_network(folders["judge"], DataArguments(resolution=SIDE), epochs=options.judge_epochs)
    common = {
        **{"dataset": str(folders["images"]), "resolution": SIDE, "lr_scheduler": "cosine", "lr_warmup_steps": 50},
        **{"adam_beta2": 0.99, "ema_decay": 0.995, "sample_every": 0},
    }
    if not (folders["autoencoder"] / "config.json").exists():
        own = {"autoencoder": "small_f4", "reconstruction": "mse", "learning_rate": 2e-3, "batch_size": 32}
        given = own | {"max_train_steps": options.autoencoder_updates, "output_dir": str(folders["autoencoder"])}
        train_autoencoder(AutoencoderArguments(**common | given))
    if not (folders["text"] / "model_index.json").exists():
        own = {
            **{"vae": str(folders["autoencoder"]), "caption_column": "text", "unet": "text_small", "batch_size": 64},
            **{"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2", "learning_rate": 1e-3},
            **{"timestep_sampling": "low_discrepancy", "num_samples": 20},
        }
        given = own | {"max_train_steps": options.updates, "output_dir": str(folders["text"])}
        train(TrainingArguments(**common | given))
    return folders["text"], folders["judge"]


def drawn(pipeline, caption, options):
    generators = [torch.Generator().manual_seed(place) for place in range(options.per_caption)]
    told = {"num_inference_steps": STEPS, "guidance_scale": options.guidance_scale, "generator": generators}
    return pipeline([caption] * options.per_caption, **told).images


def has_colour(image, colour):
    """Whether the mean of the image points nearer to this colour than to all others."""
    mean = np.asarray(image, dtype=float).mean((0, 1))
    near = {name: np.dot(mean, value) / np.linalg.norm(value) for name, value in COLOURS.items()}
    return max(near, key=near.get) == colour


def measured(pipeline, judge, captions, options):
    """The shares of the images of captions [(colour, label, name)] that are right."""
    network, processor = judge
    rights = []
    for colour, label, name in captions:
        images = drawn(pipeline, caption_of(colour, name), options)
        grey = [Image.fromarray(np.asarray(image).max(-1)) for image in images]
        is_class = classes_of(grey, network, processor) == label
        rights.append(np.stack([is_class, [has_colour(image, colour) for image in images]]))
    of_class, of_colour = np.concatenate(rights, axis=1)
    shares = {"class": of_class, "colour": of_colour, "both": of_class & of_colour}
    return {name: share_of(right) for name, right in shares.items()}


def share_of(right):
    share = float(np.mean(right))
    return {"share": share, "standard_error": (share * (1 - share) / len(right)) ** 0.5, "images": len(right)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a folder for the images and the models, which is continued")
    parser.add_argument("--num_images", type=int, default=12000)
    parser.add_argument("--updates", type=int, default=1200)
    parser.add_argument("--autoencoder_updates", type=int, default=900)
    parser.add_argument("--judge_epochs", type=int, default=20)
    parser.add_argument("--per_caption", type=int, default=40)
    parser.add_argument("--guidance_scale", type=float, default=3.0)
    options = parser.parse_args()
    text, judge = trained(options)
    judge = AutoModelForImageClassification.from_pretrained(judge).eval(), AutoImageProcessor.from_pretrained(judge)
    pipeline = DiffusionPipeline.from_pretrained(text)
    pipeline.set_progress_bar_config(disable=True)
    labels = {name: label for label, name in enumerate(open_rows(DataArguments()).features["label"].names)}
    unseen = [(colour, labels[name], name) for name, colour in LEFT_OUT.items()]
    seen = [(colour, labels[name], name) for name, other in LEFT_OUT.items() for colour in COLOURS if colour != other]
    rows = {
        "left out of the training": measured(pipeline, judge, unseen, options),
        "the same classes in other colours": measured(pipeline, judge, seen, options),
    }
    report(
        "unseen_captions",
        {"options": told_options(options), "left out": [caption_of(c, n) for c, _, n in unseen], "right": rows},
    )


if __name__ == "__main__":
    main()
