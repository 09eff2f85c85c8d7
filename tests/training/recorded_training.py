"""A program for tests that trains a tiny network on any number of processes, and records every update.

    python recorded_training.py FOLDER '[{"name": "run", "batch_size": 4}, ..]'

For each run, all with the same start, FOLDER/NAME.pt gets a list with, for each update, the rows that all processes
saw, the learning rate, the decay of the average, and weights and averages after it. The option `noise: given` makes
noise and timesteps a function of the row alone, whatever its batch and process.
"""

import json
import sys
from pathlib import Path

import torch
from accelerate.utils import gather

from ddpm_hf import DDPMUNet2DModel
from ddpm_hf.data import ImagesInMemory
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.run_setup import make_accelerator
from ddpm_hf.training.sharding import whole
from ddpm_hf.training.train import make_scheduler
from ddpm_hf.training.trainer import Trainer

# No epoch ends with an update.
ROWS = 45
UNET = {
    **{"sample_size": 8, "in_channels": 1, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4},
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "num_classes": ROWS,
}
OPTIONS = {
    "unet": "fashion_mnist",  # its settings; the network itself is made below
    **{"max_train_steps": 4, "lr_warmup_steps": 2, "lr_scheduler": "cosine", "learning_rate": 1e-3, "ema_power": 0.5},
    # So small that every gradient is scaled down.
    "max_grad_norm": 0.01,
    **{"sample_every": 2, "num_samples": 5, "sample_steps": 2, "checkpoint_every": 0, "log_every": 1},
}


class RecordedTrainer(Trainer):
    def __init__(self, *args):
        super().__init__(*args)
        self.rows, self.record = [], []

    def labels_to_learn(self, batch):
        self.rows.append(batch["labels"])
        return super().labels_to_learn(batch)

    def _finish_update(self):
        lr = self.lr_scheduler.get_last_lr()[0]
        super()._finish_update()
        self.record.append(
            {
                "rows": sorted(gather(torch.cat(self.rows)).tolist()),
                "lr": lr,
                "ema_decay": self.ema.cur_decay_value,
                "weights": [whole(p).detach().clone() for p in self.parameters],
                "averages": [whole(p).clone() for p in self.ema.shadow_params],
            }
        )
        self.rows = []


class RecordedTrainerOfGivenNoise(RecordedTrainer):
    def __init__(self, *args):
        super().__init__(*args)
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(ROWS, 1, 8, 8, generator=generator)
        timesteps = torch.randint(1000, (ROWS,), generator=generator)
        objective = self.objective

        def with_given_noise(model, images, _, rows):
            return objective(model, images, timesteps[rows], rows, noise[rows])

        self.objective = with_given_noise


def train(folder, name, noise="drawn", **options):
    is_given = noise == "given"
    kind = RecordedTrainerOfGivenNoise if is_given else RecordedTrainer
    drawn = {"random_flip": not is_given, "label_dropout": 0.0 if is_given else 0.5}
    args = TrainingArguments(**OPTIONS | drawn | {"output_dir": str(folder / name)} | options)
    accelerator = make_accelerator(args)
    torch.manual_seed(0)
    unet = DDPMUNet2DModel(**UNET, dropout=0.0 if is_given else 0.2)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (ROWS, 1, 8, 8), generator=generator, dtype=torch.uint8)
    data = ImagesInMemory({"images": images, "labels": torch.arange(ROWS)})
    Path(args.output_dir).mkdir(exist_ok=True)
    trainer = kind(args, accelerator, unet, make_scheduler(args), data, args.max_train_steps)
    trainer.fit()
    if accelerator.is_main_process:
        torch.save(trainer.record, folder / f"{name}.pt")
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for run in json.loads(sys.argv[2]):
        train(Path(sys.argv[1]), **run)
