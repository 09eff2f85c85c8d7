"""The Gaussian diffusion process of the DDPM family and its one reverse kernel.

Letters of the papers, with 0-based time as in diffusers: beta_t, alpha_bar_t = prod_{i <= t} (1 - beta_i), x_t the noisy
sample after t + 1 noising steps, x_s the next sample of the trajectory (s < t), s = -1 clean data (alpha_bar_{-1} = 1).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import BaseOutput, logging
from diffusers.utils.torch_utils import randn_tensor

from ddpm_hf.configuration import PortableConfigMixin
from ddpm_hf.schedulers.covariances import (
    COVARIANCE_HEADS,
    COVARIANCE_TYPES,
    checked_mean_square_epsilon,
    covariance_scale,
    head_covariance,
    largest_variance,
    mean_covariance,
)
from ddpm_hf.schedulers.guidance import GUIDANCE_FORMS
from ddpm_hf.schedulers.noise_schedules import BETA_SCHEDULES, make_betas, zero_terminal_snr
from ddpm_hf.schedulers.trajectories import (
    OWN_SPACINGS,
    STOCK_SPACINGS,
    checked_plans,
    checked_timesteps,
    spaced_timesteps,
)

logger = logging.get_logger(__name__)

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
FIXED_VARIANCE_TYPES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")
LEARNED_VARIANCE_TYPES = ("learned", "learned_range")

# Above this alpha_bar_T, x_T still shows the data and sampling from N(0, I) starts off the distribution.
LARGEST_TERMINAL_ALPHA_BAR = 0.01


@dataclass
class GaussianDiffusionSchedulerOutput(BaseOutput):
    """What `step` returns: `prev_sample`, x_s, and `pred_original_sample`, x0_hat; both of the sample's shape."""

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor | None = None


@dataclass
class GaussianOutput(BaseOutput):
    """`mean` and `variance` (elementwise) of a Gaussian, both of the sample's shape."""

    mean: torch.Tensor
    variance: torch.Tensor


@dataclass
class ReverseKernelOutput(GaussianOutput):
    """The reverse kernel p(x_s | x_t): `mean`, `variance`, and what they rest on, x0_hat and eps_hat."""

    pred_original_sample: torch.Tensor = None
    pred_epsilon: torch.Tensor = None


class Transition(NamedTuple):
    """The numbers of one transition x_t -> x_s: floats for one timestep, tensors (B, 1, ..) for one per sample."""

    # x0_hat = x0_sample * x_t + x0_output * output; eps_hat likewise: Ho 2020 eq. 9 and 15, Salimans & Ho 2022.
    x0_sample: float
    x0_output: float
    eps_sample: float
    eps_output: float
    # eps that belongs to (x_t, x0): eps = rederived_sample * x_t + rederived_x0 * x0
    rederived_sample: float
    rederived_x0: float
    # mean = direct_x0 * x0_hat + direct_eps * eps_hat (Song 2020, eq. 12), or, with eps re-derived from x0_hat,
    # mean = posterior_x0 * x0_hat + posterior_sample * x_t (Ho 2020, eq. 7; the same for every eta)
    direct_x0: float
    direct_eps: float
    posterior_x0: float
    posterior_sample: float
    # x0_hat + guidance * gradient, where the gradient is that of log p(y | x_t) (Dhariwal & Nichol 2021, algorithm 2)
    guidance: float
    # variances: of the forward posterior, of the two fixed choices at this eta, and the ends of the learned range
    posterior_variance: float
    fixed_small: float
    fixed_large: float
    log_small: float
    log_large: float
    # with the covariance of x0: `analytic`, and for heads the factor of `head_covariance`
    analytic: float
    covariance_scale: float
    # the most that `step` adds where the config clips the last noisy step
    largest_variance: float
    # h / (2 h_last) in log-SNR: how far a second-order mean extrapolates x0_hat
    extrapolation: float
    # how far between the x0_hat at its two ends the step to x_t should have been drawn, and what that changes in the mean
    correction: float
    corrected_mean: float
    # 1, or 0 for the step to clean data, which adds no noise whatever the variance (Ho 2020, algorithm 2)
    noisy: float


class LastStep(NamedTuple):
    """x0_hat of the last step, and the x0 that its mean was made of."""

    x0: torch.Tensor
    drawn_with: torch.Tensor


# What `_affine` multiplies by; what it adds with a weight stays a float.
FACTORS = ("x0_sample", "eps_sample", "rederived_sample", "direct_x0", "posterior_x0", "guidance")


