"""Bits per dimension of a DDPM by its probability flow, beside the variational bound of all its steps.

python benchmarks/flow_bits.py MODEL [--dataset FOLDER] [--num_images 20] [--num_probes 1] [--rtol 1e-4]
    [--variance_types fixed_small,fixed_large] [--seed 0]

The images are drawn from the test split, the same for all rows. Both dequantisations of `flow_bits_per_dim` are
measured; `gaussian` is comparable with the bound term by term, as it replaces all steps but the last by the flow. The
difference of each row to the best bound is over pairs of the same image, with its standard error.
"""

import argparse
import math
import time

import torch

from ddpm_hf.data import DataArguments
from ddpm_hf.evaluation import bits_per_dim
from ddpm_hf.evaluation.flow_bits import DEQUANTIZATIONS, FlowOptions, flow_bits_per_dim
from ddpm_hf.evaluation.image_labels import labels_of
from ddpm_hf.evaluation.run import load_data
from ddpm_hf.hub.model_folder import load_pipeline


def paired(a, b):
    """The mean difference and its standard error."""
    difference = torch.tensor(a) - torch.tensor(b)
    return difference.mean().item(), difference.std().item() / math.sqrt(len(difference))


def measured(measure):
    """The result, and the CPU seconds that it took."""
    begun = time.process_time()
    return measure(), time.process_time() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dataset")
    parser.add_argument("--num_images", type=int, default=20)
    parser.add_argument("--num_probes", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=50)
    parser.add_argument("--rtol", type=float, default=1e-4)
    parser.add_argument("--variance_types", default="fixed_small,fixed_large")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pipeline = load_pipeline(options.model)
    unet, scheduler = pipeline.unet, pipeline.scheduler
    data = DataArguments(dataset=options.dataset, split="test")
    images, labels = load_data(data, unet.config, options.num_images, options.seed)
    common = {
        "class_labels": labels_of(labels, 0, len(images)),
        "batch_size": options.batch_size,
        "seed": options.seed,
        "progress_bar": False,
    }
    rows = {}
    for variance_type in options.variance_types.split(","):
        chain = scheduler.from_config(scheduler.config, variance_type=variance_type, eta=1.0)
        rows[f"bound, {variance_type}"] = measured(lambda chain=chain: bits_per_dim(unet, chain, images, **common))
        print(f"bound, {variance_type}: {rows[f'bound, {variance_type}'][0].total:.4f}", flush=True)
    best = min((result for result, _ in rows.values()), key=lambda result: result.total)
    for dequantization in DEQUANTIZATIONS:
        flow = FlowOptions(options.num_probes, options.rtol, options.rtol, dequantization)
        rows[f"flow, {dequantization}"] = measured(
            lambda flow=flow: flow_bits_per_dim(unet, scheduler, images, flow, **common)
        )
    print("| | bits/dim | difference to the best bound | calls | CPU seconds |\n|---|---|---|---|---|")
    for name, (result, seconds) in rows.items():
        difference, error = paired(result.per_image, best.per_image)
        calls = getattr(result, "calls", None) or len(result.timesteps)
        print(
            f"| {name} | {result.total:.4f} ± {result.standard_error:.4f} | {difference:+.4f} ± {error:.4f} | "
            f"{calls:.0f} | {seconds:.0f} |"
        )


if __name__ == "__main__":
    main()
