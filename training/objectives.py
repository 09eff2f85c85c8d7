"""What the network is trained for: functions from clean images in [-1, 1] to a scalar loss."""

import torch
import torch.nn.functional as F


def simple_loss(unet, scheduler, images, class_labels=None, timesteps=None, noise=None):
    r"""L_simple of DDPM (Ho et al. 2020, eq. 14): :math:`E_{t,\epsilon} \|target - f_\theta(x_t, t)\|^2`, t uniform.

    Args:
        unet: predicts what `scheduler.config.prediction_type` says; channels after the first C (a variance head) are
            left alone.
        scheduler: gives x_t and the target.
        images (`torch.Tensor`): x_0, float32, (B, C, H, W).
        class_labels (`torch.Tensor`, *optional*): int64, (B,).
        timesteps, noise (`torch.Tensor`, *optional*): int64 (B,) and (B, C, H, W); drawn if not given.
    """
    if timesteps is None:
        timesteps = torch.randint(scheduler.config.num_train_timesteps, images.shape[:1], device=images.device)
    if noise is None:
        noise = torch.randn_like(images)
    noisy = scheduler.add_noise(images, noise, timesteps)
    prediction = unet(noisy, timesteps, class_labels, return_dict=False)[0][:, : images.shape[1]]
    return F.mse_loss(prediction.float(), prediction_target(scheduler, images, noise, timesteps))


def prediction_target(scheduler, images, noise, timesteps):
    match scheduler.config.prediction_type:
        case "epsilon":
            return noise
        case "sample":
            return images
        case "v_prediction":
            return scheduler.get_velocity(images, noise, timesteps)


def drop_labels(labels, probability, null_label):
    """Replaces labels by the null label at random (classifier-free guidance, Ho & Salimans 2022)."""
    dropped = torch.rand(labels.shape, device=labels.device) < probability
    return labels.masked_fill(dropped, null_label)


OBJECTIVES = {"simple": simple_loss}
