"""The cost of the bound: K steps of `bits_per_dim` against K network calls alone.

python benchmarks/bits_per_dim.py [--unet fashion_mnist] [--batch_size 64] [--steps 20]
"""

import argparse
from functools import partial

import torch
from side_by_side import report, time_in_turns

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionScheduler
from ddpm_hf.evaluation import bits_per_dim
from ddpm_hf.models.presets import UNET_PRESETS


def network_calls(unet, images, steps):
    """The network calls that any evaluation needs."""
    sample = torch.randn(images.shape, device=unet.device)
    timesteps = torch.arange(steps, device=unet.device)

    @torch.no_grad()
    def run():
        for t in timesteps:
            unet(sample, t)

    return run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--unet", default="fashion_mnist", choices=UNET_PRESETS)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = UNET_PRESETS[options.unet]
    size = config["sample_size"]
    images = torch.randint(256, (options.batch_size, config["in_channels"], size, size), dtype=torch.uint8)

    measured = {}
    for variance_type, head in (("fixed_small", None), ("learned_range", "learned_range")):
        unet = DDPMUNet2DModel(**config, variance_head=head).to(device).eval()
        scheduler = GaussianDiffusionScheduler(variance_type=variance_type)
        evaluation = partial(
            bits_per_dim, unet, scheduler, images, options.steps, batch_size=len(images), progress_bar=False
        )
        contenders = {"network calls": network_calls(unet, images, options.steps), "bits_per_dim": evaluation}
        measured[variance_type] = time_in_turns(contenders, options.repeats)
    report(f"bits_per_dim_{options.unet}_{device}", measured)


if __name__ == "__main__":
    main()
