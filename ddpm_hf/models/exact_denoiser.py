r"""The denoiser that training can only approach: the exact posterior of a set of points, or of a Gaussian mixture.

If x_0 follows a mixture with weights w_k, means m_k and covariances S_k, then x_t follows the mixture with sqrt(abar)
m_k and abar S_k + (1 - abar) I. Given x_t, component k has the probability r_k by Bayes' rule, and within it x_0 is
normal with

    mean       = m_k + sqrt(abar) S_k (abar S_k + (1 - abar) I)^-1 (x_t - sqrt(abar) m_k)
    covariance = (1 - abar) S_k (abar S_k + (1 - abar) I)^-1

(Bishop 2006, eq. 2.113 to 2.117). A finite set of points is the mixture with S_k = 0.
"""

import math

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput

from ddpm_hf.schedulers.scheduler_outputs import GaussianOutput
from ddpm_hf.schedulers.variances import VARIANCE_HEADS

COVARIANCE_FORMS = ("none", "diagonal", "full")
# The most numbers that the components may have: 1 GiB in float64.
MOST_NUMBERS = 2**27
# The most numbers in an intermediate tensor; samples are processed in chunks of that size.
NUMBERS_AT_A_TIME = 2**24


class ExactDenoiser(ModelMixin, ConfigMixin):
    r"""E[x_0 | x_t] and Var[x_0 | x_t] in closed form, with the interface of a network: the truth to test against.

    It predicts what a network trained for ever on these data would predict, including the variance head. Make one with
    `from_points` or `from_gaussian_mixture`, for the process of the scheduler given there.

    Args:
        num_components (`int`): K, points or normal distributions.
        in_channels (`int`): C.
        sample_size (`tuple[int, ..]`): the sides of images, (H, W); () for points of C dimensions.
        covariance (`str`): `"none"` for points, `"diagonal"`, or `"full"`.
        num_train_timesteps (`int`): T.
        prediction_type (`str`): `epsilon`, `sample` (x0) or `v_prediction`.
        variance_head (`str`, *optional*): `learned_range` (v of the optimal variance of each step t -> t - 1; 0 at t =
            0), or `npr`, `sn`, `ocm` (Var[eps | x_t], on which all three agree where the prediction is exact).
        out_channels (`int`, *optional*): follows from the other arguments: C, or 2 C with a head.

    Shapes: sample (B, C, \*), timestep () or (B,). It computes in the dtype of its components.

    Raises:
        ValueError: if the components have more numbers than `MOST_NUMBERS`.
    """

    @register_to_config
    def __init__(
        self,
        num_components: int = 1,
        in_channels: int = 2,
        sample_size: tuple[int, ...] = (),
        covariance: str = "none",
        num_train_timesteps: int = 1000,
        prediction_type: str = "epsilon",
        variance_head: str | None = None,
        out_channels: int | None = None,
    ):
        super().__init__()
        if covariance not in COVARIANCE_FORMS:
            raise ValueError(f"covariance={covariance!r} is not one of {', '.join(map(repr, COVARIANCE_FORMS))}.")
        if variance_head is not None and variance_head not in VARIANCE_HEADS:
            raise ValueError(f"variance_head={variance_head!r} is not one of {VARIANCE_HEADS} or None.")
        self.register_to_config(
            out_channels=in_channels if variance_head is None else 2 * in_channels, sample_size=tuple(sample_size)
        )
        dimensions = in_channels * math.prod(sample_size)
        _check_numbers(num_components, dimensions, covariance)
        self.register_buffer("log_weights", torch.zeros(num_components))
        self.register_buffer("means", torch.zeros(num_components, dimensions))
        if covariance != "none":
            self.register_buffer(
                "variances", torch.zeros(num_components, dimensions)
            )  # along the axes, if there are any
        if covariance == "full":
            self.register_buffer("axes", torch.zeros(num_components, dimensions, dimensions))  # as columns
        # Tables begin at clean data, so that t - 1 exists. Both are stored, as float32 would lose 1 - abar_0.
        self.register_buffer("signal", torch.zeros(num_train_timesteps + 1))
        self.register_buffer("sigma", torch.zeros(num_train_timesteps + 1))

    @classmethod
    def from_points(cls, points, scheduler):
        """For data distributed uniformly over `points`, with the process, prediction and head of `scheduler`.

        Args:
            points (`torch.Tensor`): (N, C, *), float32 or float64, the dtype of the arithmetic.
            scheduler ([`GaussianDiffusionScheduler`]): gives abar_t, the prediction type and the head.
        """
        return cls._of_components(points, "none", None, scheduler)

    @classmethod
    def from_gaussian_mixture(cls, means, covariances, scheduler, weights=None):
        """For data with the density sum_k w_k N(m_k, S_k).

        Args:
            means (`torch.Tensor`): (K, C, *), float32 or float64, the dtype of the arithmetic.
            covariances (`torch.Tensor`): the diagonals, of the shape of `means`; or, with D = C H W, (K, D, D).
            scheduler ([`GaussianDiffusionScheduler`]): as in `from_points`.
            weights (`torch.Tensor`, *optional*): (K,), normalized to sum 1; equal by default.
        """
        dimensions = means[0].numel()
        if covariances.shape == means.shape:
            covariance, extra = "diagonal", {"variances": covariances.flatten(1)}
        elif covariances.shape == (len(means), dimensions, dimensions):
            _check_numbers(len(means), dimensions, "full")
            variances, axes = torch.linalg.eigh(covariances)
            covariance, extra = "full", {"variances": variances, "axes": axes}
        else:
            raise ValueError(
                f"covariances of shape {tuple(covariances.shape)} must be the diagonals, {tuple(means.shape)}, or "
                f"{(len(means), dimensions, dimensions)}."
            )
        if not extra["variances"].min() >= 0:
            raise ValueError(
                f"A covariance has the eigenvalue {extra['variances'].min().item():.3g}; none may be negative."
            )
        return cls._of_components(means, covariance, weights, scheduler, **extra)

    @classmethod
    def _of_components(cls, means, covariance, weights, scheduler, **extra):
        if means.ndim < 2 or len(means) == 0 or not means.isfinite().all():
            raise ValueError(f"Points of shape {tuple(means.shape)} must be (N, C, *), at least one, and finite.")
        weights = means.new_ones(len(means)) if weights is None else torch.as_tensor(weights).to(means)
        if weights.shape != means.shape[:1] or not (weights > 0).all():
            raise ValueError(f"weights={weights.tolist()} must be {len(means)} numbers above 0.")
        head = scheduler.config.variance_type
        model = cls(
            num_components=len(means),
            in_channels=means.shape[1],
            sample_size=tuple(means.shape[2:]),
            covariance=covariance,
            num_train_timesteps=len(scheduler),
            prediction_type=scheduler.config.prediction_type,
            variance_head=head if head in VARIANCE_HEADS else None,
        )
        alphas_bar = scheduler.alpha_bar(range(-1, len(scheduler)))
        state = {"log_weights": (weights / weights.sum()).log(), "means": means.flatten(1), **extra}
        state |= {"signal": alphas_bar.sqrt().to(means), "sigma": (1 - alphas_bar).sqrt().to(means)}
        model.load_state_dict(state, assign=True)  # keeps their dtype and device
        return model.eval()

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        """The same call as [`UNet2DModel.forward`], without classes."""
        x_t = sample.flatten(1).to(self.means.dtype)
        signal, sigma = self._process(timestep)
        mean, variance = self._moments(x_t, signal, sigma)
        epsilon = (x_t - signal * mean) / sigma
        predictions = {"epsilon": epsilon, "sample": mean, "v_prediction": signal * epsilon - sigma * mean}
        output = predictions[self.config.prediction_type].reshape(sample.shape)
        if self.config.variance_head is not None:
            head = self._head((signal / sigma) ** 2 * variance, timestep)
            output = torch.cat([output, head.reshape(sample.shape)], dim=1)
        output = output.to(sample.dtype)
        return UNet2DOutput(sample=output) if return_dict else (output,)

    def posterior(self, sample, timestep):
        """E[x_0 | x_t] and Var[x_0 | x_t] per dimension, as [`GaussianOutput`] in the dtype of the components."""
        mean, variance = self._moments(sample.flatten(1).to(self.means.dtype), *self._process(timestep))
        return GaussianOutput(mean=mean.reshape(sample.shape), variance=variance.reshape(sample.shape))

    def posterior_covariance(self, sample, timestep):
        """Cov[x_0 | x_t] = (1 - abar_t) / sqrt(abar_t) dE[x_0 | x_t] / dx_t, (B, D, D) (Efron 2011, eq. 2.8)."""
        x_t = sample.flatten(1).to(self.means.dtype)
        signal, sigma = self._process(timestep)
        # Each mean depends on its own sample alone, so the Jacobian of their sum holds every sample's Jacobian.
        jacobian = torch.autograd.functional.jacobian(lambda x: self._moments(x, signal, sigma)[0].sum(0), x_t)
        return jacobian.movedim(1, 0) * (sigma**2 / signal).reshape(-1, 1, 1)

    def _process(self, timestep):
        """sqrt(abar_t) and sqrt(1 - abar_t), (B, 1) or (1, 1)."""
        index = torch.as_tensor(timestep, device=self.means.device).reshape(-1, 1) + 1
        return self.signal[index], self.sigma[index]

    def _moments(self, x_t, signal, sigma):
        """E[x_0 | x_t] and Var[x_0 | x_t], (B, D), computed in chunks that fit in memory."""
        formula = self._moments_of_points if self.config.covariance == "none" else self._moments_of_mixture
        numbers = len(self.means) * (1 if self.config.covariance == "none" else self.means.shape[1])
        size = max(1, NUMBERS_AT_A_TIME // numbers)
        if len(x_t) <= size:
            return formula(x_t, signal, sigma)
        signal, sigma = signal.expand(len(x_t), 1), sigma.expand(len(x_t), 1)
        parts = zip(x_t.split(size), signal.split(size), sigma.split(size), strict=True)
        means, variances = zip(*(formula(*part) for part in parts), strict=True)
        return torch.cat(means), torch.cat(variances)

    def _moments_of_points(self, x_t, signal, sigma):
        # -|x_t - sqrt(abar) m|^2 / (2 (1 - abar)) without |x_t|^2, which all points share
        squares = self.means.square()
        logits = (
            self.log_weights + (x_t * signal / sigma**2) @ self.means.T - (signal / sigma) ** 2 / 2 * squares.sum(1)
        )
        weights = logits.softmax(1)
        mean = weights @ self.means
        return mean, (weights @ squares - mean.square()).clamp(min=0)

    def _moments_of_mixture(self, x_t, signal, sigma):
        signal, sigma = signal[:, :, None], sigma[:, :, None]
        marginal = signal**2 * self.variances + sigma**2
        offset = x_t[:, None] - signal * self.means
        if self.config.covariance == "full":
            offset = torch.einsum("bkd,kde->bke", offset, self.axes)
        logits = self.log_weights - 0.5 * (offset.square() / marginal + marginal.log()).sum(2)
        weights = logits.softmax(1)
        shift, variances = signal * self.variances / marginal * offset, sigma**2 * self.variances / marginal
        if self.config.covariance == "full":
            shift = torch.einsum("bke,kde->bkd", shift, self.axes)
            variances = torch.einsum("bke,kde->bkd", variances.expand_as(offset), self.axes.square())
        means = self.means + shift
        mean = torch.einsum("bk,bkd->bd", weights, means)
        spread = (means - mean[:, None]).square() + variances
        return mean, torch.einsum("bk,bkd->bd", weights, spread.expand_as(means))

    def _head(self, noise_variance, timestep):
        """The output of the variance head, from Var[eps | x_t]."""
        if self.config.variance_head != "learned_range":
            return noise_variance
        signal_t, sigma_t = self._process(timestep)
        signal_s, sigma_s = self._process(torch.as_tensor(timestep) - 1)
        beta = sigma_t**2 - (signal_t / signal_s) ** 2 * sigma_s**2
        beta_tilde = (sigma_s / sigma_t) ** 2 * beta
        # posterior_x0^2 Var[x_0 | x_t], with Var[x_0 | x_t] = (1 - abar_t) / abar_t Var[eps | x_t]
        extra = (signal_s * beta / (sigma_t * signal_t)) ** 2 * noise_variance
        share = ((beta_tilde + extra).log() - beta_tilde.log()) / (beta.log() - beta_tilde.log())
        # At t = 0 the variance is the decoder's, which sampling does not use.
        return torch.where(sigma_s == 0, torch.zeros_like(extra), 2 * share - 1)


def _check_numbers(components, dimensions, covariance):
    each = {"none": dimensions, "diagonal": 2 * dimensions, "full": dimensions * (dimensions + 2)}[covariance]
    if components * each > MOST_NUMBERS:
        raise ValueError(
            f"{components} components of {dimensions} dimensions are {components * each:,} numbers, and the exact "
            f"denoiser holds {MOST_NUMBERS:,}: give at most {MOST_NUMBERS // each:,} of this dimension"
            + (", or their diagonals alone." if covariance == "full" else ", or points of fewer dimensions.")
        )
