"""The error of encoding images by the probability flow and decoding them again, in levels of 255.

python benchmarks/flow_encoding.py MODEL [--dataset FOLDER] [--num_images 4] [--rtols 1e-3,1e-4,1e-5] [--seed 0]

The images are drawn from the test split.
"""

import argparse
import time

from ddpm_hf.data import DataArguments
from ddpm_hf.evaluation.run import load_data
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.pipelines.probability_flow import decode, encode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dataset")
    parser.add_argument("--num_images", type=int, default=4)
    parser.add_argument("--rtols", default="1e-3,1e-4,1e-5")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pipeline = load_pipeline(options.model)
    data = DataArguments(dataset=options.dataset, split="test")
    images, _ = load_data(data, pipeline.unet.config, options.num_images, options.seed)
    images = images / 255
    print("| rtol | mean absolute error (levels) | largest | calls up | calls down | CPU seconds |")
    print("|---|---|---|---|---|---|")
    for rtol in map(float, options.rtols.split(",")):
        begun = time.process_time()
        latents, up = encode(pipeline, images, rtol=rtol, atol=rtol)
        again, down = decode(pipeline, latents, denoise=False, output_type="latent", rtol=rtol, atol=rtol)
        error = ((again + 1) / 2 - images).abs() * 255
        seconds = time.process_time() - begun
        print(f"| {rtol:g} | {error.mean():.4f} | {error.max():.3f} | {up} | {down} | {seconds:.0f} |", flush=True)
        print(f"  latents: mean {latents.mean():.3f}, standard deviation {latents.std():.3f}")


if __name__ == "__main__":
    main()
