"""What the network is trained for: one loss for each image, whatever timestep it was drawn with.

The losses are means over the dimensions d = C H W of an image, so that they do not depend on its size. `timestep_samplers`
says which timesteps are drawn, and by which weights the losses make an unbiased mean over all of them.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ddpm_hf.evaluation.variational_bound import bound_term

OBJECTIVES = ("simple", "hybrid", "vlb")


class NoisyBatch(NamedTuple):
    """x_0, the noise and x_t, all (B, C, H, W), and t, (B,)."""

    images: torch.Tensor
    noise: torch.Tensor
    noisy: torch.Tensor
    timesteps: torch.Tensor


def make_objective(name, scheduler, vlb_weight=0.001, min_snr_gamma=None, device="cpu"):
    r"""The loss `objective(unet, images, timesteps, class_labels=None, noise=None)`, differentiable, of shape (B,).

    `simple`: L_simple; `vlb`: the variational bound L_vlb; `hybrid`: L_simple + vlb_weight * L_vlb with the mean held
    fixed in L_vlb, which so teaches the variance alone (Nichol & Dhariwal 2021, eq. 16).

    Args:
        scheduler (`GaussianDiffusionScheduler`): gives x_t, the target, and the kernels of the bound.
        vlb_weight (`float`): lambda of `hybrid`.
        min_snr_gamma (`float`, *optional*): gamma of `min_snr_weights` for L_simple.
        device: where the images will be.

    Arguments of the objective:
        unet: predicts what `scheduler.config.prediction_type` says, in its first C channels.
        images (`torch.Tensor`): x_0 in [-1, 1], float32, (B, C, H, W).
        timesteps (`torch.Tensor`): int64, (B,).
        class_labels (`torch.Tensor`, *optional*): int64, (B,).
        noise (`torch.Tensor`, *optional*): (B, C, H, W); drawn if not given.
    """
    snr_weights = None if min_snr_gamma is None else min_snr_weights(scheduler, min_snr_gamma).to(device)
    # Clipped values of x0_hat would have no gradient.
    unclipped = scheduler.from_config(scheduler.config, clip_sample=False, thresholding=False)

    def formula(output, batch):
        if name == "simple":
            return simple_losses(scheduler, output, batch, snr_weights)
        if name == "vlb":
            return vlb_losses(unclipped, output, batch)
        vlb = vlb_losses(unclipped, with_fixed_mean(output), batch)
        return simple_losses(scheduler, output, batch, snr_weights) + vlb_weight * vlb

    def objective(unet, images, timesteps, class_labels=None, noise=None):
        noise = torch.randn_like(images) if noise is None else noise
        batch = NoisyBatch(images, noise, scheduler.add_noise(images, noise, timesteps), timesteps)
        output = unet(batch.noisy, timesteps, class_labels, return_dict=False)[0]
        return formula(output.to(images.dtype), batch)

    return objective


def simple_losses(scheduler, output, batch, snr_weights=None):
    r"""L_simple of each image (Ho et al. 2020, eq. 14): :math:`w_t \|target - f_\theta(x_t, t)\|^2 / d`.

    Args:
        output (`torch.Tensor`): of the network; channels after the first C (a variance head) are left alone.
        snr_weights (`torch.Tensor`, *optional*): w_t by timestep, (T,), on the device; 1 if not given.
    """
    target = prediction_target(scheduler, batch.images, batch.noise, batch.timesteps)
    losses = _mean_per_image(F.mse_loss(output[:, : target.shape[1]], target, reduction="none"))
    if snr_weights is None:
        return losses
    return losses * snr_weights[batch.timesteps]


def vlb_losses(scheduler, output, batch):
    """The estimate of L_vlb from one timestep: T times its term, in bits per dimension, (B,).

    The mean over uniform timesteps is the variational bound without its prior term, which no training changes.
    Bits and the factor T are those of Improved DDPM's code, in which the weight 0.001 of the paper's hybrid loss was
    found: it multiplies the term by T/1000 (its RESCALED_MSE; RESCALED_KL is this loss itself).
    """
    nats = bound_term(scheduler, output, batch.timesteps, batch.images, batch.noisy)
    dimensions = batch.images[0].numel()
    return nats * (scheduler.config.num_train_timesteps / (dimensions * math.log(2)))


def with_fixed_mean(output):
    """The output of a network with a variance head, through whose prediction no gradient flows back."""
    prediction, head = output.chunk(2, dim=1)
    return torch.cat([prediction.detach(), head], dim=1)


def prediction_target(scheduler, images, noise, timesteps):
    match scheduler.config.prediction_type:
        case "epsilon":
            return noise
        case "sample":
            return images
        case "v_prediction":
            return scheduler.get_velocity(images, noise, timesteps)


def min_snr_weights(scheduler, gamma):
    """Weights by timestep, (T,), float32, under which the error of x_0 counts min(SNR, gamma) times (Hang et al. 2023).

    SNR = abar / (1 - abar), and the error of x_0 is that of epsilon over SNR, and that of v over SNR + 1.
    """
    alphas_bar = scheduler.alpha_bar(range(len(scheduler)))
    snr = alphas_bar / (1 - alphas_bar)
    match scheduler.config.prediction_type:
        case "epsilon":
            weights = (gamma / snr).clamp(max=1)  # min(SNR, gamma) / SNR, defined where no signal is left
        case "sample":
            weights = snr.clamp(max=gamma)
        case "v_prediction":
            weights = snr.clamp(max=gamma) / (snr + 1)
    return weights.float()


def drop_labels(labels, probability, null_label):
    """Replaces labels by the null label at random (classifier-free guidance, Ho & Salimans 2022)."""
    dropped = torch.rand(labels.shape, device=labels.device) < probability
    return labels.masked_fill(dropped, null_label)


def _mean_per_image(values):
    return values.flatten(1).mean(1)