class GaussianDiffusionScheduler(PortableConfigMixin, SchedulerMixin, ConfigMixin):
    """DDPM, DDIM, Improved DDPM and what lies between them, as one Gaussian kernel with four choices.

    With lambda^2 = eta^2 (1 - abar_s) / (1 - abar_t) (1 - abar_t / abar_s), each step draws x_s from a Gaussian with

        mean     = sqrt(abar_s) x0_hat + sqrt(1 - abar_s - lambda^2) eps_hat
        variance = lambda^2 + (sqrt(abar_s) - sqrt(abar_t (1 - abar_s - lambda^2) / (1 - abar_t)))^2 Cov[x0 | x_t]

    `eta` = 1 is DDPM (Ho et al. 2020), 0 is DDIM (Song et al. 2020, eq. 12 and 16). It takes every key of
    [`DDPMScheduler`] with the same defaults, and converts from and to all Karras-family schedulers with `from_config`.

    Args:
        num_train_timesteps: T, the length of the chain.
        beta_start, beta_end: ends of the range of beta, in (0, 1); the papers' 1e-4 and 0.02 are for T = 1000.
        beta_schedule: `linear` (Ho 2020), `scaled_linear` (linear in the square root; `quadratic` is another name for
            it), `squaredcos_cap_v2` (Nichol & Dhariwal 2021, eq. 17), `sigmoid` (Xu et al. 2022), `laplace`
            (Hang & Gu 2024).
        trained_betas: the T betas themselves.
        variance_type: `fixed_small` (beta~, optimal for a single data point) or `fixed_large` (beta, optimal for
            standard normal data), Ho 2020 section 3.2, also in diffusers' `_log` spellings; `learned` (the model's
            second half of channels is the log-variance) or `learned_range` (it is v, and the variance is
            exp(frac log beta + (1 - frac) log beta~), frac = (v + 1) / 2: Nichol & Dhariwal 2021, eq. 15).
            These are the variances at eta = 1; at others they are eta^2 of it, so that eta = 0 is DDIM for every
            model. With the covariance of x0, which is there at every eta: `analytic` (one number for each t, from
            `mean_square_epsilon`; Bao 2022a), and `npr`, `sn` (Bao 2022b) and `ocm` (Ou 2025), where the model's second
            half of channels tells it for each pixel (`covariances.head_covariance`).
        clip_sample, clip_sample_range: clamp x0_hat to [-range, range].
        prediction_type: what the model predicts: `epsilon`, `sample` (x0) or `v_prediction` (Salimans & Ho 2022).
        thresholding, dynamic_thresholding_ratio, sample_max_value: dynamic thresholding of x0_hat (Saharia 2022).
        timestep_spacing: `leading`, `linspace`, `trailing` (Lin et al. 2023, table 2); `quadratic` (Song 2020,
            appendix D.2, here to T - 1 and without repeats), `logsnr` (even in log-SNR, Lu 2022a), `karras` (even in
            sigma^(1/7), Karras 2022, eq. 5), `optimal` (least bound of the `analytic` variances, Bao 2022a, section 4).
            Timesteps are whole numbers, the nearest to the formula's.
        steps_offset: added to the timesteps of `leading`.
        rescale_betas_zero_snr: shift the schedule so that abar_T = 0 (Lin et al. 2023, algorithm 1).
        eta: 0 (no noise, DDIM) to 1 (DDPM).
        use_clipped_model_output: after clipping x0_hat, derive eps_hat from it (True), or keep the model's (False).
            With True, eta = 1 is the DDPM step whether or not something was clipped. Improved DDPM's code re-derives,
            that of Analytic-DPM does not, diffusers' DDIM does on request.
        solver_order: 1, or 2: the mean that `step` draws from uses x0_hat extrapolated in log-SNR from this call and the
            last, which at eta = 0 is DPM-Solver++ 2M (Lu et al. 2022b, algorithm 2) and at eta = 1 its SDE form. The
            first step, and the one to clean data, are of first order.
        corrector: once x0_hat at x_t is known, correct the step that led to x_t by it, before the next (the corrector of
            UniPC, Zhao et al. 2023): one order more for the deterministic sampler, and no further network call.
        mean_square_epsilon: Gamma_t = E |eps_hat(x_t, t)|^2 / d for t = 0 .. T-1, as `ddpm-hf calibrate` measures it.
        clip_covariance: keep Cov[x0 | x_t] in [0, r^2], its bounds for data in [-r, r], r being `clip_sample_range` (Bao
            2022a, theorem 2), whether or not `clip_sample` has x0_hat clamped.
        clip_variance_pixels: `step` adds no more noise in the last noisy step than moves a value by so many levels of
            256 on average; Analytic-DPM's code has 2 for DDPM on linear schedules, 1 for cosine ones and for DDIM.
        timestep_plans: `{"25": [25 descending timesteps], ..}`: what `set_timesteps(25)` visits, whatever the spacing.

    Raises:
        ValueError: for a value outside what its key allows; the message says what is.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]  # noqa: RUF012
    order = 1

    _own_keys = (
        *("eta", "use_clipped_model_output", "solver_order", "corrector", "mean_square_epsilon", "clip_covariance"),
        *("clip_variance_pixels", "timestep_plans"),
    )
    # DPM-Solver has a key of this name with another default, and values that mean nothing here.
    _shadowed_keys = ("solver_order",)
    # For a network with a head stock classes must take a type that reads one; a covariance near 0 is to `learned_range` a
    # variance midway between the fixed ones.
    _stand_ins = {  # noqa: RUF012
        "timestep_spacing": dict.fromkeys(OWN_SPACINGS, "leading"),
        "variance_type": {"analytic": "fixed_small", **dict.fromkeys(COVARIANCE_HEADS, "learned_range")},
    }

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        variance_type: str = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        eta: float = 1.0,
        use_clipped_model_output: bool = True,
        solver_order: int = 1,
        corrector: bool = False,
        mean_square_epsilon: list[float] | None = None,
        clip_covariance: bool = True,
        clip_variance_pixels: float | None = None,
        timestep_plans: dict[str, list[int]] | None = None,
    ):
        _check_choice("beta_schedule", beta_schedule, BETA_SCHEDULES)
        _check_choice("variance_type", variance_type, FIXED_VARIANCE_TYPES + LEARNED_VARIANCE_TYPES + COVARIANCE_TYPES)
        _check_choice("solver_order", solver_order, (1, 2))
        _check_choice("prediction_type", prediction_type, PREDICTION_TYPES)
        _check_choice("timestep_spacing", timestep_spacing, STOCK_SPACINGS + OWN_SPACINGS)
        _check_eta(eta)
        if num_train_timesteps < 1:
            raise ValueError(f"num_train_timesteps={num_train_timesteps} must be at least 1.")
        if beta_schedule == "quadratic":  # stock classes know it by the other name
            self.register_to_config(beta_schedule="scaled_linear")

        betas = make_betas(beta_schedule, num_train_timesteps, beta_start, beta_end, trained_betas)
        if rescale_betas_zero_snr:
            betas = zero_terminal_snr(betas)
        # Index s + 1, so that clean data (s = -1) is index 0. All tables are made from this one, in float64:
        # in float32, 1 - abar_0 is off by up to 5e-4.
        self._alphas_bar = torch.from_numpy(np.concatenate([[1.0], np.cumprod(1 - betas)]))
        self.betas = torch.from_numpy(betas).float()
        self.alphas = 1.0 - self.betas
        self.alphas_cumprod = self._alphas_bar[1:].float()
        self._warn_of_terminal_signal()
        self._register_calibration(mean_square_epsilon, clip_variance_pixels, timestep_plans)

        self.init_noise_sigma = 1.0
        self.num_inference_steps = None
        self.custom_timesteps = False
        self._set_trajectory(np.arange(num_train_timesteps)[::-1].copy(), device=None)

    def __len__(self):
        return self.config.num_train_timesteps

    def _register_calibration(self, mean_square_epsilon, clip_variance_pixels, timestep_plans):
        """What was measured about the model, checked, and in the config as JSON has it."""
        needs = [
            f"{name}={self.config[name]!r}"
            for name, value in (("variance_type", "analytic"), ("timestep_spacing", "optimal"))
            if self.config[name] == value
        ]
        if mean_square_epsilon is None and needs:
            raise ValueError(
                f"{needs[0]} needs mean_square_epsilon, which is measured: `ddpm-hf calibrate MODEL --dataset DATA "
                "--output_dir NEW` writes a model that has it."
            )
        if clip_variance_pixels is not None and not clip_variance_pixels > 0:
            raise ValueError(
                f"clip_variance_pixels={clip_variance_pixels} must be greater than 0, or None for no clip."
            )
        self._mean_square_epsilon = None
        if mean_square_epsilon is not None:
            self._mean_square_epsilon = checked_mean_square_epsilon(mean_square_epsilon, len(self))
            self.register_to_config(mean_square_epsilon=self._mean_square_epsilon.tolist())
        if timestep_plans is not None:
            plans = checked_plans(timestep_plans, self._alphas_bar[1:].numpy(), LARGEST_TERMINAL_ALPHA_BAR)
            self.register_to_config(timestep_plans=plans)

    def _warn_of_terminal_signal(self):
        alpha_bar, steps = self._alphas_bar[-1].item(), self.config.num_train_timesteps
        if alpha_bar <= LARGEST_TERMINAL_ALPHA_BAR:
            return
        advice = "rescale_betas_zero_snr=True ends in noise"
        if self.config.beta_schedule in ("linear", "scaled_linear") and self.config.trained_betas is None:
            scale = 1000 / steps
            advice += (
                f", and so do the papers' ranges scaled by 1000/T: beta_start={1e-4 * scale:g}, "
                f"beta_end={min(0.02 * scale, 0.999):g}"
            )
        logger.warning(
            f"The forward process does not end in noise: alpha_bar_T = {alpha_bar:.3g} at T = {steps} (at most "
            f"{LARGEST_TERMINAL_ALPHA_BAR} is wanted), so x_T still shows the data; {advice}."
        )

    # Trajectories ----------------------------------------------------------------------------------------------------

    def set_timesteps(self, num_inference_steps=None, device=None, timesteps=None):
        """Choose the timesteps that sampling visits; with no argument, all of them.

        Args:
            num_inference_steps (`int`, *optional*): K of them, placed by the plan for K in `timestep_plans`, or by
                `timestep_spacing`.
            device (`str` or `torch.device`, *optional*): where `self.timesteps` is kept.
            timesteps (`list[int]`, *optional*): the timesteps themselves, descending, instead of K.
        """
        steps = self.config.num_train_timesteps
        if num_inference_steps is not None and timesteps is not None:
            raise ValueError("Pass num_inference_steps or timesteps, not both.")
        if timesteps is not None:
            trajectory = checked_timesteps(timesteps, steps)
        elif num_inference_steps is None:
            trajectory = np.arange(steps)[::-1].copy()
        elif str(num_inference_steps) in (self.config.timestep_plans or {}):
            trajectory = np.array(self.config.timestep_plans[str(num_inference_steps)], dtype=np.int64)
        elif 1 <= num_inference_steps <= steps:
            trajectory = spaced_timesteps(
                self.config.timestep_spacing,
                num_inference_steps,
                self._alphas_bar[1:].numpy(),
                self.config.steps_offset,
                None if self._mean_square_epsilon is None else self._mean_square_epsilon.numpy(),
            )
        else:
            raise ValueError(
                f"num_inference_steps={num_inference_steps} must be in 1 .. {steps}, the training timesteps."
            )
        if self.config.prediction_type == "epsilon" and self.alpha_bar(trajectory[0]) == 0:
            raise ValueError(
                f"Timestep {trajectory[0]} has no signal (rescale_betas_zero_snr), so x0 does not follow from a predicted "
                "epsilon there. Use a model with prediction_type='v_prediction' or 'sample', or begin at a lower timestep."
            )
        self.custom_timesteps = timesteps is not None
        self.num_inference_steps = len(trajectory)
        self._set_trajectory(trajectory, device)

    def _set_trajectory(self, timesteps, device):
        self.timesteps = torch.from_numpy(timesteps).to(device)
        # The previous timestep of any t is the next lower one of the trajectory, whether or not t is on it.
        ascending = np.concatenate([[-1], timesteps[::-1]])
        below = np.searchsorted(ascending, np.arange(self.config.num_train_timesteps)) - 1
        self._previous = torch.from_numpy(ascending[below])
        self._trajectory = torch.from_numpy(ascending[1:])
        self._decoder_variance = self._second_posterior_variance(ascending[1:])
        self._tables, self._rows, self._previous_tables = {}, {}, {}
        self._last = None

    def previous_timestep(self, timestep):
        """The timestep that follows `timestep` (int, or tensor of any shape) in sampling; -1 is clean data."""
        if not isinstance(timestep, torch.Tensor):
            return self._previous[timestep].item()
        table = self._previous_tables.get(timestep.device)
        if table is None:  # once for each device: the host waits for every copy
            table = self._previous_tables[timestep.device] = self._previous.to(timestep.device)
        return table[timestep]

    def alpha_bar(self, timesteps):
        """alpha_bar in float64 on the host, for timesteps (int or tensor of any shape) from -1, which is clean data."""
        return self._alphas_bar[torch.as_tensor(timesteps).cpu() + 1]

    def decoder_variance(self, prev_timestep=None):
        """beta~ of a chain's second transition, which stands for that of the first, 0, where a logarithm is taken.

        The chain is the trajectory (Improved DDPM's code), or the full one where `prev_timestep` is given, as for
        `p_mean_variance` (Analytic-DPM's code).
        """
        if prev_timestep is None:
            return self._decoder_variance
        return self._second_posterior_variance(np.arange(self.config.num_train_timesteps))

    # The forward process ---------------------------------------------------------------------------------------------

    def scale_model_input(self, sample, timestep=None):
        """The sample itself: the model sees x_t."""
        return sample

    def add_noise(self, original_samples, noise, timesteps):
        """x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise (Ho 2020, eq. 4), shape and dtype of `original_samples`.

        Half precision is computed in float32: otherwise the first timesteps would get no noise at all.

        Args:
            timesteps (`int` or `torch.Tensor`): 0-based, one for all or one per sample.
        """
        signal, sigma = self._signal_and_sigma(timesteps, original_samples)
        return self._combine(signal, original_samples, sigma, noise)

    def get_velocity(self, sample, noise, timesteps):
        """v = sqrt(abar_t) noise - sqrt(1 - abar_t) x0 (Salimans & Ho 2022, appendix D); arguments as `add_noise`."""
        signal, sigma = self._signal_and_sigma(timesteps, sample)
        return self._combine(signal, noise, -sigma, sample).to(sample.dtype)

    def _signal_and_sigma(self, timesteps, like):
        table = self._noise_tables.get(like.device)
        if table is None:
            alphas_bar = self._alphas_bar[1:]
            table = torch.stack([alphas_bar.sqrt(), (1 - alphas_bar).sqrt()], dim=1)
            table = self._noise_tables[like.device] = table.to(like.device, _table_dtype(like.device))
        if not isinstance(timesteps, torch.Tensor) or timesteps.device.type == "cpu":
            self._check_range(timesteps)
            timesteps = torch.as_tensor(timesteps).to(like.device, non_blocking=True)
        columns = table[timesteps].to(_math_dtype(like)).unbind(-1)
        return (_broadcastable(c, like.ndim) for c in columns)

    @cached_property
    def _noise_tables(self):
        return {}

    @staticmethod
    def _combine(a, x, b, y):
        dtype = _math_dtype(x)
        return _affine(a, x.to(dtype), b, y.to(dtype)).to(x.dtype)

    def q_posterior(self, original_samples, sample, timestep, prev_timestep=None, eta=None):
        """q(x_s | x_t, x0), the forward posterior (Ho 2020, eq. 6 and 7; at other eta Song 2020, eq. 7).

        Args:
            original_samples, sample: x0 and x_t.
            timestep, prev_timestep: t and s, ints, 0-d tensors or one per sample; s is None for the next timestep of
                the trajectory, -1 for clean data.
            eta (`float`, *optional*): instead of the config's.
        """
        dtype = _math_dtype(sample, original_samples)
        original_samples, sample = original_samples.to(dtype), sample.to(dtype)
        eta = self._checked_eta(eta)
        c = self._transition(timestep, prev_timestep, eta, sample)
        mean = _affine(c.posterior_x0, original_samples, c.posterior_sample, sample)
        return GaussianOutput(mean=mean, variance=_expanded(c.posterior_variance, mean))

    # The reverse kernel ----------------------------------------------------------------------------------------------

    def step(
        self,
        model_output,
        timestep,
        sample,
        eta=None,
        use_clipped_model_output=None,
        generator=None,
        variance_noise=None,
        return_dict=True,
        classifier_gradient=None,
        guidance_form="score",
    ):
        """Draw x_s given x_t, s being the next timestep of the trajectory.

        Args:
            model_output (`torch.Tensor`): (B, C, *), or (B, 2C, *) from a model with a variance head.
            timestep (`int` or `torch.Tensor`): t; a tensor on an accelerator is never read by the host.
            sample (`torch.Tensor`): x_t, (B, C, *).
            eta, use_clipped_model_output: instead of the config's.
            generator (`torch.Generator` or a list of B, *optional*): the only source of randomness.
            variance_noise (`torch.Tensor`, *optional*): the standard normal noise itself.
            classifier_gradient (`torch.Tensor`, *optional*): scale times the gradient of log p(y | x_t), of x_t's shape.
            guidance_form (`str`): what the gradient shifts: `score` as `condition_score` has it (any eta), or `mean` as
                `condition_mean` has it.

        Returns:
            [`GaussianDiffusionSchedulerOutput`], or with `return_dict=False` the tuple (x_s, x0_hat), in the dtype of
            `sample`. Half precision is computed in float32.
        """
        output, head, x_t = self._prepared(model_output, sample)
        eta = self._checked_eta(eta)
        c = self._transition(timestep, None, eta, x_t)
        x0 = self._predicted_x0(output, x_t, c)
        prev_sample = self._mean(output, x_t, x0, c, use_clipped_model_output)
        variance = self._variance(head, c, eta)
        if classifier_gradient is not None:
            self._check_guidance(classifier_gradient, guidance_form, x_t, eta)
            gradient = _cast(classifier_gradient, x_t.dtype)
            if guidance_form == "mean":
                prev_sample = _guided_mean(prev_sample, variance, gradient)
            else:
                prev_sample, x0 = _guided_score(prev_sample, x0, gradient, c)
        if self.config.solver_order == 2 or self.config.corrector:
            prev_sample = self._with_last_step_(prev_sample, x0, c)
        if self.config.clip_variance_pixels is not None:
            variance = _smaller(variance, c.largest_variance)
        if not (_is_zero(variance) or _is_zero(c.noisy)):
            if variance_noise is None:
                variance_noise = randn_tensor(x_t.shape, generator=generator, device=x_t.device, dtype=x_t.dtype)
            prev_sample = _add_noise_(prev_sample, variance, c.noisy, _cast(variance_noise, x_t.dtype))
        prev_sample, x0 = _cast(prev_sample, sample.dtype), _cast(x0, sample.dtype)
        if not return_dict:
            return prev_sample, x0
        return GaussianDiffusionSchedulerOutput(prev_sample=prev_sample, pred_original_sample=x0)

    def p_mean_variance(
        self, model_output, timestep, sample, prev_timestep=None, eta=None, use_clipped_model_output=None
    ):
        """The reverse kernel p(x_s | x_t) itself, from which `step` draws. Arguments as `step` and `q_posterior`.

        The variance of the transition to clean data is that of the decoder p(x0 | x_1) of the bound, where the
        literature's codes differ: `fixed_small` is 0; `fixed_large` and the lower end of `learned_range` are beta~ of
        the trajectory's second transition, as in Improved DDPM's code (diffusers: beta and 1e-20). A pair given with
        `prev_timestep` has no trajectory: `fixed_large` is its beta, and the lower end is beta~ of the full chain's
        second transition, as in Analytic-DPM's code. Where the type has a covariance of x0, that is the decoder's
        variance. The kernel is that of first order, without history, and its variance is not clipped by
        `clip_variance_pixels`: both are for sampling. Half precision gives float32.
        """
        output, head, x_t = self._prepared(model_output, sample)
        eta = self._checked_eta(eta)
        c = self._transition(timestep, prev_timestep, eta, x_t)
        x0 = self._predicted_x0(output, x_t, c)
        if self._rederives_epsilon(use_clipped_model_output):
            epsilon = _affine(c.rederived_sample, x_t, c.rederived_x0, x0)
        else:
            epsilon = _epsilon(output, x_t, c)
        mean = self._mean(output, x_t, x0, c, use_clipped_model_output)
        variance = _expanded(self._variance(head, c, eta), mean)
        return ReverseKernelOutput(mean=mean, variance=variance, pred_original_sample=x0, pred_epsilon=epsilon)

    def condition_mean(self, kernel, gradient):
        """The kernel with its mean shifted by variance * gradient (Dhariwal & Nichol 2021, algorithm 1).

        That of x_s given x_t and y to first order in x_s - mean: for many steps and a variance that is not 0, so not for
        eta = 0. The shift is by the variance of the kernel, before any `clip_variance_pixels`.

        Args:
            kernel ([`ReverseKernelOutput`]): what `p_mean_variance` gave.
            gradient (`torch.Tensor`): scale times the gradient of log p(y | x_t), of x_t's shape.
        """
        gradient = _cast(gradient, kernel.mean.dtype)
        return ReverseKernelOutput(**{**kernel, "mean": _guided_mean(kernel.mean, kernel.variance, gradient)})

    def condition_score(self, kernel, gradient, timestep, sample, prev_timestep=None, eta=None):
        """The kernel at eps_hat - sqrt(1 - abar_t) * gradient (Dhariwal & Nichol 2021, algorithm 2), for any eta.

        x0_hat, which follows from it, is eps_hat's after clipping, shifted by (1 - abar_t) / sqrt(abar_t) * gradient, and
        not clipped again, as in their code; the mean follows from both, and the variance stays. Where there is no signal
        (abar_t = 0) there is no class in x_t, and no shift.

        Args:
            kernel ([`ReverseKernelOutput`]): what `p_mean_variance` gave for the same `timestep`, `sample` (x_t),
                `prev_timestep` and `eta`.
            gradient (`torch.Tensor`): scale times the gradient of log p(y | x_t), of x_t's shape.
        """
        gradient = _cast(gradient, kernel.mean.dtype)
        c = self._transition(timestep, prev_timestep, self._checked_eta(eta), _cast(sample, kernel.mean.dtype))
        mean, x0 = _guided_score(kernel.mean, kernel.pred_original_sample, gradient, c)
        epsilon = kernel.pred_epsilon + c.rederived_x0 * (gradient * c.guidance)
        return ReverseKernelOutput(mean=mean, variance=kernel.variance, pred_original_sample=x0, pred_epsilon=epsilon)

    def _check_guidance(self, gradient, form, x_t, eta):
        _check_choice("guidance_form", form, GUIDANCE_FORMS)
        if gradient.shape != x_t.shape:
            raise ValueError(
                f"classifier_gradient of shape {tuple(gradient.shape)} must be of the sample's, {tuple(x_t.shape)}."
            )
        if form == "mean" and eta == 0 and self.config.variance_type not in COVARIANCE_TYPES:
            raise ValueError(
                f"guidance_form='mean' shifts by the variance, which variance_type='{self.config.variance_type}' has not "
                "at eta=0: use guidance_form='score', or eta > 0."
            )

    def get_epsilon(self, model_output, timesteps, sample):
        """eps_hat as the network means it, whatever it predicts: x0 or v too (Salimans & Ho 2022, appendix D).

        Nothing is clipped, and a variance head is left out. Half precision gives float32.

        Args:
            timesteps (`int` or `torch.Tensor`): 0-based, one for all or one per sample.
        """
        output, _, x_t = self._prepared(model_output, sample)
        _, _, of_sample, of_output = self._prediction_factors(*self._signal_and_sigma(timesteps, x_t))
        return _affine(of_sample, x_t, of_output, output)

    def _prepared(self, model_output, sample):
        """The prediction, the variance head (or None) and x_t, in the dtype of the arithmetic."""
        channels, given = sample.shape[1], model_output.shape[1]
        dtype = _math_dtype(sample, model_output)
        learned = self.config.variance_type in LEARNED_VARIANCE_TYPES + COVARIANCE_HEADS
        if given not in (channels, 2 * channels) or (learned and given != 2 * channels):
            raise ValueError(
                f"The model output has {given} channels for samples of {channels}; variance_type="
                f"'{self.config.variance_type}' needs {2 * channels if learned else f'{channels} or {2 * channels}'}"
                + (": a model with a variance head, or variance_type='fixed_small' without one." if learned else ".")
            )
        model_output, sample = _cast(model_output, dtype), _cast(sample, dtype)
        if given == channels:
            return model_output, None, sample
        output, head = model_output.chunk(2, dim=1)
        return output, head, sample

    def _predicted_x0(self, output, x_t, c):
        x0 = _affine(c.x0_sample, x_t, c.x0_output, output)
        if self.config.thresholding:
            return self._thresholded(x0)
        if self.config.clip_sample:
            return x0.clamp_(-self.config.clip_sample_range, self.config.clip_sample_range)
        return x0

    def _thresholded(self, x0):
        """Dynamic thresholding (Saharia 2022, section 2.3): clamp to the sample's own percentile and divide by it."""
        ratio, largest = self.config.dynamic_thresholding_ratio, self.config.sample_max_value
        bound = torch.quantile(x0.flatten(1).abs(), ratio, dim=1).clamp(min=1.0, max=max(1.0, largest))
        bound = _broadcastable(bound, x0.ndim)
        return x0.clamp(-bound, bound) / bound

    def _checked_eta(self, eta):
        eta = self.config.eta if eta is None else eta
        _check_eta(eta)
        return eta

    def _rederives_epsilon(self, use_clipped_model_output):
        return self.config.use_clipped_model_output if use_clipped_model_output is None else use_clipped_model_output

    def _mean(self, output, x_t, x0, c, use_clipped_model_output):
        if self._rederives_epsilon(use_clipped_model_output):
            return _affine(c.posterior_x0, x0, c.posterior_sample, x_t)
        return _affine(c.direct_x0, x0, c.direct_eps, _epsilon(output, x_t, c))

    def _with_last_step_(self, mean, x0, c):
        """`mean` with x0_hat + h / (2 h_last) (x0_hat - the last x0_hat) in place of x0_hat, and at the corrected x_t.

        The step to x_t was drawn with one x0. Between its ends x0_hat went from the last one to this, and to first order in
        log-SNR their mean with the weights of the integral is what it should have been drawn with.
        """
        last, drawn_with = self._last, x0
        if last is not None and self.config.solver_order == 2 and not _is_zero(c.extrapolation):
            change = (x0 - last.x0).mul_(c.extrapolation)
            drawn_with = x0 + change
            mean.add_(change.mul_(c.posterior_x0))
        if last is not None and self.config.corrector:
            mean.add_((last.x0.lerp(x0, c.correction) - last.drawn_with).mul_(c.corrected_mean))
        self._last = LastStep(x0, drawn_with)
        return mean

    def _variance(self, head, c, eta):
        """The elementwise variance of the kernel, a number or a tensor: the place for every `variance_type`."""
        kind = self.config.variance_type
        if kind == "analytic":
            return c.analytic
        if kind in COVARIANCE_HEADS:
            covariance = head_covariance(head, c.covariance_scale)
            if self.config.clip_covariance:
                covariance = covariance.clamp_(0, self.config.clip_sample_range**2)
            return covariance.mul_(c.posterior_x0**2).add_(c.posterior_variance)
        if eta == 0:
            return 0.0
        if kind in ("fixed_small", "fixed_small_log"):
            return c.fixed_small
        if kind in ("fixed_large", "fixed_large_log"):
            return c.fixed_large
        log_variance = head
        if kind == "learned_range":  # frac log beta + (1 - frac) log beta~ with frac = (v + 1) / 2
            half_width, middle = (c.log_large - c.log_small) / 2, (c.log_large + c.log_small) / 2
            log_variance = head * half_width + middle
        return log_variance.exp() * eta**2

    # The numbers of a transition -------------------------------------------------------------------------------------

    def _transition(self, timestep, prev_timestep, eta, sample):
        on_host = not isinstance(timestep, torch.Tensor) or (timestep.ndim == 0 and timestep.device.type == "cpu")
        if prev_timestep is not None:
            values = self._pair_values(timestep, prev_timestep, eta)
        elif on_host:
            return self._row(int(timestep), eta, sample.dtype)
        else:
            if timestep.device.type == "cpu":
                self._check_range(timestep)
            timestep = timestep.to(sample.device)
            values = self._table(eta, sample.device)[timestep]
        if values.ndim == 1 and values.device.type == "cpu":
            return _on_host(values, sample.dtype)
        columns = values.to(sample.device, sample.dtype).unbind(-1)
        return Transition(*(_broadcastable(column, sample.ndim) for column in columns))

    def _row(self, timestep, eta, dtype):
        row = self._rows.get((timestep, eta, dtype))
        if row is None:
            self._check_range(timestep)
            row = _on_host(self._table(eta, torch.device("cpu"))[timestep], dtype)
            self._rows[timestep, eta, dtype] = row
        return row

    def _table(self, eta, device):
        """The transitions of all T timesteps to their previous ones, (T, numbers), made once per trajectory and eta."""
        table = self._tables.get((eta, device))
        if table is None:
            t, s, decoder = torch.arange(len(self)), self._previous, self._decoder_variance
            values = self._transition_values(t, s, eta, decoder, decoder)
            values |= {"largest_variance": self._largest_variances(s), "extrapolation": self._extrapolations(t, s)}
            if self.config.corrector:
                correction, last_posterior_x0 = self._corrections(t, eta)
                values |= {"correction": correction, "corrected_mean": last_posterior_x0 * values["posterior_sample"]}
            table = self._tables[eta, device] = _stacked(values).to(device, _table_dtype(device))
        return table

    def _largest_variances(self, s):
        """What `clip_variance_pixels` allows in the last noisy step, which arrives at the trajectory's last timestep."""
        limits = torch.full(s.shape, math.inf, dtype=torch.float64)
        if self.config.clip_variance_pixels is None:
            return limits
        return limits.masked_fill(s == self._trajectory[0], largest_variance(self.config.clip_variance_pixels))

    def _extrapolations(self, t, s):
        """h / (2 h_last) for the steps u -> t -> s, h and h_last their lengths in log(signal / noise); 0 for first order."""
        u, begins = self._timesteps_before(t)
        log_snr = self._log_snr()
        h, h_last = log_snr[s + 1] - log_snr[t + 1], log_snr[t + 1] - log_snr[u + 1]
        return (h / (2 * h_last)).masked_fill((s < 0) | begins, 0)

    def _corrections(self, t, eta):
        """For the steps u -> t: the weight of x0_hat(t), that of x0_hat(u) being the rest, and `posterior_x0`; 0 without u.

        x0 enters x_t by int e^(k l) x0(l) dl over l = log(signal / noise), k = 1 for the probability flow and 2 for the
        reverse SDE (Lu et al. 2022b); where x0 goes evenly from one to the other over h, the weight is 1 / (1 - e^(-k h)) -
        1 / (k h).
        """
        u, begins = self._timesteps_before(t)
        log_snr = self._log_snr()
        length = (1 + eta**2) * (log_snr[t + 1] - log_snr[u + 1])
        weight = -1 / torch.expm1(-length) - 1 / length
        last_posterior_x0 = self._transition_values(u, t, eta, self._decoder_variance)["posterior_x0"]
        return tuple(values.masked_fill(begins, 0) for values in (weight, last_posterior_x0))

    def _timesteps_before(self, t):
        """The timesteps u of the trajectory that are visited before t, and whether there are none."""
        above = torch.searchsorted(self._trajectory, t, right=True)
        begins = above == len(self._trajectory)
        return self._trajectory[above.clamp(max=len(self._trajectory) - 1)], begins

    def _log_snr(self):
        """log(signal / noise), like alpha_bar itself by t + 1, from clean data on, where it is infinite."""
        return 0.5 * (self._alphas_bar.log() - torch.log1p(-self._alphas_bar))

    def _pair_values(self, timestep, prev_timestep, eta):
        """The transitions of given pairs; the tables stay on the host, as do pairs given as numbers."""
        t, s = torch.broadcast_tensors(*(torch.as_tensor(x).cpu() for x in (timestep, prev_timestep)))
        self._check_range(t)
        if (s < -1).any() or (s >= t).any():
            raise ValueError(f"prev_timestep={prev_timestep} must be in -1 .. timestep - 1 (timestep={timestep}).")
        return _stacked(self._transition_values(t, s, eta, small_to_data=self.decoder_variance(prev_timestep)))

    def _check_range(self, timesteps):
        steps = self.config.num_train_timesteps
        low, high = (timesteps, timesteps) if isinstance(timesteps, int) else _aminmax(timesteps)
        if low < 0 or high >= steps:
            raise ValueError(f"Timesteps must be in 0 .. {steps - 1}; got {low if low < 0 else high}.")

    def _second_posterior_variance(self, ascending):
        """beta~ of the second transition of a chain, in place of that of the first, which is 0."""
        if len(ascending) < 2:
            return (1 - self.alpha_bar(0)).item()
        alpha_bar_s, alpha_bar_t = self.alpha_bar(ascending[:2])
        return ((1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s)).item()

    def _transition_values(self, t, s, eta, small_to_data, large_to_data=None):
        """The columns of `Transition`, in float64, of the shape of t and s; those of a trajectory are left open.

        `small_to_data` stands for beta~ (which is 0 there) as lower end of the learned range where x_s is clean data,
        and `large_to_data`, if given, for beta.
        """
        alpha_bar_t, alpha_bar_s, to_data = self.alpha_bar(t), self.alpha_bar(s), s < 0
        signal, sigma = alpha_bar_t.sqrt(), (1 - alpha_bar_t).sqrt()
        zero, one = torch.zeros_like(signal), torch.ones_like(signal)
        beta = 1 - alpha_bar_t / alpha_bar_s
        beta_tilde = (1 - alpha_bar_s) / (1 - alpha_bar_t) * beta
        direction = ((1 - alpha_bar_s) * (1 - eta**2 * beta / (1 - alpha_bar_t)).clamp(min=0)).sqrt()
        small = beta_tilde.masked_fill(to_data, small_to_data)
        large = beta if large_to_data is None else beta.masked_fill(to_data, large_to_data)
        x0_sample, x0_output, eps_sample, eps_output = self._prediction_factors(signal, sigma)
        posterior_x0 = alpha_bar_s.sqrt() - signal * direction / sigma
        transition = Transition(
            x0_sample=x0_sample,
            x0_output=x0_output,
            eps_sample=eps_sample,
            eps_output=eps_output,
            rederived_sample=1 / sigma,
            rederived_x0=-signal / sigma,
            direct_x0=alpha_bar_s.sqrt(),
            direct_eps=direction,
            posterior_x0=posterior_x0,
            posterior_sample=direction / sigma,
            # Without signal x_t says nothing of the class: the gradient is 0, and infinity times it must be.
            guidance=((1 - alpha_bar_t) / signal).masked_fill(alpha_bar_t == 0, 0),
            posterior_variance=eta**2 * beta_tilde,
            fixed_small=eta**2 * beta_tilde,
            fixed_large=eta**2 * large,
            log_small=small.log(),
            log_large=beta.log(),
            analytic=eta**2 * beta_tilde + posterior_x0**2 * self._mean_covariance(t, alpha_bar_t),
            covariance_scale=covariance_scale(alpha_bar_t),
            largest_variance=torch.full_like(one, math.inf),
            extrapolation=zero,
            correction=zero,
            corrected_mean=zero,
            noisy=(~to_data).to(one.dtype),
        )
        return transition._asdict()

    def _prediction_factors(self, signal, sigma):
        """What x_t and the output count for in x0_hat, and what in eps_hat."""
        zero, one = torch.zeros_like(signal), torch.ones_like(signal)
        return {
            "epsilon": (1 / signal, -sigma / signal, zero, one),
            "sample": (zero, one, 1 / sigma, -signal / sigma),
            "v_prediction": (signal, -sigma, sigma, signal),
        }[self.config.prediction_type]

    def _mean_covariance(self, t, alpha_bar_t):
        if self._mean_square_epsilon is None:
            return 0.0
        covariance = mean_covariance(self._mean_square_epsilon[t], alpha_bar_t)
        return covariance.clamp(0, self.config.clip_sample_range**2) if self.config.clip_covariance else covariance


# Small pieces --------------------------------------------------------------------------------------------------------


def _check_choice(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}.")


def _check_eta(eta):
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta} must be in [0, 1]: 0 is DDIM, 1 is DDPM.")


def _is_zero(value):
    """Whether a number is 0; a tensor may be, but asking would make the host wait for the device."""
    return isinstance(value, float) and value == 0.0


def _math_dtype(*tensors):
    """The dtype to compute in: float32 for half precision, and the widest otherwise."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _cast(tensor, dtype):
    return tensor if tensor.dtype == dtype else tensor.to(dtype)  # `to` takes a microsecond to find nothing to do


def _table_dtype(device):
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64


def _aminmax(timesteps):
    low, high = torch.as_tensor(timesteps).aminmax()
    return low.item(), high.item()


def _broadcastable(values, ndim):
    """(B,) to (B, 1, ..); a 0-d tensor stays."""
    return values.reshape(-1, *(1,) * (ndim - 1)) if values.ndim else values


def _on_host(values, dtype):
    """The numbers of one transition. Factors are 0-d tensors: a product with a float would make one each time."""
    numbers = dict(zip(Transition._fields, values.tolist(), strict=True))
    return Transition(**numbers | {name: torch.tensor(numbers[name], dtype=dtype) for name in FACTORS})


def _expanded(values, like):
    if isinstance(values, float):
        values = torch.full((), values, dtype=like.dtype, device=like.device)
    return values.expand_as(like)


def _epsilon(output, x_t, c):
    """eps_hat as the network means it, whatever it predicts."""
    return _affine(c.eps_sample, x_t, c.eps_output, output)


def _guided_mean(mean, variance, gradient):
    return mean + gradient * variance


def _guided_score(mean, x0, gradient, c):
    """The mean and x0_hat at eps_hat - sqrt(1 - abar_t) * gradient.

    By their shifts, so that both are right for an eps_hat that was not re-derived from x0_hat too: the mean's is
    direct_x0 times that of x0_hat plus direct_eps times that of eps_hat, which is posterior_x0 times that of x0_hat.
    """
    shift = gradient * c.guidance
    return mean + shift * c.posterior_x0, x0 + shift


def _smaller(variance, limit):
    if isinstance(variance, float) and isinstance(limit, float):
        return min(variance, limit)
    if isinstance(limit, float):
        return variance.clamp_(max=limit)
    return torch.minimum(torch.as_tensor(variance, dtype=limit.dtype, device=limit.device), limit)


def _stacked(values):
    return torch.stack([values[name] for name in Transition._fields], dim=-1)


def _affine(a, x, b, y):
    """a x + b y in two passes over memory, for numbers and for tensors that broadcast."""
    if isinstance(b, float):
        return torch.mul(x, a).add_(y, alpha=b)
    return torch.mul(x, a).addcmul_(y, b)


def _add_noise_(mean, variance, noisy, noise):
    """mean + sqrt(variance) noise, and the mean alone where not `noisy`."""
    if isinstance(variance, float):
        return mean.add_(noise, alpha=variance**0.5)
    return mean.addcmul_(noise, (variance * noisy).sqrt())
