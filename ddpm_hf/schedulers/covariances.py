"""Cov[x0 | x_t], the covariance that the reverse kernel of DDPM leaves out (Bao et al. 2022a, theorem 1), elementwise.

Where eps_hat is the true conditional mean of the noise, Cov[x0 | x_t] = (1 - abar_t) / abar_t * Cov[eps | x_t].
"""

import math

import torch
from diffusers.utils import logging

logger = logging.get_logger(__name__)

COVARIANCE_HEADS = ("npr", "sn", "ocm")
COVARIANCE_TYPES = ("analytic", *COVARIANCE_HEADS)
# What a network's second half of channels may be; a scheduler with the `variance_type` of the same name reads it.
VARIANCE_HEADS = ("learned_range", *COVARIANCE_HEADS)

# Gamma_t of the true noise predictor is at most 1; what an estimate may be above it before it says something else.
NOISE_OF_GAMMA, ERROR_OF_GAMMA = 0.01, 0.1


def head_covariance(head, scale):
    """Cov[x0 | x_t] from the second half of the network's channels; not yet clipped: (1 - abar_t) / abar_t * h.

    h estimates Cov[eps | x_t], and how it was taught is all that tells the heads apart:
    `npr`: E[(eps - eps_hat)^2 | x_t] (Bao et al. 2022b, right for any eps_hat);
    `sn`: E[eps^2 | x_t] - eps_hat^2 (Bao et al. 2022b, the optimal covariance);
    `ocm`: 1 - sqrt(1 - abar_t) times the diagonal of d eps_hat / d x_t (Ou et al. 2025).
    The papers' networks predict E[eps^2 | x_t] and the diagonal themselves, but a convolution on the features of a trained
    network does not tell these well: it would have to learn the square of eps_hat, and a range of 1 to 100 over time.

    Args:
        head (`torch.Tensor`): h, (B, C, *).
        scale: (1 - abar_t) / abar_t, a number or a tensor that broadcasts.
    """
    return head * scale


def mean_covariance(mean_square_epsilon, alphas_bar):
    """Cov[x0 | x_t] as one number for each t: (1 - abar_t) / abar_t * (1 - Gamma_t) (Bao et al. 2022a, theorem 1)."""
    return covariance_scale(alphas_bar) * (1 - mean_square_epsilon)


def covariance_scale(alphas_bar):
    """(1 - abar_t) / abar_t; a large number where there is no signal, so that 0 times it is 0."""
    return ((1 - alphas_bar) / alphas_bar).clamp(max=1e12)


def checked_mean_square_epsilon(values, steps):
    """Gamma_t = E |eps_hat(x_t, t)|^2 / d, t = 0 .. T-1, as a tensor (T,), float64."""
    gamma = torch.as_tensor(values, dtype=torch.float64)
    if gamma.shape != (steps,):
        raise ValueError(
            f"mean_square_epsilon has {gamma.numel()} values for num_train_timesteps={steps}: it belongs to another "
            "schedule. Estimate it for this one with `ddpm-hf calibrate`."
        )
    if not (gamma.isfinite() & (gamma >= 0)).all():
        t = (~(gamma.isfinite() & (gamma >= 0))).nonzero()[0].item()
        raise ValueError(
            f"mean_square_epsilon is {gamma[t].item():.4g} at timestep {t}; all must be finite and at least 0."
        )
    t, largest = gamma.argmax().item(), gamma.max().item()
    says = (
        f"mean_square_epsilon is {largest:.4g} at timestep {t}; the mean square of a noise prediction that is a conditional "
        "mean is at most 1. "
    )
    if largest > 1 + ERROR_OF_GAMMA:
        raise ValueError(
            says
            + "The network does not predict the noise of this schedule: are prediction_type, the betas and the range "
            "of the data those of its training?"
        )
    if largest > 1 + NOISE_OF_GAMMA:
        logger.warning(says + "Its covariance counts as 0 there; more images or training would bring it down.")
    return gamma


def largest_variance(pixels):
    """(pixels * 2 / 255 * sqrt(pi / 2))^2: noise of this variance moves a value by `pixels` levels of 256 on average.

    The mean of |N(0, v)| is sqrt(2 v / pi) (Bao et al. 2022a, appendix on clipping the reverse variance).
    """
    return (pixels * 2 / 255 * math.sqrt(math.pi / 2)) ** 2
