"""The cost of a variance head in network calls and training.

It measures the time per network call against the stock network, and per update of the head alone against an update of
the whole network.

python benchmarks/variance_heads.py [--unet fashion_mnist] [--batch_size 16] [--repeats 15]
"""

import argparse

import torch
from diffusers import UNet2DModel
from side_by_side import report, time_in_turns
from torch.utils.flop_counter import FlopCounterMode

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionScheduler
from ddpm_hf.models.presets import UNET_PRESETS
from ddpm_hf.schedulers.choices import COVARIANCE_HEADS, VARIANCE_HEADS
from ddpm_hf.training.head_only import freeze_all_but_head
from ddpm_hf.training.objectives import make_objective


def network_call(unet, images, timesteps):
    unet.eval()

    @torch.no_grad()
    def run():
        unet(images, timesteps)

    return run


@torch.no_grad()
def flops(unet, images, timesteps):
    with FlopCounterMode(display=False) as counter:
        unet(images, timesteps)
    return counter.get_total_flops()


def update(objective, unet, images, timesteps):
    objective = make_objective(objective, GaussianDiffusionScheduler(), device=images.device)

    def run():
        objective(unet, images, timesteps).mean().backward()

    return run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--unet", default="fashion_mnist", choices=UNET_PRESETS)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = UNET_PRESETS[options.unet]
    stock = UNet2DModel(**config | {"out_channels": config["in_channels"]}).to(device)
    images = torch.randn(options.batch_size, config["in_channels"], *2 * [config["sample_size"]], device=device)
    timesteps = torch.arange(options.batch_size, device=device) * 1000 // options.batch_size

    heads = {head: DDPMUNet2DModel.from_unet(stock, variance_head=head) for head in VARIANCE_HEADS}
    # Measured twice, because the difference shows the error of measurement.
    calls = {name: network_call(stock, images, timesteps) for name in ("stock network", "stock network again")}
    calls |= {f"with {head}": network_call(unet, images, timesteps) for head, unet in heads.items()}
    updates = {"whole network, simple": update("simple", DDPMUNet2DModel.from_unet(stock), images, timesteps)}
    for head in COVARIANCE_HEADS:
        updates[f"head alone, {head}"] = update(head, freeze_all_but_head(heads[head]), images, timesteps)
    stock_flops = flops(stock, images, timesteps)
    measured = {
        "operations of a call, to the stock network's": {
            f"with {head}": flops(unet, images, timesteps) / stock_flops for head, unet in heads.items()
        },
        "calls": time_in_turns(calls, options.repeats),
        "losses and gradients": time_in_turns(updates, options.repeats),
    }
    report(f"variance_heads_{options.unet}_{device}", measured)


if __name__ == "__main__":
    main()
