"""The pictures of README and docs, made by the code they show: `make figures`."""

import argparse
from pathlib import Path

import torch
from diffusers.utils import make_image_grid
from PIL import Image

from ddpm_hf import GaussianDiffusionPipeline

IMAGES = Path(__file__).parent / "images"


def noise_to_images(model, rows=4, columns=11, steps=100, seed=1):
    """A strip for each image: x_t on the way from noise (left) to the image (right), more of it near the end."""
    pipeline = GaussianDiffusionPipeline.from_pretrained(model)
    kept = {round((steps - 1) * (i / (columns - 2)) ** 0.4) for i in range(columns - 1)}
    start = torch.randn(
        rows, pipeline.unet.config.in_channels, *[pipeline.unet.config.sample_size] * 2,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    states = [start]

    def keep(pipeline, step, timestep, tensors):
        if step in kept:
            states.append(tensors["latents"])

    generator = torch.Generator().manual_seed(seed)
    pipeline(latents=start, num_inference_steps=steps, generator=generator, callback_on_step_end=keep)
    strips = [pipeline.image_processor.postprocess(state, "pil") for state in states]
    tiles = [
        strips[column][row].resize((84, 84), Image.Resampling.NEAREST)
        for row in range(rows)
        for column in range(columns)
    ]
    IMAGES.mkdir(exist_ok=True)
    make_image_grid(tiles, rows, columns).convert("L").save(IMAGES / "noise_to_images.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="outputs/demo")
    noise_to_images(parser.parse_args().model)
