"""The scheduler of the DDPM family: a noise schedule, a trajectory and one Gaussian kernel, with diffusers' interface.

Notation, with 0-based time as in diffusers: alpha_bar_t = prod_{i <= t} (1 - beta_i), x_t is the sample after t + 1
noising steps, x_s the next sample of the trajectory (s < t), and s = -1 clean data (alpha_bar_{-1} = 1).
"""

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin

from ddpm_hf.portable.config import PortableConfigMixin
from ddpm_hf.schedulers.choices import OWN_SPACINGS
from ddpm_hf.schedulers.config_checks import check_config, check_eta, measured_values
from ddpm_hf.schedulers.covariance_spectrum import chosen_spectrum
from ddpm_hf.schedulers.fitted_solvers import solver_for
from ddpm_hf.schedulers.gaussian_process import GaussianProcess
from ddpm_hf.schedulers.multistep import History
from ddpm_hf.schedulers.noise_levels import NoiseLevels, as_host_int
from ddpm_hf.schedulers.noise_schedules import make_betas, warn_of_terminal_signal
from ddpm_hf.schedulers.reverse_kernel import (
    Clipping,
    KernelChoices,
    affine,
    cast,
    draw_,
    expanded,
    guided,
    in_one_dtype,
    output_of,
    predicted_epsilon,
    predicted_x0,
    read_output,
    rederived_epsilon,
    reverse_kernel,
)
from ddpm_hf.schedulers.scheduler_outputs import GaussianDiffusionSchedulerOutput, GaussianOutput
from ddpm_hf.schedulers.score_sde_config import as_chain
from ddpm_hf.schedulers.timestep_spacings import choose_timesteps
from ddpm_hf.schedulers.transition_table import TransitionTable, second_posterior_variance
from ddpm_hf.schedulers.variances import VARIANCES


