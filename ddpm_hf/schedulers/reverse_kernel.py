"""The stages of a step: read the network's output, predict x0, make the kernel, steer it, draw from it.

`c` is the [`Transition`] of the step: the quantities of `gaussian_kernel` at its two noise levels.
"""

from typing import NamedTuple

import torch
from diffusers.utils.torch_utils import randn_tensor

from ddpm_hf.schedulers.config_checks import check_choice
from ddpm_hf.schedulers.cosine_transform import CosineTransform, cosine_transform
from ddpm_hf.schedulers.guidance import GUIDANCE_FORMS
from ddpm_hf.schedulers.scheduler_outputs import ReverseKernelOutput
from ddpm_hf.schedulers.variances import VARIANCES, VarianceRule


class ReadOutput(NamedTuple):
    """The network's prediction for x_t, (B, C, *), its variance head or None, and x_t, all of one dtype."""

    prediction: torch.Tensor
    head: torch.Tensor | None
    x_t: torch.Tensor


def read_output(model_output, sample, choices):
    """Splits a network's output, and casts it and x_t to the dtype of the arithmetic: float32 at least.

    Args:
        model_output: (B, C, *), or (B, 2C, *) with a variance head.
        sample: x_t, (B, C, *).
        choices ([`KernelChoices`]): their variance may need a variance head.
    """
    channels, given, reads_head = sample.shape[1], model_output.shape[1], choices.rule.of_head is not None
    if given not in (channels, 2 * channels) or (reads_head and given == channels):
        raise ValueError(
            f"The model output has {given} channels for samples of {channels}; "
            f"variance_type='{choices.variance_type}' needs "
            + (
                f"{2 * channels}: a model with a variance head, or variance_type='fixed_small' without one."
                if reads_head
                else f"{channels} or {2 * channels}."
            )
        )
    if model_output.shape != sample.shape and model_output[:, :1].shape != sample[:, :1].shape:
        raise ValueError(
            f"The model output of shape {tuple(model_output.shape)} does not belong to samples of shape "
            f"{tuple(sample.shape)}: all but the channels must agree."
        )
    dtype = math_dtype(sample, model_output)
    model_output, sample = cast(model_output, dtype), cast(sample, dtype)
    if given == channels:
        return ReadOutput(model_output, None, sample)
    return ReadOutput(*model_output.chunk(2, dim=1), sample)


class Clipping(NamedTuple):
    """How x0_hat is kept in the range of the data: clamped to [-bound, bound], or thresholded at its own quantile."""

    bound: float | None
    quantile: float | None
    largest_quantile: float

    @classmethod
    def of(cls, config):
        bound = config.clip_sample_range if config.clip_sample else None
        quantile = config.dynamic_thresholding_ratio if config.thresholding else None
        return cls(bound, quantile, config.sample_max_value)


def predicted_x0(said, c, clipping):
    """x0_hat from the network's prediction, within the range of the data."""
    return clip_x0_(affine(c.x0_sample, said.x_t, c.x0_output, said.prediction), clipping)


def predicted_epsilon(said, c):
    """eps_hat from the network's prediction, whatever its type."""
    return affine(c.eps_sample, said.x_t, c.eps_output, said.prediction)


def rederived_epsilon(x_t, x0, c):
    """The eps for which x_t = a_t x0 + sigma_t eps, whatever the network predicted."""
    return affine(1 / c.sigma, x_t, -c.signal / c.sigma, x0)


def clip_x0_(x0, clipping):
    """x0_hat within `clipping`, in place: clamped, or by dynamic thresholding (Saharia et al. 2022, section 2.3)."""
    if clipping.quantile is not None:
        bound = torch.quantile(x0.flatten(1).abs(), clipping.quantile, dim=1)
        bound = per_sample(bound.clamp(min=1.0, max=max(1.0, clipping.largest_quantile)), x0.ndim)
        return x0.clamp(-bound, bound) / bound
    if clipping.bound is not None:
        return x0.clamp_(-clipping.bound, clipping.bound)
    return x0


