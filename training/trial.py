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
        args (`RunArguments`), accelerator (`accelerate.Accelerator`): give precision and device.
        model: the network, which the trial changes: its memory layout, and with each update its weights.
        loss: `loss(model, images, labels)`, the mean loss of images in [-1, 1] and their labels, or None.
    """

    def __init__(self, args, accelerator, model, loss):
        self.args, self.accelerator, self.autocast = args, accelerator, accelerator.autocast
        self.model, self.loss_of = model, loss
        check_set_up(args, self.model)
        set_up_model(self.model, args, accelerator.device)
        self.optimizer = make_optimizer([p for p in self.model.parameters() if p.requires_grad], args)
        self.ema = make_ema(self.model.parameters(), args)

    def loss(self, batch):
        batch = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
        images = to_model_range(batch["images"])
        with self.autocast():
            return self.loss_of(self.model, images, batch.get("labels"))

    def update(self, batch):
        """One update, with `batch` in each accumulation step."""
        for _ in range(self.args.gradient_accumulation_steps):
            self.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())


def trial_of_diffusion(args, accelerator, unet, scheduler):
    """The [`Trial`] of a copy of a diffusion model's network.

    Args:
        args (`TrainingArguments`), accelerator: as in [`Trial`].
        unet, scheduler: network and scheduler of the run.
    """
    model = copy.deepcopy(unet).to(accelerator.device)
    model = freeze_all_but_head(model).eval() if args.train_head_only else model.train()
    taught = taught_condition(model, args)
    objective = objective_of(args, scheduler, unet.config, accelerator.device)

    def loss(model, images, labels):
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (len(images),), device=images.device)
        images = kind_of(model.config).drawn(images)
        network, images, labels = told(taught, model, images, labels)
        return objective(network, images, timesteps, labels).mean()

    return Trial(args, accelerator, model, loss)


def trial_of_task(args, accelerator, network, task):
    """The [`Trial`] of a copy of a network that is to learn a [`Task`]; arguments as in [`Trial`]."""

    def loss(model, images, labels):
        timesteps = torch.randint(task.num_train_timesteps, (len(images),), device=images.device)
        return task.objective(model, images, timesteps, labels).mean()

    return Trial(args, accelerator, copy.deepcopy(network).to(accelerator.device).train(), loss)
