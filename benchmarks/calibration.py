"""What calibrating a model costs: seconds for N images, beside sampling as many in 100 steps, in turns in one process.

python benchmarks/calibration.py MODEL [--num_images 1000] [--batch_size 64] [--repeats 1]

A calibration calls the network 100 times for each image, as sampling in 100 steps does.
"""

import argparse

import torch
from side_by_side import report, time_in_turns

from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.calibration import estimate_mean_square_epsilon
from ddpm_hf.evaluation.run import load_data
from ddpm_hf.training.arguments import DataArguments


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

    def sample():
        for batch in images.split(options.batch_size):
            pipeline(batch_size=len(batch), num_inference_steps=100, output_type="pt")

    def calibrate():
        estimate_mean_square_epsilon(
            pipeline.unet, pipeline.scheduler, images, class_labels=labels, batch_size=options.batch_size
        )

    measured = time_in_turns({"sampling in 100 steps": sample, "calibration": calibrate}, options.repeats)
    report("calibration", measured | {"images": options.num_images})


if __name__ == "__main__":
    main()