class Kernel(NamedTuple):
    """p(x_s | x_t) = N(mean, variance), and the x0_hat behind it; the variance may be a number.

    Where there is a `transform`, the variances are those of its coefficients.
    """

    mean: torch.Tensor
    variance: torch.Tensor | float
    x0: torch.Tensor
    transform: CosineTransform | None = None


class KernelChoices(NamedTuple):
    """The choices of a config that the kernel depends on, besides the numbers of the step.

    The rule is that of the `variance_type`. A predicted covariance of x0 is clamped to `largest_covariance`, unless
    that is None.
    """

    variance_type: str
    rule: VarianceRule
    rederives_epsilon: bool
    largest_covariance: float | None

    @classmethod
    def of(cls, config, rederives_epsilon=None):
        if rederives_epsilon is None:
            rederives_epsilon = config.use_clipped_model_output
        largest_covariance = config.clip_sample_range**2 if config.clip_covariance else None
        rule = VARIANCES[config.variance_type]
        return cls(config.variance_type, rule, rederives_epsilon, largest_covariance)

    def has_no_variance(self, eta):
        """Whether the kernel is deterministic."""
        return eta == 0 and not self.rule.has_covariance


def reverse_kernel(said, x0, c, eta, choices, spectrum=None):
    """The first-order kernel, with eps_hat re-derived from x0_hat, or as the network predicts it.

    `spectrum` is that of the covariance of x0 at t, (C, H, W) or (B, C, H, W), for a rule that reads it.
    """
    if choices.rederives_epsilon:
        mean = affine(c.posterior_x0, x0, c.posterior_sample, said.x_t)
    else:
        mean = affine(c.direct_x0, x0, c.direct_eps, predicted_epsilon(said, c))
    if choices.has_no_variance(eta):
        variance = 0.0
    elif spectrum is not None:
        return Kernel(mean, choices.rule.of_spectrum(spectrum, c), x0, cosine_transform(mean))
    elif choices.rule.of_head is None:
        variance = c.variance_offset
    else:
        variance = choices.rule.of_head(said.head, c, choices.largest_covariance)
    return Kernel(mean, variance, x0)


def output_of(kernel, epsilon):
    """The kernel as the public [`ReverseKernelOutput`]."""
    of_pixels, of_frequencies = kernel.variance, None
    if kernel.transform is not None:
        of_pixels, of_frequencies = kernel.transform.diagonal(of_pixels), expanded(of_pixels, kernel.mean)
    return ReverseKernelOutput(
        mean=kernel.mean,
        variance=expanded(of_pixels, kernel.mean),
        pred_original_sample=kernel.x0,
        pred_epsilon=epsilon,
        frequency_variance=of_frequencies,
    )


def guided(kernel, gradient, form, c, eta, choices):
    """The kernel steered by the gradient of log p(y | x_t): its mean by `mean`, or eps_hat by `score`.

    Raises:
        ValueError: for a gradient of another shape, and where `mean` would shift by a zero variance.
    """
    check_choice("guidance_form", form, GUIDANCE_FORMS)
    if gradient.shape != kernel.mean.shape:
        raise ValueError(
            f"classifier_gradient of shape {tuple(gradient.shape)} must be of the sample's, "
            f"{tuple(kernel.mean.shape)}."
        )
    if form == "mean" and choices.has_no_variance(eta):
        raise ValueError(
            f"guidance_form='mean' shifts by the variance, which is 0 for variance_type='{choices.variance_type}' at "
            "eta=0: use guidance_form='score', or eta > 0."
        )
    gradient = cast(gradient, kernel.mean.dtype)
    if form == "mean":
        return kernel._replace(mean=kernel.mean + times_covariance(gradient, kernel.variance, kernel.transform))
    return shifted_by_score(kernel, gradient, c)


def times_covariance(gradient, variance, transform):
    """The covariance of a kernel, diagonal after the transform if there is one, times a gradient."""
    return gradient * variance if transform is None else transform.scaled(gradient, variance)


