"""Samplers of the timesteps at which the images of a batch are trained.

`sample(batch_size, place)` gives timesteps t, int64, and weights w, float32, both (B,) and on the device. The mean of
w * loss(t) is an unbiased estimate of the mean loss over all T timesteps. `place` is the number of the batch, counted
over the batches of all processes and accumulation steps. `update(timesteps, losses)` records the losses. The state of
a sampler is saved in checkpoints.
"""

import torch

from ddpm_hf.evaluation.seeded_noise import mixed_seed


def make_timestep_sampler(name, num_train_timesteps, accelerator, seed):
    """The sampler called `name`, one of `choices.TIMESTEP_SAMPLINGS`."""
    if name == "uniform":
        return UniformTimesteps(num_train_timesteps, accelerator.device)
    if name == "low_discrepancy":
        batches_per_update = accelerator.gradient_accumulation_steps * accelerator.num_processes
        return LowDiscrepancyTimesteps(num_train_timesteps, accelerator.device, seed, batches_per_update)
    return ImportanceTimesteps(num_train_timesteps, accelerator.device, accelerator.gather)


class UniformTimesteps:
    """Independent, uniform timesteps, as in DDPM (Ho et al. 2020, algorithm 1)."""

    def __init__(self, num_train_timesteps, device):
        self.num_train_timesteps, self.device = num_train_timesteps, device

    def sample(self, batch_size, place):
        timesteps = torch.randint(self.num_train_timesteps, (batch_size,), device=self.device)
        return timesteps, torch.ones(batch_size, device=self.device)

    def update(self, timesteps, losses):
        """Does nothing, because uniform timesteps do not depend on losses."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        """Does nothing, because there is no state."""


class LowDiscrepancyTimesteps(UniformTimesteps):
    """One uniform offset for an update: t_i = floor(T ((i / N + u) mod 1)), which covers all of time evenly.

    It follows Variational Diffusion Models (Kingma et al. 2021), with N images per update. Each timestep is uniform,
    and every interval of T / N timesteps, if that is whole, is hit once. Batch number b of the update takes the i with
    remainder b, so that each batch is spread too, in random order.
    """

    def __init__(self, num_train_timesteps, device, seed, batches_per_update=1):
        super().__init__(num_train_timesteps, device)
        self.seed, self.batches_per_update = seed, batches_per_update

    def sample(self, batch_size, place):
        steps, images = self.num_train_timesteps, batch_size * self.batches_per_update
        update, batch = divmod(place, self.batches_per_update)
        # Drawn on the host, so that all batches of an update share the offset without waiting for the device.
        offsets = torch.Generator().manual_seed(mixed_seed(self.seed, update))
        offset = torch.randint(steps * images, (), generator=offsets).item()
        points = torch.randperm(batch_size, device=self.device) * self.batches_per_update + batch
        return shifted_grid(points, offset, steps, images), torch.ones(batch_size, device=self.device)


def shifted_grid(points, offset, steps, images):
    """floor(T ((i / N + u) mod 1)) for the points i, with u = offset / (T N); integer arithmetic avoids rounding."""
    return (points * steps + offset) % (steps * images) // images


class ImportanceTimesteps(UniformTimesteps):
    """Timesteps with probability p_t ~ sqrt(E[L_t^2]) and weights 1 / (T p_t) (Nichol & Dhariwal 2021, eq. 18).

    The expectation is over the last `history_size` losses of t in all processes; until every timestep has that many, p
    is uniform. As in the paper's code, a share of `uniform_share` is always drawn uniformly, which bounds the weights.

    Args:
        gather: concatenates the tensors of all processes in the same order in each, such as `accelerator.gather`.
    """

    def __init__(self, num_train_timesteps, device, gather, history_size=10, uniform_share=0.001):
        super().__init__(num_train_timesteps, device)
        self.gather, self.history_size, self.uniform_share = gather, history_size, uniform_share
        self.history = torch.zeros(num_train_timesteps, history_size, device=device)
        self.counts = torch.zeros(num_train_timesteps, dtype=torch.int64, device=device)

    def probabilities(self):
        """p_t, (T,)."""
        root_mean_square = self.history.square().mean(1).sqrt()
        learned = root_mean_square / root_mean_square.sum()
        learned = (1 - self.uniform_share) * learned + self.uniform_share / self.num_train_timesteps
        uniform = torch.full_like(learned, 1 / self.num_train_timesteps)
        return torch.where((self.counts >= self.history_size).all(), learned, uniform)

    def sample(self, batch_size, place):
        p = self.probabilities()
        timesteps = torch.multinomial(p, batch_size, replacement=True)
        return timesteps, 1 / (self.num_train_timesteps * p[timesteps])

    def update(self, timesteps, losses):
        timesteps, losses = self.gather((timesteps, losses.detach()))
        order = timesteps.argsort(stable=True)
        timesteps, losses = timesteps[order], losses[order]
        # The losses of one timestep are now in `first` .. `end` - 1.
        first, end = (torch.searchsorted(timesteps, timesteps, right=right) for right in (False, True))
        position = torch.arange(len(timesteps), device=self.device)
        slots = (self.counts[timesteps] + position - first) % self.history_size
        # If a batch has more losses of a timestep than slots, all losses of a slot write the last of them, so that the
        # order of a GPU's writes does not matter.
        newest = position + (end - 1 - position) // self.history_size * self.history_size
        losses = losses[newest].to(self.history.dtype)
        # Non-finite losses would make the probabilities invalid.
        self.history[timesteps, slots] = torch.where(losses.isfinite(), losses, self.history[timesteps, slots])
        self.counts.index_add_(0, timesteps, torch.ones_like(timesteps))

    def state_dict(self):
        return {"history": self.history, "counts": self.counts}

    def load_state_dict(self, state):
        self.history.copy_(state["history"])
        self.counts.copy_(state["counts"])
