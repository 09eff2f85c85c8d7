"""Seeds for batches, given by the seed of the run and the batch's position in the data.

The batches of all processes and accumulation steps have positions in one sequence. Each batch gets its own seed, so
its noise, timesteps, mirroring, dropped labels and dropout do not depend on the process. Two processes draw the same
as one process with two accumulation steps, and a run can continue with another number of processes.
"""

import torch

from ddpm_hf.evaluation.seeded_noise import mixed_seed


def seed_batch(seed, place):
    """Seeds the generators of the host and the accelerator for batch number `place`, counted over all processes."""
    number = mixed_seed(seed, place)
    # `torch.manual_seed` would record every call, with a traceback, for each kind of accelerator that is not in use;
    # this takes milliseconds per call and unbounded memory.
    torch.default_generator.manual_seed(number)
    if torch.accelerator.is_available():
        torch.get_device_module().manual_seed(number)
