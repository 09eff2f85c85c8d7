"""Draws captions by a text-to-image model as someone without ddpm_hf does, one column for each caption.

python docs/draw_captions.py outputs/demo_text
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import make_image_grid

ROWS, SCALE = 4, 3.0


def main(folder):
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    captions = json.loads((folder / "captions.json").read_text(encoding="utf-8"))["examples"]
    columns = []
    for caption in captions:
        generators = [torch.Generator().manual_seed(row) for row in range(ROWS)]
        drawn = pipeline([caption] * ROWS, num_inference_steps=25, guidance_scale=SCALE, generator=generators)
        columns.append(drawn.images)
    rows = [column[row] for row in range(ROWS) for column in columns]
    grid = make_image_grid([image.resize((64, 64)) for image in rows], ROWS, len(captions))
    grid.convert(rows[0].mode).save(folder / "captions.png")
    print("\n".join(f"column {number}: {caption}" for number, caption in enumerate(captions, start=1)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
