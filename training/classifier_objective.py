"""The training objective of a classifier of noisy images."""

import torch
import torch.nn.functional as F


def make_classifier_objective(scheduler):
    r"""The loss :math:`-\log p_\phi(y | x_t, t)` of each image, in nats (Dhariwal & Nichol 2021, section 4).

    Args:
        scheduler (`GaussianDiffusionScheduler`): gives x_t.

    Returns:
        `objective(classifier, images, timesteps, class_labels, noise=None)`: differentiable, (B,). The images are x_0
        in [-1, 1], (B, C, H, W); timesteps and labels are int64, (B,); the noise is drawn if not given.
    """

    def objective(classifier, images, timesteps, class_labels, noise=None):
        noise = torch.randn_like(images) if noise is None else noise
        logits = classifier(scheduler.add_noise(images, noise, timesteps), timesteps)
        return F.cross_entropy(logits.float(), class_labels, reduction="none")

    return objective