class GaussianDiffusionScheduler(PortableConfigMixin, GaussianProcess, SchedulerMixin, ConfigMixin):
    """DDPM, DDIM, Improved DDPM and the samplers between them, as one Gaussian kernel with four choices.

    With lambda^2 = eta^2 (1 - abar_s) / (1 - abar_t) (1 - abar_t / abar_s), each step draws x_s from a Gaussian with

        mean     = sqrt(abar_s) x0_hat + sqrt(1 - abar_s - lambda^2) eps_hat
        variance = lambda^2 + (sqrt(abar_s) - sqrt(abar_t (1 - abar_s - lambda^2) / (1 - abar_t)))^2 Cov[x0 | x_t]

    `eta` = 1 is DDPM (Ho et al. 2020), 0 is DDIM (Song et al. 2020, eq. 12 and 16). It takes every key of
    [`DDPMScheduler`] with the same defaults, and converts from and to all Karras-family schedulers with `from_config`.

    Args:
        num_train_timesteps: T, the length of the chain.
        beta_start, beta_end: ends of the range of beta, in (0, 1); the papers' 1e-4 and 0.02 are for T = 1000.
        beta_schedule: `linear` (Ho 2020), `scaled_linear` or `quadratic` (linear in the square root), `sigmoid`
            (Xu et al. 2022), `squaredcos_cap_v2` (Nichol & Dhariwal 2021, eq. 17), `laplace` (Hang & Gu 2024).
        trained_betas: the T betas themselves.
        variance_type: `fixed_small` (beta~, optimal for a single data point) or `fixed_large` (beta, optimal for
            standard normal data), Ho 2020 section 3.2, also in diffusers' `_log` spellings; `learned` (the second half
            of the model's channels is the log-variance) or `learned_range` (the second half is v, and the variance is
            exp(frac log beta + (1 - frac) log beta~), frac = (v + 1) / 2: Nichol & Dhariwal 2021, eq. 15). These are
            the variances at eta = 1; at other eta they are multiplied by eta^2, so that eta = 0 is DDIM for every
            model. The other types add the covariance of x0 at every eta: `analytic` (one number per timestep, from
            `mean_square_epsilon`; Bao 2022a), `dct` (one per spatial frequency), and `npr`, `sn` (Bao 2022b) and `ocm`
            (Ou 2025), where the second half of the channels predicts it per pixel (`variances.head_covariance`). The
            types are the keys of `VARIANCES`.
        clip_sample, clip_sample_range: clamp x0_hat to [-range, range].
        prediction_type: what the model predicts: `epsilon`, `sample` (x0) or `v_prediction` (Salimans & Ho 2022).
        thresholding, dynamic_thresholding_ratio, sample_max_value: dynamic thresholding of x0_hat (Saharia 2022).
        timestep_spacing: `leading`, `linspace`, `trailing` (Lin et al. 2023, table 2); `quadratic` (Song 2020,
            appendix D.2, here to T - 1 and without repeats), `logsnr` (even in log-SNR, Lu 2022a), `karras` (even in
            sigma^(1/7), Karras 2022, eq. 5), `optimal` (least bound of `analytic`, Bao 2022a). All are rounded.
        steps_offset: added to the timesteps of `leading`.
        rescale_betas_zero_snr: shift the schedule so that abar_T = 0 (Lin et al. 2023, algorithm 1).
        eta: 0 (no noise, DDIM) to 1 (DDPM).
        use_clipped_model_output: after clipping x0_hat, derive eps_hat from it (True), or keep the model's (False).
            With True, eta = 1 is the DDPM step even after clipping. Improved DDPM's code re-derives eps_hat,
            Analytic-DPM's does not, and diffusers' DDIM does on request.
        solver_order: 1, or 2: the mean uses x0_hat extrapolated in log-SNR from the last call and this one, which is
            DPM-Solver++ 2M at eta = 0 (Lu et al. 2022b, algorithm 2) and its SDE form at eta = 1. The first step and
            the step to clean data are of first order.
        corrector: correct the step that led to x_t with x0_hat at x_t, before the next step (the corrector of UniPC,
            Zhao et al. 2023). It raises the deterministic order by one without a network call.
        mean_square_epsilon: Gamma_t = E |eps_hat(x_t, t)|^2 / d for t = 0 .. T-1, as `ddpm-hf calibrate` measures it.
        covariance_spectrum: how 1 - Gamma_t is shared out among spatial frequencies (`CovarianceSpectrum`), for `dct`.
        clip_covariance: clamp Cov[x0 | x_t] to [0, r^2], its bounds for data in [-r, r] with r = `clip_sample_range`
            (Bao 2022a, theorem 2), whether or not `clip_sample` clamps x0_hat.
        clip_variance_pixels: limit the noise of the last noisy step to a mean absolute shift of this many levels of
            256. Analytic-DPM's code uses 2 for DDPM on linear schedules, 1 for cosine schedules and for DDIM.
        fitted_solvers: coefficients of x_t and of all x0_hat so far, fitted to the model for some step counts, with
            their timesteps (`ddpm_hf.calibration.fit_solver`): `set_timesteps(5)` takes those for 5 at eta = 0.
        timestep_plans: `{"25": [25 descending timesteps], ..}`: the timesteps of `set_timesteps(25)`.

    Raises:
        ValueError: for a value that its key does not allow; the message says what is allowed.
    """

    # EDM has another forward process: see `config_checks`.
    _compatibles = [e.name for e in KarrasDiffusionSchedulers if e.name != "EDMEulerScheduler"]  # noqa: RUF012
    order = 1

    _own_keys = (
        *("eta", "use_clipped_model_output", "solver_order", "corrector", "mean_square_epsilon", "clip_covariance"),
        *("clip_variance_pixels", "timestep_plans", "fitted_solvers", "covariance_spectrum"),
    )
    # DPM-Solver has a key of this name with another default and with values that have no meaning here.
    _shadowed_keys = ("solver_order",)
    _kept_keys = (
        *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type"),
        *("clip_sample", "timestep_spacing"),
    )

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
        fitted_solvers: dict | None = None,
        covariance_spectrum: dict | None = None,
    ):
        check_config(self.config)
        if beta_schedule == "quadratic":  # the name in stock classes
            self.register_to_config(beta_schedule="scaled_linear")
        betas = make_betas(self.config)
        alphas_bar = np.cumprod(1 - betas)
        self._levels = NoiseLevels(torch.from_numpy(alphas_bar))
        self.betas = torch.from_numpy(betas).float()
        self.alphas = 1.0 - self.betas
        self.alphas_cumprod = torch.from_numpy(alphas_bar).float()
        warn_of_terminal_signal(alphas_bar[-1], self.config)
        self.register_to_config(**measured_values(self.config, alphas_bar))
        # A look-up in the config takes a microsecond, and a step may take fifty.
        self._clipping, self._clips_variance = Clipping.of(self.config), clip_variance_pixels is not None
        self._choices = {given: KernelChoices.of(self.config, given) for given in (None, False, True)}
        self._spectrum = chosen_spectrum(self.config, self._choices[None].rule)
        self.init_noise_sigma, self.num_inference_steps, self.custom_timesteps = 1.0, None, False
        self._follow(np.arange(num_train_timesteps)[::-1].copy(), device=None)

    def __len__(self):
        return self.config.num_train_timesteps

    @property
    def _stand_ins(self):
        variances = {name: rule.stand_in for name, rule in VARIANCES.items() if rule.stand_in is not None}
        return {"timestep_spacing": dict.fromkeys(OWN_SPACINGS, "leading"), "variance_type": variances}

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        return super().extract_init_dict(as_chain(config_dict), **kwargs)

    # Trajectories ----------------------------------------------------------------------------------------------------

    def set_timesteps(self, num_inference_steps=None, device=None, timesteps=None):
        """Choose the timesteps that sampling visits; with no argument, all of them.

        Args:
            num_inference_steps (`int`, *optional*): K, the number of timesteps, placed by the plan for K in
                `timestep_plans`, or by `timestep_spacing`.
            device (`str` or `torch.device`, *optional*): the device of `self.timesteps`.
            timesteps (`list[int]`, *optional*): the timesteps themselves, descending, instead of K.
        """
        solver = None if timesteps is not None else self._fitted_solver(num_inference_steps)
        if solver is None:
            alphas_bar = self._levels.alphas_bar[1:].numpy()
            trajectory = choose_timesteps(num_inference_steps, timesteps, alphas_bar, self.config)
        else:
            trajectory = np.array(solver.timesteps)
        self._levels.check_x0_follows(self.config.prediction_type, trajectory)
        self.custom_timesteps = timesteps is not None
        self.num_inference_steps = len(trajectory)
        self._follow(trajectory, device, solver)

    def _fitted_solver(self, count):
        """The [`FittedSolver`] for this number of steps, or None where there is none."""
        if self.config.fitted_solvers is None or not self._choices[None].has_no_variance(self.config.eta):
            return None
        return solver_for(self.config.fitted_solvers, count, self._levels)

    def _follow(self, trajectory, device, solver=None):
        self.timesteps = torch.from_numpy(trajectory).to(device)
        self._transitions = TransitionTable(self._levels, trajectory, self.config)
        self._solver = solver
        self._history = History(self.config.solver_order == 2, self.config.corrector, solver)

    @property
    def fitted_guidance_scale(self):
        """The guidance scale at which the current trajectory's solver was fitted; None if it is not fitted."""
        return None if self._solver is None else self.config.fitted_solvers["fitted_for"]["guidance_scale"]

    def scale_model_input(self, sample, timestep=None):
        """x_t, which the network sees: the sample itself, except where a solver with a free first call begins.

        There the sample is x_T, and x_t follows from it by the flow of the data's moments. `step` is given the same
        sample, as in all of diffusers.
        """
        if self._solver is None or not self._solver.begins_at(self._solver.on_host(timestep)):
            return sample
        return self._solver.begun(sample)

    def add_noise(self, original_samples, noise, timesteps):
        """x_t as in [`GaussianProcess`]; x_T where a solver with a free first call begins, as `step` takes it."""
        if self._solver is not None and self._solver.free_first_call:
            timesteps = torch.as_tensor(timesteps)
            timesteps = timesteps.masked_fill(timesteps == self._solver.timesteps[0], len(self) - 1)
        return super().add_noise(original_samples, noise, timesteps)

    def previous_timestep(self, timestep):
        """The next timestep of sampling after `timestep` (int, or tensor of any shape); -1 is clean data."""
        return self._transitions.next_timestep(timestep)

    def alpha_bar(self, timesteps):
        """alpha_bar in float64 on the host, for timesteps (int or tensor of any shape); -1 is clean data."""
        return self._levels.alphas_bar[torch.as_tensor(timesteps).cpu() + 1]

    def decoder_variance(self, prev_timestep=None):
        """beta~ of a chain's second transition, used for the first, whose beta~ of 0 has no logarithm.

        The chain is the trajectory (Improved DDPM's code), or all timesteps where `prev_timestep` is given, as in
        `p_mean_variance` (Analytic-DPM's code).
        """
        if prev_timestep is None:
            return self._transitions.decoder_variance
        return second_posterior_variance(self._levels, torch.arange(len(self)))

    # Kernels ---------------------------------------------------------------------------------------------------------

    def q_posterior(self, original_samples, sample, timestep, prev_timestep=None, eta=None):
        """q(x_s | x_t, x0), the forward posterior (Ho 2020, eq. 6 and 7; at other eta Song 2020, eq. 7).

        Args:
            original_samples, sample: x0 and x_t.
            timestep, prev_timestep: t and s, ints, 0-d tensors or one per sample. None for s takes the next timestep
                of the trajectory; -1 is clean data.
            eta (`float`, *optional*): instead of the config's.
        """
        original_samples, sample = in_one_dtype(original_samples, sample)
        c = self._transition(timestep, prev_timestep, self._chosen_eta(eta), sample)
        mean = affine(c.posterior_x0, original_samples, c.posterior_sample, sample)
        return GaussianOutput(mean=mean, variance=expanded(c.posterior_variance, mean))

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
            classifier_gradient (`torch.Tensor`, *optional*): scale * grad log p(y | x_t), of x_t's shape.
            guidance_form (`str`): what it shifts: `score`, see `condition_score`, or `mean`, see `condition_mean`.

        Returns:
            [`GaussianDiffusionSchedulerOutput`], or with `return_dict=False` the tuple (x_s, x0_hat), in the dtype of
            `sample`. Half precision is computed in float32.
        """
        choices = self._choices[use_clipped_model_output]
        eta, timestep = self._chosen_eta(eta), as_host_int(timestep)
        said = read_output(model_output, sample, choices)
        if self._solver is not None:
            timestep = self._solver.on_host(timestep)
            said = said._replace(x_t=self._solver.arrived(said.x_t, timestep, eta, self._history))
        c = self._transitions.at(timestep, eta, said.x_t)
        x0 = self._predicted_x0(said, timestep, c)
        spectrum = None if self._spectrum is None else self._spectrum.at(timestep, said.x_t)
        kernel = reverse_kernel(said, x0, c, eta, choices, spectrum)
        if classifier_gradient is not None:
            kernel = guided(kernel, classifier_gradient, guidance_form, c, eta, choices)
        if self._history:
            kernel = self._history.refine_(kernel, said.x_t, c, timestep, self.previous_timestep(timestep))
        x_s = draw_(kernel, c, generator, variance_noise, self._clips_variance)
        prev_sample, x0 = cast(x_s, sample.dtype), cast(kernel.x0, sample.dtype)
        if not return_dict:
            return prev_sample, x0
        return GaussianDiffusionSchedulerOutput(prev_sample=prev_sample, pred_original_sample=x0)

    def p_mean_variance(
        self, model_output, timestep, sample, prev_timestep=None, eta=None, use_clipped_model_output=None
    ):
        """The reverse kernel p(x_s | x_t) from which `step` draws; arguments as in `step` and `q_posterior`.

        For the transition to clean data the variance is the one of the decoder p(x0 | x_1) in the bound, on which
        published codes differ: `fixed_small` is 0; `fixed_large` and the lower end of `learned_range` are beta~ of the
        trajectory's second transition, as in Improved DDPM's code (diffusers: beta and 1e-20). A pair given with
        `prev_timestep` has no trajectory: `fixed_large` is its beta, and the lower end is beta~ of the full chain's
        second transition, as in Analytic-DPM's code. Types with a covariance of x0 use that covariance. The kernel is
        of first order and without `clip_variance_pixels`, which belong to sampling. Half precision gives float32.
        """
        choices = self._choices[use_clipped_model_output]
        eta, timestep = self._chosen_eta(eta), as_host_int(timestep)
        said = read_output(model_output, sample, choices)
        c = self._transition(timestep, prev_timestep, eta, said.x_t)
        x0 = self._predicted_x0(said, timestep, c)
        spectrum = None if self._spectrum is None else self._spectrum.at(timestep, said.x_t)
        kernel = reverse_kernel(said, x0, c, eta, choices, spectrum)
        epsilon = rederived_epsilon(said.x_t, x0, c) if choices.rederives_epsilon else predicted_epsilon(said, c)
        return output_of(kernel, epsilon)

    def _predicted_x0(self, said, timestep, c):
        if not isinstance(timestep, torch.Tensor) or timestep.device.type == "cpu":
            self._levels.check_x0_follows(self.config.prediction_type, timestep)
        return predicted_x0(said, c, self._clipping)

    def _transition(self, timestep, prev_timestep, eta, like):
        if prev_timestep is None:
            return self._transitions.at(as_host_int(timestep), eta, like)
        return self._transitions.between(timestep, prev_timestep, eta, like)

    def _chosen_eta(self, eta):
        eta = self.config.eta if eta is None else eta
        check_eta(eta)
        return eta
