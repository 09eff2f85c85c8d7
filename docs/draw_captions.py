"""Draws captions by a text-to-image model as someone without ddpm_hf does, one column for each caption.

python docs/draw_captions.py outputs/demo_text
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import make_image_grid

ROWS, SCALE, SIDE = 4, 3.0, 64


def captions_of(folder):
    """Captions of the training, ten at most."""
    return json.loads((folder / "captions.json").read_text(encoding="utf-8"))["examples"]


def draw(file, folder):
    """Writes the picture of the captions of a model's folder; the images of a row begin with the same noise."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    columns = []
    for caption in captions_of(folder):
        generators = [torch.Generator().manual_seed(row) for row in range(ROWS)]
        drawn = pipeline([caption] * ROWS, num_inference_steps=25, guidance_scale=SCALE, generator=generators)
        columns.append([image.resize((SIDE, SIDE)) for image in drawn.images])
    images = [column[row] for row in range(ROWS) for column in columns]
    make_image_grid(images, ROWS, len(columns)).convert(images[0].mode).save(file)


def main(folder):
    draw(folder / "captions.png", folder)
    print("\n".join(f"column {number}: {caption}" for number, caption in enumerate(captions_of(folder), start=1)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
