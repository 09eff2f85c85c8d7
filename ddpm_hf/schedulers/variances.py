"""The variances of the reverse kernel: a rule for each `variance_type`, and checks of what was measured about a model.

The kernel of DDPM omits the covariance of x0 (Bao et al. 2022a, theorem 1), which is elementwise here, or diagonal in
the cosine domain (`covariance_spectrum`). Where eps_hat is the true conditional mean of the noise, Cov[x0 | x_t] =
(sigma_t / a_t)^2 Cov[eps | x_t].
"""

import math
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import NamedTuple

import torch
from diffusers.utils import logging

logger = logging.get_logger(__name__)

# Gamma_t of the true noise predictor is at most 1; an estimate further above 1 than this points to a mistake.
NOISE_OF_GAMMA, ERROR_OF_GAMMA = 0.01, 0.1

# The range of a predicted log-variance whose exponential float32 can hold.
LOG_VARIANCE_RANGE = (-80.0, 80.0)


class StepVariances(NamedTuple):
    """The quantities that the variance of a step x_t -> x_s may use: float64 tensors of one shape, at eta = 1.

    `posterior` is beta~, Var[x_s | x_t, x0], which is 0 where x_s is clean data; `small` has the decoder's variance
    there, so that its logarithm exists. `transition` is beta, Var[x_t | x_s]; `large` has the decoder's variance where
    x_s is clean data and the step belongs to a trajectory. `covariance_weight` is the squared weight of x0_hat in the
    mean at the step's eta, by which a covariance of x0 enters the variance. `mean_covariance` is Cov[x0 | x_t] as one
    number per timestep, and `covariance_scale` is (sigma_t / a_t)^2.
    """

    posterior: torch.Tensor
    small: torch.Tensor
    transition: torch.Tensor
    large: torch.Tensor
    covariance_weight: torch.Tensor
    covariance_scale: torch.Tensor
    mean_covariance: torch.Tensor


class VarianceRule(NamedTuple):
    """How a `variance_type` gives the variance of the kernel.

    Args:
        numbers: f([`StepVariances`], eta) -> (scale, offset), for all steps of a trajectory together.
        of_head: f(head, c, largest covariance or None) -> the elementwise variance, where c is the [`Transition`] with
            `variance_scale` and `variance_offset`; None for a network without a head.
        of_spectrum: f(spectrum, c) -> the variance of each coefficient of the cosine transform, from what
            `covariance_spectrum` holds for t; without either the offset is the variance.
        stand_in: the type that stock schedulers read instead; None where they know this one.
        has_covariance: whether the variance includes a covariance of x0, which adds noise at eta = 0 too.
    """

    numbers: Callable
    of_head: Callable | None = None
    of_spectrum: Callable | None = None
    stand_in: str | None = None
    has_covariance: bool = False


def fixed_variance(variance, stand_in=None):
    """The rule for a variance that is not predicted by the network.

    Args:
        variance: f([`StepVariances`]) -> the variance at eta = 1, multiplied by eta^2 at other eta (0 is DDIM).
        stand_in (`str`, *optional*): the type that stock schedulers read instead.
    """
    return VarianceRule(partial(_fixed_numbers, variance), stand_in=stand_in)


def _fixed_numbers(variance, step, eta):
    return torch.zeros_like(step.posterior), eta**2 * variance(step)


def _analytic_numbers(step, eta):
    """lambda^2 and the mean covariance (Bao et al. 2022a, theorem 1)."""
    return torch.zeros_like(step.posterior), eta**2 * step.posterior + step.covariance_weight * step.mean_covariance


def _learned_numbers(step, eta):
    """log(eta^2 exp(h)) = h + log eta^2."""
    return torch.ones_like(step.posterior), torch.full_like(step.posterior, _log(eta**2))


def _learned_range_numbers(step, eta):
    """log beta^f beta~^(1 - f) with f = (v + 1) / 2 (Nichol & Dhariwal 2021, eq. 15), and log eta^2."""
    log_small, log_large = step.small.log(), step.transition.log()
    return (log_large - log_small) / 2, (log_large + log_small) / 2 + _log(eta**2)


def _covariance_head_numbers(step, eta):
    """Cov[x0 | x_t] = scale h, and lambda^2."""
    return step.covariance_scale, eta**2 * step.posterior


def _spectrum_numbers(step, eta):
    """The mean covariance, which the spectrum shares out, and lambda^2."""
    return step.covariance_weight * step.mean_covariance, eta**2 * step.posterior


