"""Points in the plane, and the exact noise predictor of any finite set of points: diffusion where everything is known."""

import math

import torch


def swiss_roll(num_points, generator=None, noise=0.01):
    """Points (N, 2) of a spiral of one and a half turns within [-1, 1], float64 (the roll of Marsland, seen from its side).

    Args:
        noise (`float`): standard deviation of the points about the spiral.
    """
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(num_points, generator=generator, dtype=torch.float64))
    spiral = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1) * (0.95 / (4.5 * math.pi))
    jitter = noise * torch.randn(num_points, 2, generator=generator, dtype=torch.float64)
    return (spiral + jitter).clamp(-1, 1)


def exact_noise_moments(points, x_t, alpha_bar):
    """E[eps | x_t] and Var[eps | x_t], elementwise, for data that are equally likely one of `points`.

    Given x_t, the data point is i with probability softmax_i(-|x_t - sqrt(abar) x_i|^2 / (2 (1 - abar))), and
    eps = (x_t - sqrt(abar) x_0) / sqrt(1 - abar).

    Args:
        points (`torch.Tensor`): (N, d); their dtype is that of the arithmetic.
        x_t (`torch.Tensor`): (B, d).
        alpha_bar (`float`): abar_t.

    Returns:
        two tensors (B, d), in the dtype of `points`
    """
    x_t, centres = x_t.to(points.dtype), alpha_bar**0.5 * points
    # -|x_t - c|^2 / (2 (1 - abar)) but for |x_t|^2, which is the same for all points
    scaled = centres / (1 - alpha_bar)
    logits = torch.addmm(-0.5 * (scaled * centres).sum(1), x_t, scaled.T)
    weights = (logits - logits.amax(1, keepdim=True)).exp_()
    total, mean, square = (weights @ torch.cat([torch.ones_like(centres[:, :1]), centres, centres**2], 1)).split(
        [1, points.shape[1], points.shape[1]], dim=1
    )
    mean, square = mean / total, square / total
    variance = (square - mean.square()).clamp(min=0) / (1 - alpha_bar)
    return (x_t - mean) / (1 - alpha_bar) ** 0.5, variance
