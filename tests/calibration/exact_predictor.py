"""What an ideal network learns from normal data."""

import torch


class ExactPredictor(torch.nn.Module):
    """E[eps | x_t], or x0 or v with it, for data N(mean, variance): of each pixel, or of all.

    Args:
        unet: lends its config, dtype and device.
        scheduler: says the process and the prediction.
    """

    def __init__(self, unet, scheduler, mean, variance):
        super().__init__()
        self.config, self.dtype, self.device = unet.config, unet.dtype, unet.device
        self.scheduler, self.mean, self.variance = scheduler, mean, variance

    def forward(self, sample, timestep, class_labels=None, return_dict=False):
        alpha_bar = self.scheduler.alpha_bar(timestep).reshape(-1, 1, 1, 1)
        marginal = alpha_bar * self.variance + 1 - alpha_bar
        epsilon = (1 - alpha_bar).sqrt() * (sample - alpha_bar.sqrt() * self.mean) / marginal
        x0 = (sample - (1 - alpha_bar).sqrt() * epsilon) / alpha_bar.sqrt()
        outputs = {"epsilon": epsilon, "sample": x0}
        outputs["v_prediction"] = alpha_bar.sqrt() * epsilon - (1 - alpha_bar).sqrt() * x0
        return (outputs[self.scheduler.config.prediction_type].to(sample.dtype),)


class WithOffset(torch.nn.Module):
    """A network whose prediction is off by a number everywhere."""

    def __init__(self, network, offset):
        super().__init__()
        self.config, self.dtype, self.device = network.config, network.dtype, network.device
        self.network, self.offset = network, offset

    def forward(self, *inputs, **options):
        return (self.network(*inputs, **options)[0] + self.offset,)
