"""Trial updates that measure cost: nothing is written, and the random state of the run stays."""

import copy

import torch
from accelerate.utils import DistributedType

from ddpm_hf.data import to_model_range
from ddpm_hf.errors import InputError
from ddpm_hf.samples import kind_of
from ddpm_hf.samples.condition_values import value_limits_of
from ddpm_hf.training.conditions import taught_condition, told
from ddpm_hf.training.head_only import freeze_all_but_head
from ddpm_hf.training.model_setup import check_set_up, set_up_model
from ddpm_hf.training.optimizers import make_optimizer
from ddpm_hf.training.power_ema import make_ema
from ddpm_hf.training.trainer import objective_of


def example_batch(source, size):
    """Random data in the form of a source's batches: `{"images", "labels"}`."""
    batch = {"images": source.samples.random_data(size)}
    num_labels = source.num_classes if source.captions is None else len(source.captions)
    if num_labels is not None:
        return batch | {"labels": torch.arange(size) % num_labels}
    limits = value_limits_of(source.network_options)
    return batch if limits is None else batch | {"labels": torch.full((size,), limits[0])}


def check_can_be_tried(accelerator, option, advice):
    """Checks that each device of the run holds the whole network, as in a trial.

    Raises:
        InputError: for sharding engines, which a trial in one process cannot represent.
    """
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise InputError(
            f"{option} tries the whole network on each device, which FSDP and DeepSpeed do not have: {advice}."
        )


class Trial:
    """The parts of an update on this device: network, loss, optimizer and average, in the context `autocast`.

    Args:
        args (`TrainingArguments`), accelerator (`accelerate.Accelerator`): give precision and device.
        unet, scheduler: network, which is copied, and scheduler of the run.
    """

    def __init__(self, args, accelerator, unet, scheduler):
        self.args, self.accelerator, self.autocast = args, accelerator, accelerator.autocast
        self.model = copy.deepcopy(unet).to(accelerator.device)
        self.model = freeze_all_but_head(self.model).eval() if args.train_head_only else self.model.train()
        check_set_up(args, self.model)
        set_up_model(self.model, args, accelerator.device)
        self.taught = taught_condition(self.model, args)
        self.objective = objective_of(args, scheduler, unet.config, accelerator.device)
        self.num_train_timesteps = scheduler.config.num_train_timesteps
        self.optimizer = make_optimizer([p for p in self.model.parameters() if p.requires_grad], args)
        self.ema = make_ema(self.model.parameters(), args)

    def loss(self, batch):
        batch = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
        images = to_model_range(batch["images"])
        timesteps = torch.randint(self.num_train_timesteps, (len(images),), device=images.device)
        with self.autocast():
            images = kind_of(self.model.config).drawn(images)
            network, images, labels = told(self.taught, self.model, images, batch.get("labels"))
            return self.objective(network, images, timesteps, labels).mean()

    def update(self, batch):
        """One update, with `batch` in each accumulation step."""
        for _ in range(self.args.gradient_accumulation_steps):
            self.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())
