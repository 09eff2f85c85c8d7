r"""The denoiser that training can only approach: the exact posterior of a set of points, or of a Gaussian mixture.

If x_0 follows a mixture with weights w_k, means m_k and covariances S_k, then x_t follows the mixture with sqrt(abar)
m_k and abar S_k + (1 - abar) I. Given x_t, component k has the probability r_k by Bayes' rule, and within it x_0 is
normal; `gaussian_components` and, for images, `low_rank_components` have the formulas. A finite set of points is the
mixture with S_k = 0.
"""

import math
from functools import cached_property

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput

from ddpm_hf.models.gaussian_components import DiagonalComponents, FullComponents, PointComponents
from ddpm_hf.models.low_rank_components import LowRankComponents
from ddpm_hf.schedulers.choices import VARIANCE_HEADS
from ddpm_hf.schedulers.continuous_processes import InterpolatedChain
from ddpm_hf.schedulers.scheduler_outputs import GaussianOutput

COVARIANCE_FORMS = {
    "none": PointComponents,
    "diagonal": DiagonalComponents,
    "full": FullComponents,
    "low_rank": LowRankComponents,
}
# The most numbers that the components may have: 1 GiB in float64.
MOST_NUMBERS = 2**27
# The most numbers in an intermediate tensor; samples are processed in chunks of that size.
NUMBERS_AT_A_TIME = 2**24
# How far the products of axes may be from 0 and 1.
AXES_TOLERANCE = 1e-4
# The timestep of data without noise, one before the first.
CLEAN_DATA = -1


