"""The exact noise predictor for normal data, and one with an error."""

import torch

from ddpm_hf import ExactDenoiser


def exact_of_images(scheduler, mean, variance):
    """For images of 1x8x8 whose pixels are N(mean, variance), numbers or (1, 8, 8), independently."""
    moments = (torch.as_tensor(moment, dtype=torch.float64).expand(1, 1, 8, 8) for moment in (mean, variance))
    return ExactDenoiser.from_gaussian_mixture(*moments, scheduler)


class WithOffset(torch.nn.Module):
    """A network whose prediction is off by a number everywhere."""

    def __init__(self, network, offset):
        super().__init__()
        self.config, self.dtype, self.device = network.config, network.dtype, network.device
        self.network, self.offset = network, offset

    def forward(self, *inputs, **options):
        return (self.network(*inputs, **options)[0] + self.offset,)
