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


class AutoencoderObjective:
    r"""The loss of each image, :math:`(\|x - \hat x\| + w KL(q(z | x) \| N(0, I))) / d + v D(x, \hat x)`, d = C H W.

    The norm is the sum of the absolute differences (`l1`, as in Rombach et al. 2022, appendix G) or of their squares
    (`mse`), :math:`\hat x` is decoded from z ~ q, and with mean mu and variance sigma^2 of q

    .. math:: KL = \frac{1}{2} \sum_i (\mu_i^2 + \sigma_i^2 - 1 - \log \sigma_i^2)  \text{ nats}.

    Args:
        reconstruction (`str`): `l1` or `mse`.
        kl_weight (`float`): w.
        perceptual ([`PerceptualDistance`], *optional*): D; without it there is no such term.
        perceptual_weight (`float`): v.
        adversary ([`Adversary`], *optional*): opposes the autoencoder after a warm-up.

    Attributes:
        terms (`dict`): values of the last batch for the log, each (), by name.
    """

    def __init__(self, reconstruction, kl_weight, perceptual=None, perceptual_weight=1.0, adversary=None):
        self.difference, self.kl_weight = RECONSTRUCTIONS[reconstruction], kl_weight
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        self.adversary, self.terms = adversary, {}

    @property
    def names_of_terms(self):
        """The names that `terms` has at some time."""
        of_adversary = () if self.adversary is None else self.adversary.terms
        return (*(() if self.perceptual is None else ("perceptual_distance",)), *of_adversary)

    def __call__(self, network, images, timesteps, labels=None):
        """The losses of images in [-1, 1], differentiable, (N,); timesteps and labels are ignored."""
        self.terms = {}
        reconstructed, moments = network(images)
        reconstructed = reconstructed.float()
        if self.adversary is not None and self.adversary.is_on:
            errors, told = self.adversary.oppose(images, reconstructed, self._errors)
            self.terms |= told
        else:
            errors = self._errors(images, reconstructed)
        kl = DiagonalGaussianDistribution(moments.float()).kl()
        return errors + self.kl_weight * kl / images[0].numel()

    def _errors(self, images, reconstructed):
        errors = self.difference(reconstructed, images, reduction="none").flatten(1).mean(1)
        if self.perceptual is None:
            return errors
        distances = self.perceptual(images, reconstructed)
        self.terms["perceptual_distance"] = distances.detach().mean()
        return errors + self.perceptual_weight * distances
