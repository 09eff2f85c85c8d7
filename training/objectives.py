"""Training objectives, with one loss per image at its timestep.

The losses are means over the dimensions d = C H W of an image, so they do not depend on its size. `timestep_samplers`
draws the timesteps, and gives the weights for an unbiased mean of the losses over all timesteps.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ddpm_hf.evaluation.variational_bound import bound_term
from ddpm_hf.samples import kind_of_batch


class NoisyBatch(NamedTuple):
    """x_0, the noise and x_t, all (B, C, H, W), and t, (B,)."""

    images: torch.Tensor
    noise: torch.Tensor
    noisy: torch.Tensor
    timesteps: torch.Tensor


def make_objective(name, scheduler, vlb_weight=0.001, min_snr_gamma=None, device="cpu", levels="own"):
    r"""The loss `objective(unet, images, timesteps, class_labels=None, noise=None)`, differentiable, of shape (B,).

    `simple`: L_simple; `vlb`: the variational bound L_vlb; `hybrid`: L_simple + vlb_weight * L_vlb with the mean held
    fixed in L_vlb, which so trains the variance alone (Nichol & Dhariwal 2021, eq. 16). `npr`, `sn` and `ocm` regress
    the head of the same name and leave the prediction unchanged: `npr_losses`, `sn_losses`, `ocm_losses`.

    Args:
        scheduler (`GaussianDiffusionScheduler`): gives x_t, the target, and the kernels of the bound.
        vlb_weight (`float`): lambda of `hybrid`.
        min_snr_gamma (`float`, *optional*): gamma of `min_snr_weights` for L_simple.
        device: the device of the images.
        levels (`int`, *optional*): number of values of the data, None for continuous data; by default those of their
            kind, 256 for images.

    Arguments of the objective:
        unet: its first C channels predict `scheduler.config.prediction_type`.
        images (`torch.Tensor`): x_0 in [-1, 1], float32, (B, C, H, W).
        timesteps (`torch.Tensor`): int64, (B,).
        class_labels (`torch.Tensor`, *optional*): int64, (B,).
        noise (`torch.Tensor`, *optional*): (B, C, H, W); drawn if not given.
    """
    snr_weights = None if min_snr_gamma is None else min_snr_weights(scheduler, min_snr_gamma).to(device)
    # Not clipped, because clipped values of x0_hat have no gradient.
    unclipped = scheduler.from_config(scheduler.config, clip_sample=False, thresholding=False)

    def formula(predict, batch):
        if name == "ocm":
            return ocm_losses(unclipped, predict, batch, rademacher_like(batch.noisy))
        output = predict(batch.noisy)
        if name in HEAD_LOSSES:
            return HEAD_LOSSES[name](unclipped, output, batch)
        if name == "vlb":
            return vlb_losses(unclipped, output, batch, levels)
        simple = simple_losses(scheduler, output, batch, snr_weights)
        if name == "simple":
            return simple
        return simple + vlb_weight * vlb_losses(unclipped, with_fixed_mean(output), batch, levels)

    def objective(unet, images, timesteps, class_labels=None, noise=None):
        def predict(noisy):
            return unet(noisy, timesteps, class_labels, return_dict=False)[0].to(images.dtype)

        noise = torch.randn_like(images) if noise is None else noise
        batch = NoisyBatch(images, noise, scheduler.add_noise(images, noise, timesteps), timesteps)
        return formula(predict, batch)

    return objective


def simple_losses(scheduler, output, batch, snr_weights=None):
    r"""L_simple of each image (Ho et al. 2020, eq. 14): :math:`w_t \|target - f_\theta(x_t, t)\|^2 / d`.

    Args:
        output (`torch.Tensor`): the network's output; channels after the first C (a variance head) are ignored.
        snr_weights (`torch.Tensor`, *optional*): w_t by timestep, (T,), on the device; 1 if not given.
    """
    target = prediction_target(scheduler, batch.images, batch.noise, batch.timesteps)
    losses = _mean_per_image(F.mse_loss(output[:, : target.shape[1]], target, reduction="none"))
    if snr_weights is None:
        return losses
    return losses * snr_weights[batch.timesteps]


def vlb_losses(scheduler, output, batch, levels="own"):
    """The estimate of L_vlb from one timestep: T times its term, in bits per dimension, (B,).

    The mean over uniform timesteps is the variational bound without its prior term, which does not depend on the
    network. Bits and the factor T follow Improved DDPM's code, for which the weight 0.001 of the paper's hybrid loss
    was tuned: it multiplies the term by T/1000 (its RESCALED_MSE; RESCALED_KL is this loss).
    """
    levels = kind_of_batch(batch.images).levels if levels == "own" else levels
    nats = bound_term(scheduler, output, batch.timesteps, batch.images, batch.noisy, levels=levels)
    dimensions = batch.images[0].numel()
    return nats * (scheduler.config.num_train_timesteps / (dimensions * math.log(2)))


def npr_losses(scheduler, output, batch):
    r""":math:`\|(\epsilon - \hat\epsilon)^2 - h\|^2 / d` of each image, minimal at h = E[(eps - eps_hat)^2 | x_t].

    It is the "noise prediction residual" (Bao et al. 2022b, section 3), which is correct whatever the error of
    eps_hat; eps_hat is held fixed.
    """
    residual = batch.noise - scheduler.get_epsilon(output.detach(), batch.timesteps, batch.noisy)
    return _head_losses(output, residual.square())


def sn_losses(scheduler, output, batch):
    r""":math:`\|\epsilon^2 - \hat\epsilon^2 - h\|^2 / d` of each image, minimal at h = E[eps^2 | x_t] - eps_hat^2.

    It is the "squared noise" (Bao et al. 2022b, section 3), for which the paper's network predicts E[eps^2 | x_t]
    itself: see `ddpm_hf.schedulers.variances.head_covariance`. It is correct where eps_hat is.
    """
    epsilon = scheduler.get_epsilon(output.detach(), batch.timesteps, batch.noisy)
    return _head_losses(output, batch.noise.square() - epsilon.square())


HEAD_LOSSES = {"npr": npr_losses, "sn": sn_losses}


def ocm_losses(scheduler, predict, batch, probe):
    r""":math:`\|1 - \sqrt{1 - \bar\alpha_t} \, v \odot J^T v - h\|^2 / d` of each image, J = d eps_hat / d x_t.

    The minimum has the diagonal of J in place of the product, as E[v_i v_j] = delta_ij for the probe v. It is "optimal
    covariance matching" (Ou et al. 2025, section 3), which is correct where eps_hat is.

    Args:
        predict (`Callable`): the network at the timesteps of the batch, from x_t to its output.
        probe (`torch.Tensor`): v, of the shape of x_t, entries 1 and -1 at random.
    """
    # J^T v from one backward pass has in expectation the same diagonal as J v from forward-mode differentiation, and
    # in sum the same variance. It costs 2 network calls instead of 4 (in torch 2.13 forward mode also convolves with
    # zero derivatives of the weights, and lacks fused attention, and group norm under autocast).
    noisy = batch.noisy.detach().requires_grad_()
    output = predict(noisy)
    epsilon = scheduler.get_epsilon(output, batch.timesteps, noisy)
    (product,) = torch.autograd.grad(epsilon, noisy, probe, retain_graph=True)
    # `add_noise` to zeros gives sqrt(1 - abar_t) times a tensor on the device, so that the host does not wait.
    scaled = scheduler.add_noise(torch.zeros_like(product), probe * product, batch.timesteps)
    return _head_losses(output, 1 - scaled)


def rademacher_like(tensor):
    """A tensor with entries 1 and -1, each with probability 1/2."""
    return torch.empty_like(tensor).bernoulli_(0.5).mul_(2).sub_(1)


def _head_losses(output, target):
    return _mean_per_image(F.mse_loss(output.chunk(2, dim=1)[1], target, reduction="none"))


def with_fixed_mean(output):
    """The output of a network with a variance head, with the prediction detached from the gradient."""
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
    """Weights by timestep, (T,), float32, that weight the error of x_0 by min(SNR, gamma) (Hang et al. 2023).

    SNR = abar / (1 - abar). The squared error of x_0 is the error of epsilon over SNR, and the
    error of v over SNR + 1.
    """
    alphas_bar = scheduler.alpha_bar(range(len(scheduler)))
    snr = alphas_bar / (1 - alphas_bar)
    match scheduler.config.prediction_type:
        case "epsilon":
            weights = (gamma / snr).clamp(max=1)  # min(SNR, gamma) / SNR, defined at SNR = 0 too
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
