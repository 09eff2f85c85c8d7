"""The loop and the data path of diffusers' unconditional training example, reimplemented.

As in the example, images go through PIL to RGB tensors one by one, noise is drawn in the loop, EMA runs parameter by
parameter, and every step reads the loss and writes the progress bar. Only data source and sizes are parameters.
"""

import random

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from tqdm.auto import tqdm


def pil_transform(resolution, mode="RGB"):
    """Resize, crop, random flip, and tensor in [-1, 1], image by image, as torchvision does on PIL images."""

    def one(image):
        image = image.convert(mode)
        scale = resolution / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - resolution) // 2, (image.height - resolution) // 2
        image = image.crop((left, top, left + resolution, top + resolution))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).reshape(resolution, resolution, len(mode) if mode == "RGB" else 1)
        return pixels.permute(2, 0, 1).contiguous().float().div(255).sub_(0.5).div_(0.5)

    return lambda rows: {"input": [one(image) for image in rows["image"]]}


def pil_loader(dataset, resolution, batch_size, mode="RGB"):
    dataset = dataset.with_transform(pil_transform(resolution, mode))
    return torch.utils.data.DataLoader(dataset, batch_size=batch_size, shuffle=True)


class StockTraining:
    """The example's loop over given batches; `run(updates)` continues where it stopped."""

    def __init__(self, unet_config, batches, mixed_precision="no", is_compiled=False):
        self.accelerator = Accelerator(mixed_precision=mixed_precision)
        model = UNet2DModel(**unet_config)
        if is_compiled:
            model.compile()
        self.scheduler = DDPMScheduler()
        self.ema = EMAModel(
            model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75, model_config=model.config
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        lr_scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=100_000)
        self.model, self.optimizer, self.lr_scheduler = self.accelerator.prepare(model, optimizer, lr_scheduler)
        self.ema.to(self.accelerator.device)
        self.batches, self.step = batches, 0

    def run(self, updates):
        model, accelerator = self.model, self.accelerator
        model.train()
        progress_bar = tqdm(total=updates, leave=False)
        for _ in range(updates):
            clean_images = next(self.batches).to(accelerator.device)
            noise = torch.randn(clean_images.shape, device=clean_images.device)
            steps = self.scheduler.config.num_train_timesteps
            timesteps = torch.randint(0, steps, (len(clean_images),), device=clean_images.device, dtype=torch.int64)
            noisy_images = self.scheduler.add_noise(clean_images, noise, timesteps)
            with accelerator.accumulate(model):
                loss = F.mse_loss(model(noisy_images, timesteps).sample.float(), noise.float())
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                self.optimizer.step()
                self.lr_scheduler.step()
                self.optimizer.zero_grad()
            self.ema.step(model.parameters())
            self.step += 1
            progress_bar.update(1)
            logs = {"loss": loss.detach().item(), "lr": self.lr_scheduler.get_last_lr()[0], "step": self.step}
            progress_bar.set_postfix(**logs)
            accelerator.log(logs, step=self.step)
        progress_bar.close()
