"""The loop of every training: batches in, updates out, and on the way a log and checkpoints."""

import time
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from tqdm.auto import tqdm

from ddpm_hf.training import loss_curve
from ddpm_hf.training.checkpoints import load_newest_checkpoint, save_checkpoint
from ddpm_hf.training.data import EndlessBatches, batches, to_model_range
from ddpm_hf.training.timestep_samplers import make_timestep_sampler


class Progress:
    """Where a run stands: updates done, and the loss since the last line of the log."""

    def __init__(self, device):
        self.step = 0
        self.loss_sum = torch.zeros((), device=device)
        self.num_losses = 0

    def state_dict(self):
        return {"step": self.step, "loss_sum": self.loss_sum, "num_losses": self.num_losses}

    def load_state_dict(self, state):
        self.step, self.num_losses = state["step"], state["num_losses"]
        self.loss_sum.copy_(state["loss_sum"])


class TrainingLoop:
    """Trains `model` by `objective` on images at random timesteps; the averaged weights are the result.

    Args:
        args (`RunArguments`): the options; its counts are in optimizer updates.
        accelerator (`accelerate.Accelerator`): devices, processes, precision, accumulation, trackers.
        model (`torch.nn.Module`): as it is before training; the weights that ask for gradients are trained.
        objective: `objective(model, images, timesteps, labels)` gives a loss for each image, (B,).
        num_train_timesteps (`int`): T.
        images: a data set of `ddpm_hf.training.data`.
        total_steps (`int`): updates to train for.
        workers (`int`): processes that prepare batches.
    """

    def __init__(self, args, accelerator, model, objective, num_train_timesteps, images, total_steps, workers=0):
        self.args, self.accelerator, self.objective = args, accelerator, objective
        self.images, self.total_steps, self.workers = images, total_steps, workers
        self.folder = Path(args.output_dir)
        self.timestep_sampler = make_timestep_sampler(
            args.timestep_sampling, num_train_timesteps, accelerator, args.seed
        )
        optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad], args)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.parameters = list(self.model.parameters())
        # Not prepared: accelerate steps a prepared schedule once for each process, which is right for counts of
        # batches, not of updates.
        self.lr_scheduler = get_scheduler(
            args.lr_scheduler, optimizer, num_warmup_steps=args.lr_warmup_steps, num_training_steps=total_steps
        )
        self.ema = EMAModel(
            self.parameters,
            decay=args.ema_decay,
            use_ema_warmup=True,
            inv_gamma=args.ema_inv_gamma,
            power=args.ema_power,
            foreach=True,
        )
        self.progress = Progress(accelerator.device)
        accelerator.register_for_checkpointing(self.lr_scheduler, self.ema, self.progress, self.timestep_sampler)

    def resume(self):
        """Continues from the newest checkpoint, if there is one."""
        if load_newest_checkpoint(self.accelerator, self.folder):
            self.ema.to(self.accelerator.device)
            if self.accelerator.is_main_process:
                loss_curve.drop_rows_after(self.folder / "loss.csv", self.progress.step)

    def fit(self):
        """Trains to the last update. No line of this waits for the device, unless it logs, samples or saves."""
        self.interval_start, self.interval_images = time.perf_counter(), 0
        remaining = (self.total_steps - self.progress.step) * self.args.gradient_accumulation_steps
        with self._progress_bar() as self.bar:
            for batch in islice(self._loader(), remaining):
                self._learn(batch)
                if self.accelerator.sync_gradients:
                    self._finish_update()

    def _progress_bar(self):
        return tqdm(
            total=self.total_steps,
            initial=self.progress.step,
            unit="update",
            disable=not self.accelerator.is_main_process,
        )

    def _loader(self):
        sampler = EndlessBatches(
            len(self.images),
            self.args.batch_size,
            self.args.seed,
            first_batch=self.progress.step * self.args.gradient_accumulation_steps,
            process_index=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
        )
        pin_memory = self.accelerator.device.type == "cuda"
        return batches(self.images, sampler, self.workers, pin_memory)

    def _learn(self, batch):
        """Loss and gradients of one batch, and with the last one of an accumulation the update of the weights."""
        batch = {name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        images = to_model_range(batch["images"], self.args.random_flip)
        labels = self.labels_to_learn(batch)
        timesteps, weights = self.timestep_sampler.sample(len(images))
        with self.accelerator.accumulate(self.model):
            losses = self.objective(self.model, images, timesteps, labels)
            loss = (weights * losses).mean()
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.parameters, self.args.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.timestep_sampler.update(timesteps, losses)
        self.progress.loss_sum += loss.detach()
        self.progress.num_losses += 1
        self.interval_images += len(images) * self.accelerator.num_processes

    def labels_to_learn(self, batch):
        """Those that the objective gets, (B,), or None."""
        return batch.get("labels")

    def _finish_update(self):
        self.progress.step += 1
        is_last = self.progress.step == self.total_steps
        if is_last or self.is_due(self.args.log_every):
            self._log()
        # An update that fp16 skipped for an overflow used its data, so it counts as a step, but it changed nothing.
        if not self.optimizer.step_was_skipped:
            self.lr_scheduler.step()
            self.ema.step(self.parameters)
        self.bar.update()
        if not is_last:
            self.between_updates()

    def between_updates(self):
        """What is due after an update that is not the last."""
        if self.is_due(self.args.checkpoint_every):
            self.checkpoint()

    def is_due(self, every):
        return every > 0 and self.progress.step % every == 0

    def _log(self):
        loss = self.accelerator.reduce(self.progress.loss_sum, "mean").item() / self.progress.num_losses
        self.progress.loss_sum.zero_()
        self.progress.num_losses = 0
        speed = self.interval_images / (time.perf_counter() - self.interval_start)
        self.interval_start, self.interval_images = time.perf_counter(), 0
        row = {"loss": loss, "lr": self.lr_scheduler.get_last_lr()[0], "images_per_second": round(speed, 1)}
        self.bar.set_postfix(loss=f"{loss:.4f}", lr=f"{row['lr']:.1e}", images_per_s=f"{speed:.0f}")
        self.accelerator.log(row, step=self.progress.step)
        if self.accelerator.is_main_process:
            loss_curve.append_row(self.folder / "loss.csv", {"step": self.progress.step, **row})

    @contextmanager
    def clock_stopped(self):
        """What is not training does not count in images per second."""
        stopped = time.perf_counter()
        yield
        self.interval_start += time.perf_counter() - stopped

    @contextmanager
    def averaged_model(self):
        """The model with the averaged weights; afterwards the trained ones are back, bit by bit."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        try:
            yield self.accelerator.unwrap_model(self.model)
        finally:
            self.ema.restore(self.parameters)

    def checkpoint(self):
        with self.clock_stopped():
            # The log of several processes is an average, and only one of them is saved.
            self.progress.loss_sum.copy_(self.accelerator.reduce(self.progress.loss_sum, "mean"))
            save_checkpoint(self.accelerator, self.folder, self.progress.step, self.args.checkpoints_limit)


def make_optimizer(parameters, args):
    return torch.optim.AdamW(
        parameters,
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        weight_decay=args.adam_weight_decay,
        eps=args.adam_epsilon,
        fused=True,
    )
