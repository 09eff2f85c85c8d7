"""The minimum of training: network, loss, gradients, optimizer and average, on one batch in memory.

The additional time of our trainer is its overhead: reading data, drawing timesteps, statistics and logging.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionScheduler
from ddpm_hf.training.model_setup import set_up_model

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class BareTraining:
    """`run(updates)` continues where it stopped, with the optimizer, average and memory layout of our trainer."""

    def __init__(self, unet_config, images, mixed_precision="no", layout=None):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.images = images.to(self.device)
        self.scheduler = GaussianDiffusionScheduler()
        self.unet = DDPMUNet2DModel(**unet_config).to(self.device).train()
        set_up_model(self.unet, SimpleNamespace(**(layout or {"channels_last": "no", "compile": "no"})), self.device)
        self.parameters = list(self.unet.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=2e-4, weight_decay=0.0, fused=True)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=mixed_precision == "fp16")
        self.ema = EMAModel(self.parameters, use_ema_warmup=True, power=0.75, foreach=True)
        dtype = DTYPES.get(mixed_precision)
        self.autocast = lambda: nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def run(self, updates):
        steps = len(self.scheduler)
        for _ in range(updates):
            noise = torch.randn_like(self.images)
            timesteps = torch.randint(steps, (len(self.images),), device=self.device)
            noisy = self.scheduler.add_noise(self.images, noise, timesteps)
            with self.autocast():
                output = self.unet(noisy, timesteps, return_dict=False)[0]
            self.scaler.scale(F.mse_loss(output.float(), noise)).backward()
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
            self.ema.step(self.parameters)
