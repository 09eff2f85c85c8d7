"""The common training loop: batches, updates, the log and checkpoints."""

import math
import time
from collections.abc import Callable
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers.optimization import get_scheduler
from tqdm.auto import tqdm

from ddpm_hf.data import (
    BucketedBatches,
    BucketedData,
    EndlessBatches,
    ImageStream,
    batches,
    count_images,
    decoding_workers,
    keep_in_checkpoints,
    loading_workers,
    to_model_range,
)
from ddpm_hf.distributed import leave_processes, together
from ddpm_hf.errors import InputError
from ddpm_hf.interruptions import Interrupted, StopRequest
from ddpm_hf.reports import loss_curve
from ddpm_hf.training.batch_seeds import seed_batch
from ddpm_hf.training.checkpoints import load_newest_checkpoint, remove_old_checkpoints, save_checkpoint
from ddpm_hf.training.conditions import Told
from ddpm_hf.training.engine_state import read_engine_state
from ddpm_hf.training.health import (
    UpdateStatistics,
    check_weights,
    describe_divergence,
    peak_memory_gb,
    refuse_nonfinite,
)
from ddpm_hf.training.model_setup import set_up_model
from ddpm_hf.training.optimizers import make_optimizer, step_or_skip
from ddpm_hf.training.own_state import read_own_state
from ddpm_hf.training.power_ema import make_ema, save_snapshots
from ddpm_hf.training.resuming import (
    check_same_training,
    describe_training,
    save_without_wrappers,
)
from ddpm_hf.training.run_folder import how_to_continue
from ddpm_hf.training.sharding import SavedWhole, is_sharded, whole
from ddpm_hf.training.timestep_samplers import make_timestep_sampler


class Progress:
    """The progress of a run: the number of updates done."""

    def __init__(self):
        self.step = 0

    def state_dict(self):
        return {"step": self.step}

    def load_state_dict(self, state):
        self.step = state["step"]


class Task(NamedTuple):
    """The learning task of a network.

    objective: `objective(model, images, timesteps, labels)` gives a loss for each image, (B,); num_train_timesteps: T,
    which the timesteps are below; terms: the names of further values that are logged.
    """

    objective: Callable
    num_train_timesteps: int
    terms: tuple[str, ...] = ()


