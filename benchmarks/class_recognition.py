"""The share of samples whose requested class a classifier of clean images recognises, without and with guidance.

    python benchmarks/class_recognition.py MODEL --judge FOLDER --guidance_scale 1,3
    python benchmarks/class_recognition.py MODEL --judge FOLDER --classifier_guidance_scale 0,10
    python benchmarks/class_recognition.py MODEL --judge FOLDER --template "a photo of a {label}" --guidance_scale 0,3

With a template the model is asked by captions, of the names of the classes of the embedded Fashion-MNIST; a scale of 0
asks for nothing.

The judge is an image classifier of transformers that was trained on clean images and is not used in sampling (`python
-m ddpm_hf.evaluation.feature_network FOLDER` trains one). Image i of a class has the same noise at every scale.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.stored_rows import open_rows
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.pipelines.image_grids import image_rows, sample_images

SHOWN_IMAGES = 8


def draw_by_class(pipeline, asked, per_class, guidance_scale, classifier_scale, **options):
    """Images of each class in turn, as one list per class.

    Args:
        asked (`list[dict]`): for each class the argument that asks for it.
    """
    options |= {"guidance_scale": guidance_scale, "classifier_guidance_scale": classifier_scale}
    return [
        sample_images(pipeline, per_class, seed=label * per_class, **told, **options)
        for label, told in enumerate(asked)
    ]


def ways_to_ask(pipeline, num_classes, template, classifier_scale):
    """For each class the argument that asks for it, `class_labels` or `prompt`."""
    if template is not None:
        names = open_rows(DataArguments()).features["label"].names
        return [{"prompt": template.format(label=name)} for name in names]
    # Without a classifier, an unconditional model takes no class; this measures how often it hits one by chance.
    told = pipeline.unet.config.num_class_embeds is not None or classifier_scale != 0
    return [{"class_labels": label if told else None} for label in range(num_classes)]


@torch.no_grad()
def classes_of(images, judge, processor, side=None):
    """The class (N,) that the judge finds in each image, in the size in which it was trained, if given."""
    sized = images if side is None else [image.resize((side, side), Image.Resampling.LANCZOS) for image in images]
    pixels = np.stack([np.atleast_3d(np.asarray(image)) for image in sized])
    inputs = processor(pixels, return_tensors="pt", input_data_format="channels_last")
    return judge(inputs["pixel_values"]).logits.argmax(1).numpy()


def recognised(judge, processor, images_by_class, side=None):
    """The share of each class's images that the judge recognises."""
    found = [classes_of(images, judge, processor, side) for images in images_by_class]
    return [float((classes == label).mean()) for label, classes in enumerate(found)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--judge", required=True)
    parser.add_argument("--judge_side", type=int, help="The side of the images that the judge was trained on.")
    parser.add_argument("--template", help="A caption with {label}, for a model of captions.")
    parser.add_argument("--guidance_scale", default="1")
    parser.add_argument("--classifier_guidance_scale", default="0")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--eta", type=float, default=0.0)
    parser.add_argument("--per_class", type=int, default=20)
    parser.add_argument("--output", type=Path, help="A folder for the table (JSON) and a picture for each scale.")
    args = parser.parse_args()

    judge = AutoModelForImageClassification.from_pretrained(args.judge).eval()
    processor = AutoImageProcessor.from_pretrained(args.judge)
    pipeline = load_pipeline(args.model, texts=args.template is not None)
    pipeline.set_progress_bar_config(desc="recognition")
    num_classes = judge.config.num_labels
    rows = []
    for scale in map(float, args.guidance_scale.split(",")):
        for classifier_scale in map(float, args.classifier_guidance_scale.split(",")):
            images = draw_by_class(
                pipeline,
                ways_to_ask(pipeline, num_classes, args.template, classifier_scale),
                args.per_class,
                scale,
                classifier_scale,
                num_inference_steps=args.steps,
                eta=args.eta,
            )
            shares = recognised(judge, processor, images, args.judge_side)
            share, count = sum(shares) / len(shares), num_classes * args.per_class
            error = (share * (1 - share) / count) ** 0.5
            row = {"guidance_scale": scale, "classifier_guidance_scale": classifier_scale, "recognised": share}
            rows.append(row | {"standard_error": error, "images": count, "by_class": shares})
            print(
                f"guidance {scale:g}, classifier {classifier_scale:g}: {share:.1%} +- {error:.1%} of {count}",
                flush=True,
            )
            if args.output is not None:
                args.output.mkdir(parents=True, exist_ok=True)
                name = f"scale_{scale:g}_classifier_{classifier_scale:g}.png"
                image_rows([of_class[:SHOWN_IMAGES] for of_class in images]).save(args.output / name)
                (args.output / "recognition.json").write_text(
                    json.dumps(vars(args) | {"rows": rows}, indent=2, default=str), encoding="utf-8"
                )


if __name__ == "__main__":
    main()
