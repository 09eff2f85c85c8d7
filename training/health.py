"""Statistics of training for the log, and the handling of updates whose loss or gradient is not finite.

Such an update is skipped: weights and optimizer stay unchanged, bit for bit, on every process. The statistics are
computed on the device; the host reads them only when it logs.
"""

import sys

import torch

from ddpm_hf.errors import InputError
from ddpm_hf.training.sharding import own_part, whole

QUARTILES = 4


def refuse_nonfinite(loss):
    """`loss`, with NaN as its gradient if the loss is not finite.

    A sum of squares can overflow while its gradient is finite. With NaN in the gradient, the sum of the gradients
    informs all processes and all batches of an accumulation.
    """
    return loss * torch.where(loss.isfinite(), 1.0, torch.nan)


class UpdateStatistics:
    """Losses and gradient norms since the last log row, and the number of skipped updates since the beginning.

    Args:
        num_train_timesteps (`int`): T; losses are also averaged per quarter of T, unless T is 1.
        accelerator (`accelerate.Accelerator`): its device holds all sums until they are added over its processes.
        terms (`tuple[str]`): names of further values of a batch, whose means are logged.
    """

    def __init__(self, num_train_timesteps, accelerator, terms=()):
        self.num_train_timesteps, self.accelerator = num_train_timesteps, accelerator
        self.num_quartiles = QUARTILES if num_train_timesteps > 1 else 0
        self.sums = torch.zeros(4 + 2 * self.num_quartiles + 2 * len(terms), device=accelerator.device)
        # Views of the sums: numerator and denominator of each mean.
        self.loss, self.grad_norm = self.sums[:2], self.sums[2:4]
        by_quartile, of_terms = self.sums[4:].view(-1, 2).split([self.num_quartiles, len(terms)])
        self.loss_by_quartile, self.terms = by_quartile, dict(zip(terms, of_terms, strict=True))
        # Skipped updates in all, and in a row up to now.
        self.skipped = torch.zeros(2, dtype=torch.int64, device=accelerator.device)

    @torch.no_grad()
    def add_losses(self, loss, timesteps, weights, losses):
        """Adds the losses of one batch: their weighted mean, and timesteps, weights and losses per image, (B,)."""
        self.loss += _value_and_count(loss)
        # Normalized weights 1 / (T p_t) give the mean over the timesteps of a quartile, however often each was drawn.
        finite = losses.isfinite()
        weights = weights * finite
        rows = torch.stack([weights * torch.where(finite, losses, 0), weights], dim=1)
        quartiles = timesteps * self.num_quartiles // self.num_train_timesteps
        is_in = quartiles == torch.arange(self.num_quartiles, device=quartiles.device).unsqueeze(1)
        self.loss_by_quartile += (is_in.unsqueeze(2) * rows).sum(1)

    @torch.no_grad()
    def add_terms(self, values):
        """Adds values of one batch by their names, each (); a batch need not have all of them."""
        for name, value in values.items():
            self.terms[name] += _value_and_count(value)

    @torch.no_grad()
    def add_update(self, grad_norm):
        """Adds the gradient norm of an update before clipping; returns whether to skip the update, bool, ()."""
        norm = whole(grad_norm)
        is_skipped = ~norm.isfinite()
        self.grad_norm += _value_and_count(norm)
        self.skipped += is_skipped
        self.skipped[1] *= is_skipped
        return is_skipped

    def means(self):
        """Means over the interval and all processes, by name in the log; NaN without a finite value.

        Every process must call this.
        """
        sums = self.accelerator.reduce(self.sums, "sum").tolist()
        loss, norm, *others = (_ratio(*sums[i : i + 2]) for i in range(0, len(sums), 2))
        names = [*(f"loss_quartile_{number}" for number in range(1, self.num_quartiles + 1)), *self.terms]
        return {"loss": loss, "grad_norm": norm, **dict(zip(names, others, strict=True))}

    def begin_interval(self):
        self.sums.zero_()

    def end_row(self):
        self.skipped[1] = 0

    def num_skipped(self):
        """The number of skipped updates in all, and in a row up to now."""
        return self.skipped.tolist()

    def state_dict(self):
        """The state of all processes, which must all call this; one of them saves it."""
        return {"sums": self.accelerator.gather(self.sums[None]), "skipped": self.skipped}

    def load_state_dict(self, state):
        sums, processes = state["sums"], self.accelerator.num_processes
        # With another number of processes, each gets an equal part of the sum.
        own = sums[self.accelerator.process_index] if len(sums) == processes else sums.sum(0) / processes
        self.sums.copy_(own)
        self.skipped.copy_(state["skipped"])


def check_weights(weights, when):
    """Checks that all trained or averaged weights are finite; for sharded weights, this process's part.

    Args:
        weights: tensors.
        when (`str`): the moment of the check, for the message.

    Raises:
        InputError: if one is not finite, so that no model is written from it.
    """
    finite = torch.stack([own_part(weight).isfinite().all() for weight in weights])
    if not finite.all():
        raise InputError(
            f"{(~finite).sum()} of {len(finite)} weights and averages are not finite {when}, so they are not saved: "
            "begin anew, in a new output_dir, with a smaller --learning_rate or a longer --lr_warmup_steps, from data "
            "and --init_from whose values are finite."
        )


def _value_and_count(value):
    """(value, 1), or (0, 0) if the value is not finite."""
    finite = value.isfinite()
    return torch.stack([torch.where(finite, value, 0), finite.to(value.dtype)])


def _ratio(numerator, denominator):
    return numerator / denominator if denominator else float("nan")


def peak_memory_gb(device):
    """Peak memory of tensors on the device, or of this process on the host, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**30
    import resource  # does not exist on Windows

    bytes_of_unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_of_unit / 2**30


def describe_divergence(args, step, skipped, skipped_in_a_row, kept_step):
    """Why a run was stopped after `step`, and what to try; `kept_step` is the step of its newest checkpoint."""
    other_precision = {
        "fp16": "--mixed_precision bf16, whose range is that of float32",
        "bf16": "--mixed_precision no",
        "no": "--max_grad_norm below the grad_norm in loss.csv",
    }[args.mixed_precision]
    return (
        f"The training was stopped after update {step}: loss or gradient were not finite in the last "
        f"{skipped_in_a_row} updates, from {step - skipped_in_a_row + 1} on ({skipped} of all). They were skipped, "
        f"and the checkpoint of step {kept_step} in {args.output_dir!r} has the weights from before them. The same "
        "command goes on from there; if it ends here again, try in a new output_dir a learning_rate below "
        f"{args.learning_rate:g}, a longer --lr_warmup_steps, or {other_precision}."
    )