class ExactDenoiser(ModelMixin, ConfigMixin):
    r"""E[x_0 | x_t] and Var[x_0 | x_t] in closed form, with the interface of a network: the truth to test against.

    It predicts what a network trained for ever on these data would predict, including the variance head. Make one with
    `from_points`, `from_gaussian_mixture` or `from_low_rank_mixture`, for the process of the scheduler given there.

    Args:
        num_components (`int`): K, points or normal distributions.
        in_channels (`int`): C.
        sample_size (`tuple[int, ..]`): the sides of images, (H, W); () for points of C dimensions.
        covariance (`str`): `"none"` for points, `"diagonal"`, `"full"`, or `"low_rank"`.
        num_train_timesteps (`int`): T.
        prediction_type (`str`): `epsilon`, `sample` (x0) or `v_prediction`.
        variance_head (`str`, *optional*): `learned_range` (v of the optimal variance of each step t -> t - 1; 0 at t =
            0), or `npr`, `sn`, `ocm` (Var[eps | x_t], on which all three agree where the prediction is exact).
        out_channels (`int`, *optional*): follows from the other arguments: C, or 2 C with a head.
        num_axes (`int`, *optional*): R, for `covariance="low_rank"` alone.
        num_classes (`int`, *optional*): every component is of a class in 0 .. num_classes - 1. The label of a sample
            leaves the components of its class alone; the label `num_classes` is the null label ("no class"), used
            wherever `class_labels` is None, and leaves all.

    Shapes: sample (B, C, \*), timestep () or (B,), class_labels (B,). It computes in the dtype of its components. A
    timestep between whole ones, from 0 on, has the noise level of [`ScoreSDEScheduler`] for the same chain.

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
        num_axes: int | None = None,
        num_classes: int | None = None,
    ):
        super().__init__()
        if covariance not in COVARIANCE_FORMS:
            raise ValueError(f"covariance={covariance!r} is not one of {', '.join(map(repr, COVARIANCE_FORMS))}.")
        if variance_head is not None and variance_head not in VARIANCE_HEADS:
            raise ValueError(f"variance_head={variance_head!r} is not one of {VARIANCE_HEADS} or None.")
        dimensions = in_channels * math.prod(sample_size)
        _check_axes(num_axes, dimensions, covariance)
        self.register_to_config(
            out_channels=in_channels if variance_head is None else 2 * in_channels, sample_size=tuple(sample_size)
        )
        shapes = _shapes_of_components(num_components, dimensions, covariance, num_axes)
        _check_numbers(shapes, num_components, dimensions, covariance)
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))
        if num_classes is not None:
            self.register_buffer("classes", torch.zeros(num_components, dtype=torch.int64))
        # Tables begin at clean data, so that t - 1 exists. Both are stored, as float32 would lose 1 - abar_0.
        self.register_buffer("signal", torch.zeros(num_train_timesteps + 1))
        self.register_buffer("sigma", torch.zeros(num_train_timesteps + 1))

    @classmethod
    def from_points(cls, points, scheduler, classes=None):
        """The denoiser of data spread uniformly over `points`, with the process, prediction and head of `scheduler`.

        Args:
            points (`torch.Tensor`): (N, C, *), float32 or float64, the dtype of the arithmetic.
            scheduler ([`GaussianDiffusionScheduler`]): gives abar_t, the prediction type and the head.
            classes (`torch.Tensor`, *optional*): (N,), integers, the class of each point, for class labels.
        """
        return cls._of_components(points, "none", None, scheduler, classes)

    @classmethod
    def from_gaussian_mixture(cls, means, covariances, scheduler, weights=None, classes=None):
        """The denoiser of data with the density sum_k w_k N(m_k, S_k).

        Args:
            means (`torch.Tensor`): (K, C, *), float32 or float64, the dtype of the arithmetic.
            covariances (`torch.Tensor`): the diagonals, of the shape of `means`; or, with D = C H W, (K, D, D).
            scheduler ([`GaussianDiffusionScheduler`]): as in `from_points`.
            weights (`torch.Tensor`, *optional*): (K,), normalized to sum 1; equal by default.
            classes (`torch.Tensor`, *optional*): (K,), as in `from_points`.
        """
        dimensions = means[0].numel()
        if covariances.shape == means.shape:
            covariance, extra = "diagonal", {"variances": covariances.flatten(1)}
        elif covariances.shape == (len(means), dimensions, dimensions):
            _check_numbers(
                _shapes_of_components(len(means), dimensions, "full"), len(means), dimensions, covariance="full"
            )
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
        return cls._of_components(means, covariance, weights, scheduler, classes, **extra)

    @classmethod
    def from_low_rank_mixture(cls, means, axes, variances, noise_variance, scheduler, weights=None, classes=None):
        """Makes the denoiser of data with the density sum_k w_k N(m_k, s_k I + U_k diag(l_k) U_k').

        The formulas are in `low_rank_components`; `low_rank_mixture.fit_low_rank_mixture` fits such a mixture.

        Args:
            means (`torch.Tensor`): m_k, (K, C, *), float32 or float64, the dtype of the arithmetic; the densities of
                the components are computed in float64.
            axes (`torch.Tensor`): the columns of U_k, (K, R, C, *), orthonormal for each k.
            variances (`torch.Tensor`): l_k, (K, R), what the noise lacks along the axes, at least 0.
            noise_variance (`float` or `torch.Tensor`): s_k > 0, one for all components or (K,).
            scheduler ([`GaussianDiffusionScheduler`]): as in `from_points`.
            weights (`torch.Tensor`, *optional*): (K,), normalized to sum 1; equal by default.
            classes (`torch.Tensor`, *optional*): (K,), as in `from_points`.

        Raises:
            ValueError: for shapes that do not agree, axes that are not orthonormal, and variances below 0.
        """
        noise_variances = torch.as_tensor(noise_variance).to(means).expand(len(means)).contiguous()
        _check_low_rank(means, axes, variances, noise_variances)
        extra = {"axes": axes.flatten(2), "variances": variances, "noise_variances": noise_variances}
        return cls._of_components(means, "low_rank", weights, scheduler, classes, **extra)

    @classmethod
    def _of_components(cls, means, covariance, weights, scheduler, classes, **extra):
        if means.ndim < 2 or len(means) == 0 or not means.isfinite().all():
            raise ValueError(f"Points of shape {tuple(means.shape)} must be (N, C, *), at least one, and finite.")
        weights = means.new_ones(len(means)) if weights is None else torch.as_tensor(weights).to(means)
        if weights.shape != means.shape[:1] or not (weights > 0).all():
            raise ValueError(f"weights={weights.tolist()} must be {len(means)} numbers above 0.")
        if classes is not None:
            classes = torch.as_tensor(classes, device=means.device)
            _check_classes(classes, len(means))
            extra["classes"] = classes.long()
        head = scheduler.config.variance_type
        model = cls(
            num_components=len(means),
            in_channels=means.shape[1],
            sample_size=tuple(means.shape[2:]),
            covariance=covariance,
            num_train_timesteps=len(scheduler),
            prediction_type=scheduler.config.prediction_type,
            variance_head=head if head in VARIANCE_HEADS else None,
            num_axes=extra["axes"].shape[1] if covariance == "low_rank" else None,
            num_classes=None if classes is None else int(classes.max()) + 1,
        )
        alphas_bar = scheduler.alpha_bar(range(-1, len(scheduler)))
        state = {"log_weights": (weights / weights.sum()).log(), "means": means.flatten(1), **extra}
        state |= {"signal": alphas_bar.sqrt().to(means), "sigma": (1 - alphas_bar).sqrt().to(means)}
        model.load_state_dict(state, assign=True)  # keeps their dtype and device
        return model.eval()

    # Predictions -----------------------------------------------------------------------------------------------------

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        """The same call as [`UNet2DModel.forward`]; without classes, labels are ignored."""
        x_t = sample.flatten(1).to(self.means.dtype)
        signal, sigma = self._process(timestep)
        has_head = self.config.variance_head is not None
        mean, *variance = self._moments(x_t, signal, sigma, class_labels, ("mean", "variance")[: 1 + has_head])
        epsilon = (x_t - signal * mean) / sigma
        predictions = {"epsilon": epsilon, "sample": mean, "v_prediction": signal * epsilon - sigma * mean}
        output = predictions[self.config.prediction_type].reshape(sample.shape)
        if has_head:
            head = self._head((signal / sigma) ** 2 * variance[0], timestep)
            output = torch.cat([output, head.reshape(sample.shape)], dim=1)
        output = output.to(sample.dtype)
        return UNet2DOutput(sample=output) if return_dict else (output,)

    def posterior(self, sample, timestep, class_labels=None):
        """E[x_0 | x_t] and Var[x_0 | x_t] per dimension, as [`GaussianOutput`] in the dtype of the components."""
        x_t = sample.flatten(1).to(self.means.dtype)
        mean, variance = self._moments(x_t, *self._process(timestep), class_labels, ("mean", "variance"))
        return GaussianOutput(mean=mean.reshape(sample.shape), variance=variance.reshape(sample.shape))

    def posterior_covariance(self, sample, timestep, class_labels=None):
        """Cov[x_0 | x_t] = (1 - abar_t) / sqrt(abar_t) dE[x_0 | x_t] / dx_t, (B, D, D) (Efron 2011, eq. 2.8)."""
        x_t = sample.flatten(1).to(self.means.dtype)
        return self._moments(x_t, *self._process(timestep), class_labels, ("mean", "covariance"))[1]

    def responsibilities(self, sample, timestep, class_labels=None):
        """Returns the probability of each component given x_t, (B, K)."""
        x_t = sample.flatten(1).to(self.means.dtype)
        components, log_weights = self._components(x_t, *self._process(timestep)), self._log_weights(class_labels)
        return (log_weights + components.log_densities).softmax(1)

    def log_likelihood(self, sample, timestep=CLEAN_DATA, class_labels=None):
        """Returns log p_t(x) in nats, (B,): the density of x_t, or that of the data for timestep = -1, the default.

        Args:
            sample (`torch.Tensor`): (B, C, *).
            timestep (`int` or `torch.Tensor`): () or (B,).
            class_labels (`torch.Tensor`, *optional*): (B,), for the density within the class.

        Raises:
            ValueError: for clean data of components that have no density, as points have none.
        """
        signal, sigma = self._process(timestep)
        if (sigma == 0).any() and not self._have_densities():
            raise ValueError(
                "timestep=-1 is data without noise, where points, and components without variance in some direction, "
                "have no density: ask for a timestep of 0 or more."
            )
        x_t = sample.flatten(1).to(self.means.dtype)
        components = self._components(x_t, signal, sigma)
        log_joint = self._log_weights(class_labels) + components.log_densities
        return (log_joint.logsumexp(1, keepdim=True) + components.log_shared).squeeze(1)

    @torch.no_grad()
    def sample(self, num_samples, generator=None, class_labels=None):
        """Draws fresh data from the mixture: `num_samples` of x_0, (N, C, *).

        Args:
            num_samples (`int`): N.
            generator (`torch.Generator`, *optional*): on the device of the denoiser.
            class_labels (`torch.Tensor`, *optional*): one, or (N,), for draws of these classes.
        """
        weights = self._log_weights(class_labels).exp().expand(num_samples, -1)
        chosen = torch.multinomial(weights, 1, generator=generator).squeeze(1)
        drawn = COVARIANCE_FORMS[self.config.covariance].draw(self, chosen, generator)
        return drawn.reshape(num_samples, self.config.in_channels, *self.config.sample_size)

    # Parts of these --------------------------------------------------------------------------------------------------

    def _process(self, timestep):
        """sqrt(abar_t) and sqrt(1 - abar_t), (B, 1) or (1, 1); between whole timesteps as in [`InterpolatedChain`]."""
        timestep = torch.as_tensor(timestep, device=self.means.device).reshape(-1, 1)
        if not timestep.is_floating_point():
            return self.signal[timestep + 1], self.sigma[timestep + 1]
        levels = self._chain.levels(timestep.to(self.signal.dtype) / self._chain.cells)
        return tuple(level.to(self.means.dtype) for level in levels)

    @cached_property
    def _chain(self):
        return InterpolatedChain(self.signal[1:].log() - self.sigma[1:].log())

    def _components(self, x_t, signal, sigma):
        return COVARIANCE_FORMS[self.config.covariance](self, x_t, signal, sigma)

    def _have_densities(self):
        """Says whether data without noise have a density, which they have if they vary in all directions."""
        least = {"none": None, "low_rank": "noise_variances"}.get(self.config.covariance, "variances")
        return least is not None and bool((getattr(self, least) > 0).all())

    def _log_weights(self, class_labels):
        """Returns the logarithms of the weights, (1, K), or with labels those within each label's class, (B, K)."""
        if self.config.num_classes is None or class_labels is None:
            return self.log_weights[None]
        labels = torch.as_tensor(class_labels, device=self.means.device).reshape(-1, 1)
        fits = (labels == self.classes) | (labels == self.config.num_classes)
        return self.log_weights.where(fits, -math.inf).log_softmax(1)

    def _moments(self, x_t, signal, sigma, class_labels, wanted):
        """Returns the moments of x_0 given x_t that are `wanted`, the mean first, in chunks that fit in memory."""
        numbers = {"none": 1}.get(self.config.covariance, self.means.shape[1])
        if "covariance" in wanted:
            numbers = max(numbers, self.means.shape[1])
        size = max(1, NUMBERS_AT_A_TIME // (len(self.means) * numbers))
        log_weights = self._log_weights(class_labels)
        if len(x_t) <= size:
            return self._moments_of_chunk(x_t, signal, sigma, log_weights, wanted)
        each = (x_t, *(table.expand(len(x_t), -1) for table in (signal, sigma, log_weights)))
        chunks = zip(*(tensor.split(size) for tensor in each), strict=True)
        parts = [self._moments_of_chunk(*chunk, wanted) for chunk in chunks]
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def _moments_of_chunk(self, x_t, signal, sigma, log_weights, wanted):
        components = self._components(x_t, signal, sigma)
        weights = (log_weights + components.log_densities).softmax(1).to(x_t.dtype)
        mean = components.mean(weights)
        return [mean, *(getattr(components, name)(weights, mean) for name in wanted[1:])]

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


def _shapes_of_components(components, dimensions, covariance, num_axes=None):
    """Returns the shapes of the buffers that hold the components, by name."""
    shapes = {"log_weights": (components,), "means": (components, dimensions)}
    if covariance in ("diagonal", "full"):
        shapes["variances"] = (components, dimensions)  # along the axes, if there are any
    if covariance == "full":
        shapes["axes"] = (components, dimensions, dimensions)  # as columns
    if covariance == "low_rank":
        shapes["axes"] = (components, num_axes, dimensions)  # as rows
        shapes |= {"variances": (components, num_axes), "noise_variances": (components,)}
    return shapes


def _check_axes(num_axes, dimensions, covariance):
    if (covariance == "low_rank") != (num_axes is not None):
        raise ValueError(f"num_axes={num_axes} belongs to covariance='low_rank' alone, not to {covariance!r}.")
    if num_axes is not None and not 1 <= num_axes <= dimensions:
        raise ValueError(f"num_axes={num_axes} must be in 1 .. {dimensions}, the dimensions of a sample.")


def _check_numbers(shapes, components, dimensions, covariance):
    numbers = sum(math.prod(shape) for name, shape in shapes.items() if name != "log_weights")
    if numbers > MOST_NUMBERS:
        advice = {"full": "their diagonals alone", "low_rank": "fewer axes"}.get(
            covariance, "points of fewer dimensions"
        )
        most = MOST_NUMBERS * components // numbers
        raise ValueError(
            f"{components} components of {dimensions} dimensions are {numbers:,} numbers, and the exact denoiser "
            f"holds {MOST_NUMBERS:,}: give at most {most:,} of this dimension, or {advice}."
        )


def _check_classes(classes, components):
    if classes.shape != (components,) or classes.is_floating_point():
        raise ValueError(
            f"classes of shape {tuple(classes.shape)} and {classes.dtype} must be {components} whole numbers."
        )
    found = classes.unique().tolist()
    if found != [*range(len(found))]:
        raise ValueError(f"classes={found} must be 0 .. {len(found) - 1}, each with a component.")


def _check_low_rank(means, axes, variances, noise_variances):
    num_axes = axes.shape[1] if axes.ndim > 1 else 0
    if axes.shape != (len(means), num_axes, *means.shape[1:]) or variances.shape != axes.shape[:2]:
        raise ValueError(
            f"axes of shape {tuple(axes.shape)} and variances of shape {tuple(variances.shape)} must be (K, R, C, *) "
            f"and (K, R) for means (K, C, *), which have the shape {tuple(means.shape)}."
        )
    products = axes.flatten(2) @ axes.flatten(2).mT
    off = (products - torch.eye(num_axes).to(products)).abs().max().item()
    if not off < AXES_TOLERANCE:
        raise ValueError(
            f"The axes of a component are not orthonormal: a product of two is {off:.3g} off. Take the eigenvectors "
            "of its covariance."
        )
    if not (variances.min() >= 0 and noise_variances.min() > 0):
        raise ValueError(
            f"The least of variances is {variances.min().item():.3g} and noise_variance is "
            f"{noise_variances.min().item():.3g}: variances must be at least 0, and that of the noise above 0."
        )
