"""The random numbers of a batch: a function of the seed and of the batch's place on the walk through the data.

The batches of all processes and accumulation steps lie side by side on one walk. As each begins with a seed of its own,
what is drawn for it (noise, timesteps, mirroring, dropped labels, dropout) is the same whichever process it is in: two
processes draw what one draws with two accumulation steps, and a run can go on with another number of them.
"""

import torch

from ddpm_hf.evaluation.seeded_noise import mixed_seed


def seed_batch(seed, place):
    """Seeds the generators of the host and of the accelerator for the batch number `place`, counted over all processes."""
    number = mixed_seed(seed, place)
    # Not `torch.manual_seed`: for every kind of accelerator that is not in use it keeps a note of each call, with a
    # traceback, which takes milliseconds and memory without end.
    torch.default_generator.manual_seed(number)
    if torch.accelerator.is_available():
        torch.get_device_module().manual_seed(number)
