"""The cost of calibration: seconds for N images, against sampling N images in 100 steps, in turns in one process.

python benchmarks/calibration.py MODEL [--num_images 1000] [--batch_size 64] [--repeats 1]

A calibration calls the network 100 times per image, like sampling in 100 steps.
"""

import argparse
from functools import partial

import torch
from side_by_side import report, time_in_turns

from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.calibration import estimate_mean_square_epsilon
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.evaluation.run import load_data


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--num_images", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    pipeline = GaussianDiffusionPipeline.from_pretrained(options.model)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu").set_progress_bar_config(disable=True)
    images, labels = load_data(DataArguments(), pipeline.unet.config, options.num_images)

    def sample(num_images):
        for batch in images[:num_images].split(options.batch_size):
            pipeline(batch_size=len(batch), num_inference_steps=100, output_type="pt")

    def calibrate(num_images):
        estimate_mean_square_epsilon(
            pipeline.unet,
            pipeline.scheduler,
            images[:num_images],
            class_labels=None if labels is None else labels[:num_images],
            batch_size=options.batch_size,
        )

    def contenders(num_images):
        return {
            "sampling in 100 steps": partial(sample, num_images),
            "calibration": partial(calibrate, num_images),
        }

    measured = time_in_turns(contenders(options.num_images), options.repeats, warm_up=contenders(64))
    report("calibration", measured | {"images": options.num_images})


if __name__ == "__main__":
    main()
