"""The return values of a scheduler's methods."""

from dataclasses import dataclass

import torch
from diffusers.utils import BaseOutput


@dataclass
class GaussianDiffusionSchedulerOutput(BaseOutput):
    """What `step` returns: `prev_sample`, x_s, and `pred_original_sample`, x0_hat; both of the sample's shape."""

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor | None = None


@dataclass
class GaussianOutput(BaseOutput):
    """`mean` and `variance` (elementwise) of a Gaussian, both of the sample's shape."""

    mean: torch.Tensor
    variance: torch.Tensor


@dataclass
class ReverseKernelOutput(GaussianOutput):
    """The reverse kernel p(x_s | x_t): `mean`, `variance`, and the x0_hat and eps_hat behind them.

    For `variance_type="dct"`, whose covariance is diagonal in the cosine domain, `frequency_variance` is the variance
    of each coefficient of x_s, (B, C, H, W), and `variance` that of each pixel.
    """

    pred_original_sample: torch.Tensor = None
    pred_epsilon: torch.Tensor = None
    frequency_variance: torch.Tensor | None = None


@dataclass
class ScoreSDESchedulerOutput(BaseOutput):
    """What `step` and `correct` of [`ScoreSDEScheduler`] return, all of the sample's shape.

    `prev_sample` is `prev_sample_mean` with its noise; `pred_original_sample` is x0_hat = (x_t + sigma_t^2 score)
    / a_t.
    """

    prev_sample: torch.Tensor
    prev_sample_mean: torch.Tensor
    pred_original_sample: torch.Tensor | None = None