def _log(value):
    return math.log(value) if value > 0 else -math.inf


def _exponential(head, c, largest_covariance):
    return (head * c.variance_scale + c.variance_offset).clamp_(*LOG_VARIANCE_RANGE).exp_()


def _with_covariance_of_head(head, c, largest_covariance):
    covariance = head_covariance(head, c.variance_scale)
    if largest_covariance is not None:
        covariance = covariance.clamp_(0, largest_covariance)
    return covariance.mul_(c.posterior_x0**2).add_(c.variance_offset)


def _by_spectrum(spectrum, c):
    return spectrum.mul(c.variance_scale).add_(c.variance_offset)


_COVARIANCE_HEAD = VarianceRule(
    _covariance_head_numbers, _with_covariance_of_head, stand_in="learned_range", has_covariance=True
)

# Every `variance_type`. With a head, stock classes need a type that reads one; `learned_range` takes a covariance near
# 0 for a variance midway between the fixed ones.
VARIANCES = {
    "fixed_small": fixed_variance(attrgetter("posterior")),
    "fixed_small_log": fixed_variance(attrgetter("posterior")),
    "fixed_large": fixed_variance(attrgetter("large")),
    "fixed_large_log": fixed_variance(attrgetter("large")),
    "learned": VarianceRule(_learned_numbers, _exponential),
    "learned_range": VarianceRule(_learned_range_numbers, _exponential),
    "analytic": VarianceRule(_analytic_numbers, stand_in="fixed_small", has_covariance=True),
    "dct": VarianceRule(_spectrum_numbers, of_spectrum=_by_spectrum, stand_in="fixed_small", has_covariance=True),
    "npr": _COVARIANCE_HEAD,
    "sn": _COVARIANCE_HEAD,
    "ocm": _COVARIANCE_HEAD,
}


def head_covariance(head, scale):
    """Cov[x0 | x_t] from the second half of the network's channels; not yet clipped: (1 - abar_t) / abar_t * h.

    h estimates Cov[eps | x_t]; the heads differ only in their training target:
    `npr`: E[(eps - eps_hat)^2 | x_t] (Bao et al. 2022b, right for any eps_hat);
    `sn`: E[eps^2 | x_t] - eps_hat^2 (Bao et al. 2022b, the optimal covariance);
    `ocm`: 1 - sqrt(1 - abar_t) times the diagonal of d eps_hat / d x_t (Ou et al. 2025).
    The papers' networks predict E[eps^2 | x_t] and the diagonal directly. A convolution on the features of a trained
    network predicts these poorly, as it would have to learn the square of eps_hat and a range of 1 to 100 over time.

    Args:
        head (`torch.Tensor`): h, (B, C, *).
        scale: (1 - abar_t) / abar_t, a number or a tensor that broadcasts.
    """
    return head * scale


def mean_covariance(mean_square_epsilon, scale):
    """Cov[x0 | x_t] as one number for each t: (sigma_t / a_t)^2 (1 - Gamma_t) (Bao et al. 2022a, theorem 1).

    Args:
        scale: (sigma_t / a_t)^2, from `gaussian_kernel.covariance_scale`.
    """
    return scale * (1 - mean_square_epsilon)


# What options of a config need, which is measured about a model.
NEEDED = (
    ("variance_type", "analytic", "mean_square_epsilon"),
    ("variance_type", "dct", "covariance_spectrum"),
    ("variance_type", "dct", "mean_square_epsilon"),
    ("timestep_spacing", "optimal", "mean_square_epsilon"),
)


def check_measured(config):
    """Raises ValueError if the config lacks what was to be measured for its options."""
    for name, value, needed in NEEDED:
        if config[name] == value and config[needed] is None:
            of_what = " of models of images" if needed == "covariance_spectrum" else ""
            raise ValueError(
                f"{name}={value!r} needs {needed}, which is measured{of_what}: `ddpm-hf calibrate MODEL --dataset "
                "DATA --output_dir NEW` writes a model that has it."
            )


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
        f"mean_square_epsilon is {largest:.4g} at timestep {t}; the mean square of a noise prediction that is a "
        "conditional mean is at most 1. "
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
    """(pixels * 2 / 255 * sqrt(pi / 2))^2: noise of this variance shifts a value by `pixels` levels of 256 on average.

    The mean of |N(0, v)| is sqrt(2 v / pi) (Bao et al. 2022a, appendix on clipping the reverse variance).
    """
    return (pixels * 2 / 255 * math.sqrt(math.pi / 2)) ** 2
