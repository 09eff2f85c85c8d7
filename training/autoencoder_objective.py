"""The training objective of an autoencoder for latent diffusion."""

import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

RECONSTRUCTIONS = {"l1": F.l1_loss, "mse": F.mse_loss}


class LearningAutoencoder(AutoencoderKL):
    """An [`AutoencoderKL`] whose `forward` gives what its loss needs; its weights have the stock class's names."""

    def forward(self, images):
        r"""The reconstruction (N, C, H, W) from z ~ q(z | x), and the moments of q, (N, 2C, h, w)."""
        posterior = self.encode(images).latent_dist
        return self.decode(posterior.sample(), return_dict=False)[0], posterior.parameters

    def stock(self):
        """An [`AutoencoderKL`] with a copy of these weights."""
        stock = AutoencoderKL.from_config(self.config)
        stock.load_state_dict(self.state_dict())
        return stock.to(self.device).eval()


def make_autoencoder_objective(reconstruction, kl_weight):
    r"""The loss of each image, :math:`(\|x - \hat x\| + w \, KL(q(z | x) \| N(0, I))) / d`, d = C H W.

    The norm is the sum of the absolute differences (`l1`, as in Rombach et al. 2022, appendix G) or of their squares
    (`mse`), :math:`\hat x` is decoded from z ~ q, and with mean mu and variance sigma^2 of q

    .. math:: KL = \frac{1}{2} \sum_i (\mu_i^2 + \sigma_i^2 - 1 - \log \sigma_i^2)  \text{ nats}.

    Args:
        reconstruction (`str`): `l1` or `mse`.
        kl_weight (`float`): w.

    Returns:
        `objective(network, images, timesteps, labels)`: differentiable, (N,); the images are in [-1, 1], and
        timesteps and labels are ignored.
    """
    difference = RECONSTRUCTIONS[reconstruction]

    def objective(network, images, timesteps, labels=None):
        reconstructed, moments = network(images)
        errors = difference(reconstructed.float(), images, reduction="none").flatten(1).mean(1)
        kl = DiagonalGaussianDistribution(moments.float()).kl()
        return errors + kl_weight * kl / images[0].numel()

    return objective