def shifted_by_score(kernel, gradient, c):
    """The kernel at eps_hat - sigma_t gradient (Dhariwal & Nichol 2021, algorithm 2).

    x0_hat shifts by sigma_t^2 / a_t times the gradient, and the mean by the posterior weight of x0 times that shift.
    Both stay right where eps_hat was not re-derived from x0_hat.
    """
    shift = gradient * c.score_to_x0
    return kernel._replace(mean=kernel.mean + shift * c.posterior_x0, x0=kernel.x0 + shift)


def draw_(kernel, c, generator=None, noise=None, clips_variance=False):
    """A sample of the kernel, written over its mean; in the step to clean data, the mean itself."""
    mean, variance = kernel.mean, kernel.variance
    if clips_variance:
        variance = smaller(variance, c.largest_variance)
    if is_zero(variance) or is_zero(c.noisy):
        return mean
    if noise is None:
        noise = randn_tensor(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    elif noise.shape != mean.shape:
        raise ValueError(f"variance_noise of shape {tuple(noise.shape)} must be of the sample's, {tuple(mean.shape)}.")
    noise = cast(noise, mean.dtype)
    if isinstance(variance, float):
        return mean.add_(noise, alpha=variance**0.5)
    deviation = (variance * c.noisy).sqrt()
    if kernel.transform is not None:
        return mean.add_(kernel.transform.scaled(noise, deviation))
    return mean.addcmul_(noise, deviation)


# Numbers and tensors -------------------------------------------------------------------------------------------------


def affine(a, x, b, y):
    """a x + b y in two passes over memory, for numbers and for tensors that broadcast."""
    if isinstance(b, float):
        return torch.mul(x, a).add_(y, alpha=b)
    return torch.mul(x, a).addcmul_(y, b)


def mixed(a, x, b, y):
    """a x + b y of two tensors of one shape, in the dtype of x; half precision is computed in float32."""
    x_math, y_math = in_one_dtype(x, y)
    return affine(a, x_math, b, y_math).to(x.dtype)


def in_one_dtype(x, y):
    """Two tensors in the dtype to compute in; ValueError for different shapes, which might broadcast."""
    if x.shape != y.shape:
        raise ValueError(f"Samples of shape {tuple(x.shape)} and {tuple(y.shape)} must have one shape.")
    dtype = math_dtype(x, y)
    return x.to(dtype), y.to(dtype)


def is_zero(value):
    """Whether a number is 0; never asked of a tensor, because the host would wait for the device."""
    return isinstance(value, float) and value == 0.0


def smaller(variance, limit):
    """The smaller of two variances, numbers or tensors."""
    if isinstance(variance, float) and isinstance(limit, float):
        return min(variance, limit)
    if isinstance(limit, float):
        return variance.clamp_(max=limit)
    return torch.minimum(torch.as_tensor(variance, dtype=limit.dtype, device=limit.device), limit)


def math_dtype(*tensors):
    """The dtype to compute in: float32 for half precision, and the widest otherwise."""
    dtype = tensors[0].dtype
    for tensor in tensors:
        if not tensor.is_floating_point():
            raise ValueError(
                f"Samples of dtype {tensor.dtype} must be real floating-point numbers: scale images to [-1, 1] first."
            )
        if tensor.dtype != dtype:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def cast(tensor, dtype):
    return tensor if tensor.dtype == dtype else tensor.to(dtype)  # `to` takes a microsecond even with nothing to do


def per_sample(values, ndim):
    """(B,) as (B, 1, ..), which broadcasts over samples of `ndim` dimensions; a 0-d tensor stays as it is."""
    return values.reshape(-1, *(1,) * (ndim - 1)) if values.ndim else values


def expanded(values, like):
    """A number, or a tensor that broadcasts, as a tensor of the shape of `like`."""
    if isinstance(values, float):
        values = torch.full((), values, dtype=like.dtype, device=like.device)
    return values.expand_as(like)