class TrainingLoop:
    """Trains `model` with `objective` on images at random timesteps; the result is the averaged weights.

    Args:
        args (`RunArguments`): the options, with counts in optimizer updates.
        accelerator (`accelerate.Accelerator`): devices, processes, precision, accumulation, trackers.
        model (`torch.nn.Module`): as it is before training; the weights that ask for gradients are trained.
        task ([`Task`]): what the model is to learn.
        images: a data set of `ddpm_hf.data`.
        total_steps (`int`): updates to train for.
    """

    # The tables from which a resumed run drops the rows after its checkpoint.
    logs = (loss_curve.LOSS_FILE,)

    def __init__(self, args, accelerator, model, task, images, total_steps):
        self.args, self.accelerator, self.objective = args, accelerator, task.objective
        self.images, self.total_steps = images, total_steps
        self.folder = Path(args.output_dir)
        self.timestep_sampler = make_timestep_sampler(
            args.timestep_sampling, task.num_train_timesteps, accelerator, args.seed
        )
        set_up_model(model, args, accelerator.device)
        self._make_network = lambda: type(model).from_config(model.config)
        optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad], args)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.parameters = list(self.model.parameters())
        # Not prepared, because accelerate would step it once per process, which suits batches and not updates.
        self.lr_scheduler = get_scheduler(
            args.lr_scheduler, optimizer, num_warmup_steps=args.lr_warmup_steps, num_training_steps=total_steps
        )
        self.ema = make_ema(self.parameters, args)
        self.progress = Progress()
        self.statistics = UpdateStatistics(task.num_train_timesteps, accelerator, task.terms)
        self.saved_step = None
        self.stop = StopRequest(accelerator.num_processes)
        save_without_wrappers(accelerator)
        average, statistics = (SavedWhole(part, accelerator.is_main_process) for part in (self.ema, self.statistics))
        self.saved_whole = average, statistics
        # Earlier versions numbered their files in this order.
        self.own_parts = {
            "lr_scheduler": self.lr_scheduler,
            "average": average,
            "progress": self.progress,
            "timestep_sampler": self.timestep_sampler,
            "statistics": statistics,
        }
        if isinstance(images, ImageStream):
            keep_in_checkpoints(images, accelerator)

    def resume(self):
        """Continues from the newest undamaged checkpoint, if there is one."""
        now = describe_training(self.accelerator, self.model, count_images(self.images))
        before = load_newest_checkpoint(
            self.accelerator,
            self.folder,
            check=lambda manifest: check_same_training(manifest, now, str(self.folder)),
            restore=self._restore,
        )
        if before is not None:
            self.ema.to(self.accelerator.device)
            self.saved_step = self.progress.step
            # The saved batch count assumes the old accumulation; recompute it.
            self.accelerator.step = self.progress.step * self.args.gradient_accumulation_steps
            if before["num_processes"] != now["num_processes"]:
                self.accelerator.print(
                    f"Continues on {now['num_processes']} processes what {before['num_processes']} began: the images "
                    "of each update stay the same, and so does the noise if batch_size does."
                )
        # Without a checkpoint, all earlier log rows are dropped.
        if self.accelerator.is_main_process:
            for log in self.logs:
                loss_curve.drop_rows_after(self.folder / log, self.progress.step)

    def _restore(self, folder):
        if isinstance(self.images, ImageStream):
            together(self.accelerator, lambda: self.images.load_position(folder))
        read_engine_state(self.accelerator, self.model, self.optimizer, folder)
        read_own_state(self.own_parts, folder)

    def fit(self):
        """Trains to the last update. The host waits for the device only to log, sample or save.

        Raises:
            Interrupted: if a signal asked to stop, between two updates and after a checkpoint.
            InputError: after `max_nonfinite_steps` updates in a row whose loss or gradient was not finite.
        """
        self.interval_start, self.interval_images = time.perf_counter(), 0
        remaining = (self.total_steps - self.progress.step) * self.args.gradient_accumulation_steps
        with self.stop.listening(), self._progress_bar() as self.bar:
            if self.progress.step:
                # A checkpoint is written before the other work that is due after its update.
                self._do_what_is_due()
            for place, batch in self._numbered(islice(self._loader(), remaining)):
                self.learn(batch, place)
                if self.accelerator.sync_gradients:
                    self._finish_update()
                    self.stop_if_asked()  # before work that may take long
                    self._do_what_is_due()

    def _do_what_is_due(self):
        """Does the work due after an update, and again when a run continues from its checkpoint."""
        if self.is_logged():
            self._stop_if_diverged()
        # Comes first, so that a failure in the rest loses no update.
        if self.is_last() or self._is_to_be_saved():
            self.checkpoint()
        if self.args.ema == "power" and (self.is_last() or self.is_due(self.args.ema_snapshot_every)):
            self._save_snapshots()
        if not self.is_last():
            self.between_updates()

    def _is_to_be_saved(self):
        # While updates are being skipped, the last checkpoint stays the one from before them.
        return self.is_due(self.args.checkpoint_every) and not self.statistics.num_skipped()[1]

    def stop_if_asked(self):
        """Saves and raises `Interrupted` if any process was sent a signal to stop; every process must call this."""
        signum = self.stop.agreed()
        if signum:
            self.checkpoint()
            leave_processes(self.accelerator)
            raise Interrupted(signum, how_to_continue(signum, self.folder, self.total_steps))

    def _progress_bar(self):
        return tqdm(
            total=self.total_steps,
            initial=self.progress.step,
            unit="update",
            disable=not self.accelerator.is_main_process,
        )

    def _loader(self):
        pin_memory, wanted = self.accelerator.device.type == "cuda", self.args.dataloader_workers
        if isinstance(self.images, ImageStream):
            return self.images.batches(self.args.batch_size, decoding_workers(wanted, math.inf), pin_memory)
        return batches(self.images, self._order(), loading_workers(self.images, wanted), pin_memory)

    def _order(self):
        """The rows of each batch of this process, from the updates that were made."""
        rank = self.accelerator.process_index, self.accelerator.num_processes
        batch_size, seed, per_update = self.args.batch_size, self.args.seed, self.args.gradient_accumulation_steps
        if isinstance(self.images, BucketedData):
            lengths = [len(part) for part in self.images.parts]
            return BucketedBatches(lengths, batch_size, per_update, seed, self.progress.step, rank)
        return EndlessBatches(len(self.images), batch_size, seed, self.progress.step * per_update, *rank)

    def _numbered(self, own_batches):
        """Batches with their positions in the data sequence that all processes share."""
        first = self.progress.step * self.args.gradient_accumulation_steps
        for number, batch in enumerate(own_batches, first):
            yield number * self.accelerator.num_processes + self.accelerator.process_index, batch

    def learn(self, batch, place):
        """Computes loss and gradients of one batch, and updates the weights after the last batch of an accumulation.

        Nothing here waits for the device. `place` is the batch's position in the data sequence.
        """
        seed_batch(self.args.seed, place)
        batch = {name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        images = to_model_range(batch["images"], self.args.random_flip)
        told = self.told(images, self.labels_to_learn(batch))
        timesteps, weights = self.timestep_sampler.sample(len(images), place)
        with self.accelerator.accumulate(self.model):
            losses = self.objective(told.network, told.images, timesteps, told.labels)
            loss = (weights * losses).mean()
            self.accelerator.backward(refuse_nonfinite(loss))
            if self.accelerator.sync_gradients:
                step_or_skip(self.optimizer, self.statistics.add_update(self._clip_gradients()))
            self.optimizer.zero_grad()
        self.timestep_sampler.update(timesteps, losses)
        self.statistics.add_losses(loss, timesteps, weights, losses)
        self.interval_images += len(images) * self.accelerator.num_processes

    def _clip_gradients(self):
        """Clips the gradients of the update to the maximum norm; returns their norm before, ()."""
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.args.max_grad_norm)
        # DeepSpeed's norm is a number.
        return norm if isinstance(norm, torch.Tensor) else torch.tensor(norm, device=self.accelerator.device)

    def told(self, images, labels):
        """What the objective takes of a batch: [`conditions.Told`]."""
        return Told(self.model, images, labels)

    def labels_to_learn(self, batch):
        """The labels for the objective, (B,), or None."""
        return batch.get("labels")

    def _finish_update(self):
        self.progress.step += 1
        # All depend on the number of updates, and a skipped update counts.
        self.ema.step(self.parameters)
        if self.is_logged():
            self._log()
        self.lr_scheduler.step()
        self.bar.update()

    def between_updates(self):
        """Further work after an update that is saved and is not the last."""

    def _save_snapshots(self):
        with self.clock_stopped():
            names = [name for name, _ in self.accelerator.unwrap_model(self.model).named_parameters()]
            save_snapshots(self.ema, names, self.folder, self.accelerator.is_main_process)

    def is_last(self):
        return self.progress.step == self.total_steps

    def is_logged(self):
        return self.is_last() or self.is_due(self.args.log_every)

    def is_due(self, every):
        return every > 0 and self.progress.step % every == 0

    def _log(self):
        speed = self.interval_images / (time.perf_counter() - self.interval_start)
        row = {
            **self.statistics.means(),
            "lr": self.lr_scheduler.get_last_lr()[0],
            "images_per_second": float(f"{speed:.4g}"),
            "ema_decay": self.ema.cur_decay_value,
            "skipped_updates": self.statistics.num_skipped()[0],
            "peak_memory_gb": round(peak_memory_gb(self.accelerator.device), 3),
        }
        self.statistics.begin_interval()
        self.interval_start, self.interval_images = time.perf_counter(), 0
        self.bar.set_postfix(loss=f"{row['loss']:.4f}", lr=f"{row['lr']:.1e}", images_per_s=f"{speed:.3g}")
        self.accelerator.log(row, step=self.progress.step)
        if self.accelerator.is_main_process:
            loss_curve.append_row(self.folder / loss_curve.LOSS_FILE, {"step": self.progress.step, **row})

    def _stop_if_diverged(self):
        """Raises `InputError` after too many skipped updates in a row; the checkpoint from before them stays."""
        skipped, in_a_row = self.statistics.num_skipped()
        if in_a_row < min(self.args.max_nonfinite_steps, self.total_steps):
            return
        step = self.progress.step
        if self.saved_step is None or self.saved_step < step - in_a_row:
            self.statistics.end_row()  # a continued run starts its count again
            # Keep older checkpoints: divergence may predate the first skipped step.
            self.checkpoint(self.args.checkpoints_limit + 1)
        leave_processes(self.accelerator)
        raise InputError(describe_divergence(self.args, step, skipped, in_a_row, self.saved_step))

    @contextmanager
    def clock_stopped(self):
        """A context whose time does not count in images per second."""
        stopped = time.perf_counter()
        yield
        self.interval_start += time.perf_counter() - stopped

    @contextmanager
    def averaged_model(self):
        """A context with the whole model with averaged weights, in every process; every process must call this.

        Afterwards the trained weights are restored bit by bit. With a sharding engine the model is a copy.
        """
        if is_sharded(self.parameters):
            yield self._gathered_average()
            return
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        try:
            yield self.accelerator.unwrap_model(self.model)
        finally:
            self.ema.restore(self.parameters)

    def _gathered_average(self):
        network = self._make_network().to(self.accelerator.device)
        for parameter, average in zip(network.parameters(), self.ema.shadow_params, strict=True):
            parameter.data.copy_(whole(average))
        for buffer, trained in zip(network.buffers(), self.model.buffers(), strict=True):
            buffer.copy_(trained)
        return network

    def checkpoint(self, limit=None):
        """Saves everything, unless this step is already saved, as each step has one state.

        `limit` is the number of checkpoints kept, by default `checkpoints_limit`.
        """
        with self.clock_stopped():
            if self.accelerator.is_main_process:
                for log in self.logs:
                    loss_curve.flush(self.folder / log)
            step, limit = self.progress.step, limit or self.args.checkpoints_limit
            about = describe_training(self.accelerator, self.model, count_images(self.images))
            if step != self.saved_step:
                weights = [*self.parameters, *self.ema.shadow_params]
                together(self.accelerator, lambda: check_weights(weights, f"after update {step}"))
                for part in self.saved_whole:
                    part.gather()
                save_checkpoint(self.accelerator, self.folder, self.own_parts, step, limit, about)
                self.saved_step = step
            elif self.is_last() and self.accelerator.is_main_process:
                # A run killed after its last save did not get here.
                remove_old_checkpoints(self.folder, limit)
