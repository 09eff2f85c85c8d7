"""Trains a stock pipeline on the embedded Fashion-MNIST with diffusers alone, like a user's checkpoint.

    python benchmarks/train_stock_model.py outputs/stock [--updates 6700]

The network has 1.8M parameters; it trains with batches of 64, AdamW at 4e-4 with warm-up and cosine decay, and
averaged weights, in about two hours on two cores or minutes on a GPU. It is "the stock Fashion-MNIST model" of the
guides.
"""

import argparse
from pathlib import Path

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from tqdm.auto import tqdm

DATA = Path(__file__).parent.parent / "ddpm_hf" / "data" / "fashion_mnist"


def stock_unet():
    return UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=24,
        norm_num_groups=8,
    )


def train(images, updates, batch_size, device):
    """The averaged network and its scheduler, from uint8 images (N, 1, 28, 28)."""
    torch.manual_seed(0)
    unet, scheduler = stock_unet().to(device), DDPMScheduler()
    ema = EMAModel(unet.parameters(), decay=0.999, use_ema_warmup=True, power=0.75, foreach=True)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=4e-4)
    lr_scheduler = get_cosine_schedule_with_warmup(optimizer, min(200, updates // 10), updates)
    for _ in (bar := tqdm(range(updates), unit="update")):
        chosen = images[torch.randint(len(images), (batch_size,))].to(device)
        x_0 = chosen.float() / 127.5 - 1
        noise, t = torch.randn_like(x_0), torch.randint(1000, (batch_size,), device=device)
        loss = F.mse_loss(unet(scheduler.add_noise(x_0, noise, t), t).sample, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        ema.step(unet.parameters())
        bar.set_postfix(loss=f"{loss.item():.4f}")
    ema.copy_to(unet.parameters())
    return unet.eval(), scheduler


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a folder that is not there yet")
    parser.add_argument("--updates", type=int, default=6700)
    parser.add_argument("--batch_size", type=int, default=64)
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"{args.output} is already there; choose another folder.")
    rows = datasets.load_dataset(str(DATA), split="train")
    images = torch.from_numpy(np.stack([np.array(image.convert("L")) for image in rows["image"]]))[:, None]
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    unet, scheduler = train(images, args.updates, args.batch_size, device)
    DDPMPipeline(unet.to("cpu"), scheduler).save_pretrained(args.output)


if __name__ == "__main__":
    main()
