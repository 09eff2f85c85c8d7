"""Training and sampling of points against a tutorial's plain loop for the same network, in one process.

python benchmarks/point_training.py [--batch_sizes 32 128] [--updates 50] [--steps 20] [--points 5000] [--repeats 9]

Both have the layers of `MLPDenoiser`, T = 1000 and the same betas. The plain loop has a `DataLoader` over a
`TensorDataset`, alphas_cumprod indexed at each step, a new time embedding for every point, Adam with its defaults, and
`loss.item()`. Ours is the full `Trainer` (with clipped gradients, averaged weights, statistics), and also its
objective and optimizer alone, which do no more than the plain loop. Sampling is measured on some of the 1000 steps.
Lower bounds are measured too: the two large matrix products of a step, and the passes through the network.
"""

import argparse
import math
import tempfile
from itertools import chain, islice, repeat

import torch
from accelerate.state import AcceleratorState
from side_by_side import report, time_in_turns
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, MLPDenoiser
from ddpm_hf.data import EndlessBatches, batches, open_points
from ddpm_hf.training.argument_parsing import parse_arguments
from ddpm_hf.training.objectives import make_objective
from ddpm_hf.training.optimizers import make_optimizer
from ddpm_hf.training.run_setup import make_accelerator
from ddpm_hf.training.train import make_scheduler, make_unet
from ddpm_hf.training.trainer import Trainer

STEPS = 1000


class PlainNetwork(nn.Module):
    """The layers of `MLPDenoiser`."""

    def __init__(self):
        super().__init__()
        self.input_block = nn.Sequential(nn.Linear(2, 256), nn.LayerNorm(256), nn.SiLU())
        self.time_block = nn.Sequential(nn.Linear(64, 256), nn.LayerNorm(256), nn.SiLU())
        self.core = nn.Sequential(
            *(nn.Linear(512, 512), nn.LayerNorm(512), nn.SiLU()),
            *(nn.Linear(512, 256), nn.LayerNorm(256), nn.SiLU()),
            nn.Linear(256, 2),
        )

    def forward(self, x, t):
        frequencies = torch.exp(-math.log(10_000) * torch.arange(32) / 32)
        phases = t[:, None].float() * frequencies[None]
        embedding = torch.cat([phases.cos(), phases.sin()], dim=-1)
        return self.core(torch.cat([self.input_block(x), self.time_block(embedding)], dim=1))


def plain_schedule():
    betas = torch.linspace(1e-4, 0.02, STEPS)
    return betas, torch.cumprod(1 - betas, dim=0)


def plain_training(points, batch_size, updates):
    network = PlainNetwork()
    _, alphas_cumprod = plain_schedule()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(points), batch_size=batch_size, shuffle=True)
    epochs = chain.from_iterable(repeat(loader))

    def run():
        for (x0,) in islice(epochs, updates):
            t = torch.randint(0, STEPS, (len(x0),))
            noise = torch.randn_like(x0)
            alpha_bar = alphas_cumprod[t][:, None]
            x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
            loss = nn.functional.mse_loss(network(x_t, t), noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return run


def plain_sampling(count, steps):
    """The first `steps` of the 1000 steps from noise (Ho et al. 2020, algorithm 2)."""
    network = PlainNetwork().eval()
    betas, alphas_cumprod = plain_schedule()

    @torch.no_grad()
    def run():
        x = torch.randn(count, 2)
        for t in reversed(range(STEPS - steps, STEPS)):
            epsilon = network(x, torch.full((count,), t))
            beta, alpha_bar = betas[t], alphas_cumprod[t]
            x = (x - beta / (1 - alpha_bar).sqrt() * epsilon) / (1 - beta).sqrt()
            x = x + beta.sqrt() * torch.randn_like(x)

    return run


def training_setup(batch_size):
    options = {"dataset": "swiss_roll", "unet": "mlp", "batch_size": batch_size, "max_train_steps": 1}
    options |= {"learning_rate": 1e-3, "output_dir": tempfile.mkdtemp(), "log_every": 10**6}
    args = parse_arguments([f"--{name}={value}" for name, value in options.items()])
    source = open_points(args)
    images = source.load()
    return args, make_unet(args, source), make_scheduler(args, **source.scheduler_options), images


def our_training(batch_size, updates):
    """The whole trainer, except for the checkpoint at the end of a run."""
    AcceleratorState._reset_state(reset_partial_state=True)
    args, unet, scheduler, images = training_setup(batch_size)
    trainer = Trainer(args, make_accelerator(args), unet, scheduler, images, updates)
    trainer.checkpoint = lambda: None

    def run():
        trainer.total_steps = trainer.progress.step + updates
        trainer.fit()

    return run


def our_objective(batch_size, updates):
    """Only the data, the objective and the optimizer of the trainer."""
    args, unet, scheduler, images = training_setup(batch_size)
    objective, optimizer = make_objective("simple", scheduler), make_optimizer(unet.parameters(), args)
    loader = iter(batches(images, EndlessBatches(len(images), batch_size, seed=0)))

    def run():
        for batch in islice(loader, updates):
            timesteps = torch.randint(STEPS, (batch_size,))
            objective(unet, batch["images"], timesteps).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def our_sampling(count, steps):
    scheduler = GaussianDiffusionScheduler(clip_sample=False)
    pipeline = GaussianDiffusionPipeline(MLPDenoiser().eval(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    timesteps = list(range(STEPS - 1, STEPS - 1 - steps, -1))
    return lambda: pipeline(count, timesteps=timesteps)


def products_of_sampling(count, steps):
    """Only the two matrix products of a step whose samples share a timestep, without network and sampler."""
    hidden, wide = torch.randn(count, 256), torch.randn(count, 512)
    into_core, through_core = torch.randn(512, 256), torch.randn(256, 512)

    @torch.no_grad()
    def run():
        for _ in range(steps):
            nn.functional.linear(hidden, into_core)
            nn.functional.linear(wide, through_core)

    return run


def passes_of_training(batch_size, updates):
    """Only the forward and the backward pass on one batch, without data, noise and optimizer."""
    network = PlainNetwork()
    x, t, target = torch.randn(batch_size, 2), torch.randint(STEPS, (batch_size,)), torch.randn(batch_size, 2)

    def run():
        for _ in range(updates):
            nn.functional.mse_loss(network(x, t), target).backward()
            network.zero_grad()

    return run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--points", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    points = open_points(parse_arguments(["--preset", "swiss_roll"])).points
    measured = {}
    sampling = {"plain loop": plain_sampling, "ddpm_hf": our_sampling, "matrix products alone": products_of_sampling}
    contenders = {name: make(options.points, options.steps) for name, make in sampling.items()}
    for name, row in time_in_turns(contenders, options.repeats).items():
        measured[f"sampling {options.points} points, {name}"] = per_step(row, options.steps)
    for batch_size in options.batch_sizes:
        contenders = {
            "plain loop": plain_training(points, batch_size, options.updates),
            "ddpm_hf": our_training(batch_size, options.updates),
            "ddpm_hf, objective and optimizer alone": our_objective(batch_size, options.updates),
            "passes through the network alone": passes_of_training(batch_size, options.updates),
        }
        for name, row in time_in_turns(contenders, options.repeats).items():
            measured[f"training with batches of {batch_size}, {name}"] = per_step(row, options.updates)
    report("point_training", measured)


def per_step(row, steps):
    return {"milliseconds_per_step": 1000 * row["seconds"] / steps, "speed_over_plain_loop": 1 / row["ratio"]}


if __name__ == "__main__":
    main()
