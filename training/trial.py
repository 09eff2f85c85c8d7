"""A few updates apart from the run, to know what they take: nothing is written, and the run's random state stays."""

import copy

import torch
from accelerate.utils import DistributedType

from ddpm_hf.data import to_model_range
from ddpm_hf.errors import InputError
from ddpm_hf.training.head_only import freeze_all_but_head
from ddpm_hf.training.model_setup import check_set_up, set_up_model
from ddpm_hf.training.optimizers import make_optimizer
from ddpm_hf.training.power_ema import make_ema
from ddpm_hf.training.trainer import objective_of


def example_batch(source, size):
    """Random data in the form of a data source's: `{"images", "labels"}`."""
    labels = {} if source.num_classes is None else {"labels": torch.arange(size) % source.num_classes}
    return {"images": source.samples.random_data(size)} | labels


def check_can_be_tried(accelerator, option, advice):
    """Passes where the run will have the whole network on each device, as a trial has.

    Raises:
        InputError: for engines that shard it, of which a trial in one process knows nothing.
    """
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise InputError(
            f"{option} tries the whole network on each device, which FSDP and DeepSpeed do not have: {advice}."
        )


class Trial:
    """Everything that an update needs on this device, and nothing else: network, loss, optimizer and average.

    Args:
        args (`TrainingArguments`), accelerator (`accelerate.Accelerator`): of the run, for precision and device.
        unet, scheduler: of the run; the network is copied.
    """

    def __init__(self, args, accelerator, unet, scheduler):
        self.args, self.accelerator = args, accelerator
        self.model = copy.deepcopy(unet).to(accelerator.device)
        self.model = freeze_all_but_head(self.model).eval() if args.train_head_only else self.model.train()
        check_set_up(args, self.model, accelerator.device)
        set_up_model(self.model, args, accelerator.device)
        self.objective = objective_of(args, scheduler, accelerator.device)
        self.num_train_timesteps = scheduler.config.num_train_timesteps
        self.optimizer = make_optimizer([p for p in self.model.parameters() if p.requires_grad], args)
        self.ema = make_ema(self.model.parameters(), args)

    def loss(self, batch):
        batch = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
        images = to_model_range(batch["images"])
        timesteps = torch.randint(self.num_train_timesteps, (len(images),), device=images.device)
        with self.accelerator.autocast():
            return self.objective(self.model, images, timesteps, batch.get("labels")).mean()

    def update(self, batch):
        """An update by one batch for each accumulation step."""
        for _ in range(self.args.gradient_accumulation_steps):
            self.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())
