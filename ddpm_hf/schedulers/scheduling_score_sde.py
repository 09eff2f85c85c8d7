"""The scheduler of score-based models in continuous time: an SDE, a predictor and a corrector, with diffusers'
interface.

Notation: x_t = a_t x0 + sigma_t eps for real t in (0, 1], with data near t = 0 and the prior at t = 1.
"""

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from ddpm_hf.number_checks import check_count
from ddpm_hf.portable.config import PortableConfigMixin
from ddpm_hf.schedulers.discretizations import discretization
from ddpm_hf.schedulers.edm import preconditioning
from ddpm_hf.schedulers.gaussian_kernel import prediction_weights
from ddpm_hf.schedulers.noise_levels import table_dtype
from ddpm_hf.schedulers.predictor_corrector import (
    ancestral_mean,
    annealed_size,
    euler_maruyama_mean,
    langevin_mean,
    langevin_size,
    reverse_diffusion_mean,
)
from ddpm_hf.schedulers.reverse_kernel import cast, math_dtype, mixed, per_sample
from ddpm_hf.schedulers.scheduler_outputs import ScoreSDESchedulerOutput
from ddpm_hf.schedulers.score_sde_config import (
    LIKELIHOOD_EPS,
    SAMPLING_EPS,
    as_score_sde,
    check_score_sde_config,
    make_process,
)


class ScoreSDEScheduler(PortableConfigMixin, SchedulerMixin, ConfigMixin):
    """The SDEs of Song et al. 2021, sampled by a predictor and a corrector; `from_config` reads a DDPM as one too.

    A loop, such as that of [`GaussianDiffusionPipeline`], visits `timesteps`, from 1 down to `sampling_eps`. At each
    it calls the methods that `updates` names, `correct` and `step`, each with a new output of the network for
    `network_time(t)`.

    Args:
        sde: `vp` (SDE, eq. 11), `sub_vp` (eq. 12) or `ve` (eq. 9).
        num_train_timesteps: N of the discrete form, where `set_timesteps` was not told otherwise. Networks that are
            given timesteps see (N - 1) t.
        beta_min, beta_max: ends of beta(t) of VP and sub-VP; 0.1 and 20 are DDPM's with N = 1000.
        sigma_min, sigma_max: ends of sigma(t) of VE. Song & Ermon 2020: sigma_max is the largest distance of two data.
        sampling_eps: where sampling stops, and likelihoods begin. By default 1e-3 for VP and sub-VP, 1e-5 for VE and
            for DDPMs, and 1e-5 for all likelihoods.
        predictor: `euler_maruyama`; `reverse_diffusion` (SDE, eq. 46); `ancestral` (eq. 4 for VP, eq. 47 for VE),
            which for a DDPM in N steps is its chain with the variance beta; or `none`.
        corrector: `langevin` (SDE, algorithms 4 and 5), `annealed_langevin` (Song & Ermon 2019, algorithm 1), or
            `none`.
        snr: the ratio r of the correctors' step; its best values in the paper are 0.01 to 0.2.
        correct_steps: corrections at each noise level.
        probability_flow: follow the ordinary differential equation with the same marginals (SDE, eq. 13) instead.
        denoise: the sample is the mean of the last step, without its noise; pipelines read this, `step` does not.
        correct_first: True is the order of the published code, which corrects at t and then predicts from t; False is
            that of the paper (algorithms 1 to 3), which predicts and then corrects at the level it arrived at. The
            code corrects the first noise and not the last sample; here False corrects neither of these two.
        prediction_type: what the network gives: `epsilon`, of which the score is -epsilon / sigma_t; `score`; as in
            DDPMs, `sample` or `v_prediction`; or `edm`, the F of EDM's preconditioning of VE (Karras et al. 2022,
            eq. 7), which is given c_in x and log(sigma_t) / 4.
        sigma_data: standard deviation of the data, for `edm`.
        time_input: what the network is given: `timestep`, (num_train_timesteps - 1) t; `reversed_timestep`, the
            whole number nearest to (num_train_timesteps - 1) (1 - t), as discrete VE networks count from the largest
            noise; or `sigma`, as networks with Fourier features of log sigma are. By default `sigma` for VE and
            `timestep` otherwise.
        centered: the data are in [-1, 1] (True) or in [0, 1].
        beta_schedule, beta_start, beta_end, trained_betas, rescale_betas_zero_snr: a DDPM's chain as in
            [`GaussianDiffusionScheduler`], read as a VP process by interpolation of log(a_t / sigma_t) between its
            timesteps, which are at t = i / (num_train_timesteps - 1). None is the SDE itself.

    Where published codes differ from the papers, this follows the code: times are linspace(1, eps, N), while
    Euler-Maruyama steps by 1 / N; the corrector's norms are means over the batch; sub-VP has VP's alphas; sigma_t
    of VE is not reduced by sigma_0.

    Raises:
        ValueError: for a value that its key does not allow; the message says what is allowed.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        sde: str = "vp",
        num_train_timesteps: int = 1000,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        sampling_eps: float | None = None,
        predictor: str = "reverse_diffusion",
        corrector: str = "none",
        snr: float = 0.16,
        correct_steps: int = 1,
        probability_flow: bool = False,
        denoise: bool = True,
        correct_first: bool = True,
        prediction_type: str = "epsilon",
        sigma_data: float = 0.5,
        time_input: str | None = None,
        centered: bool = True,
        beta_schedule: str | None = None,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        trained_betas: list[float] | None = None,
        rescale_betas_zero_snr: bool = False,
    ):
        check_score_sde_config(self.config)
        self.process = make_process(self.config)
        self.init_noise_sigma = self.process.prior_std
        self._flow_share = 0.5 if probability_flow else 1.0
        self.set_timesteps()

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        return super().extract_init_dict(as_score_sde(config_dict), **kwargs)

    def __len__(self):
        return self.config.num_train_timesteps

    # The process -----------------------------------------------------------------------------------------------------

    @property
    def sampling_eps(self):
        """The time at which sampling stops."""
        if self.config.sampling_eps is not None:
            return self.config.sampling_eps
        return LIKELIHOOD_EPS if self.config.beta_schedule is not None else SAMPLING_EPS[self.config.sde]

    @property
    def likelihood_eps(self):
        """The time at which likelihoods begin."""
        return LIKELIHOOD_EPS if self.config.sampling_eps is None else self.config.sampling_eps

    def marginal(self, original_samples, t):
        """The mean a_t x0, of the shape of x0, and the standard deviation sigma_t, (B,), of x_t given x0.

        Args:
            original_samples (`torch.Tensor`): x0, (B, C, *).
            t (`float` or `torch.Tensor`): in (0, 1], one for all or (B,).
        """
        signal, sigma = self._levels(self._times(t, original_samples), original_samples)
        return signal * original_samples, sigma.flatten()

    def sde(self, sample, t):
        """The drift f(x, t), of the shape of x, and the diffusion g(t), (B,), of dx = f dt + g dw."""
        times = self._times(t, sample)
        rate, diffusion = _shaped((self.process.drift_rate(times), self.process.diffusion(times)), sample)
        return rate * sample, diffusion.flatten()

    def discretize(self, sample, t):
        """f, of the shape of x, and G, (B,), of the discrete form x <- x + f + G z in as many steps as `timesteps`."""
        factor, gain = _shaped(self._discrete_form().coefficients(self._times(t, sample)), sample)
        return factor * sample, gain.flatten()

    def prior_log_prob(self, z):
        """The log-density in nats of the prior N(0, prior_std^2 I) at z, (B,)."""
        std, dimensions = self.process.prior_std, z[0].numel()
        return -(z / std).square().flatten(1).sum(1) / 2 - dimensions * math.log(std * math.sqrt(2 * math.pi))

    def probability_flow_drift(self, sample, t, score):
        """f - g^2 score / 2, whose flow has the marginals of the SDE (SDE, eq. 13)."""
        drift, diffusion = self.sde(sample, t)
        return drift - per_sample(diffusion, sample.ndim) ** 2 * score / 2

    def add_noise(self, original_samples, noise, timesteps):
        """x_t = a_t x0 + sigma_t noise, in the dtype of `original_samples`; the arguments are those of `marginal`."""
        signal, sigma = self._levels(self._times(timesteps, original_samples), original_samples)
        return mixed(signal, original_samples, sigma, noise)

    # The network -----------------------------------------------------------------------------------------------------

    def network_time(self, t):
        """What the network is given for t, in float32, as `time_input` says; a `timestep` need not be whole."""
        times = _in_double(t)
        times = times.to(table_dtype(times.device))
        last = self.config.num_train_timesteps - 1
        if self.is_preconditioned:
            return self._preconditioning(self.process.levels(times)[1]).c_noise.float()
        if self.reads_sigma:
            return self.process.levels(times)[1].float()
        if self.config.time_input == "reversed_timestep":
            return ((1 - times) * last).round().float()
        return (times * last).float()

    @property
    def reads_sigma(self):
        """Whether the network is given sigma_t."""
        if self.is_preconditioned:
            return False
        return (self.config.time_input or ("sigma" if self.config.sde == "ve" else "timestep")) == "sigma"

    @property
    def is_preconditioned(self):
        """Whether the network is EDM's F."""
        return self.config.prediction_type == "edm"

    def scale_model_input(self, sample, timestep=None):
        """What the model sees of x_t: the sample itself, or for EDM's F c_in x_t at the time `timestep`."""
        if not self.is_preconditioned:
            return sample
        _, sigma = self._levels(self._times(timestep, sample), sample)
        return cast(self._preconditioning(sigma).c_in * sample, sample.dtype)

    def _preconditioning(self, sigma):
        return preconditioning(sigma, self.config.sigma_data)

    def score(self, model_output, t, sample):
        """The score, the gradient of log p_t at x_t, from the network's output, of the sample's shape.

        Channels after those of the sample, a variance head, are left out. Half precision gives float32.
        """
        return self._score(model_output, self._times(t, sample), sample)

    def _score(self, model_output, times, sample):
        output = model_output[:, : sample.shape[1]]
        if output.shape != sample.shape:
            raise ValueError(
                f"The model output of shape {tuple(model_output.shape)} does not belong to samples of shape "
                f"{tuple(sample.shape)}."
            )
        dtype = math_dtype(output, sample)
        output, x_t = cast(output, dtype), cast(sample, dtype)
        if self.config.prediction_type == "score":
            return output
        signal, sigma = self._levels(times, x_t)
        if self.is_preconditioned:
            c = self._preconditioning(sigma)
            return (c.c_skip * x_t + c.c_out * output - x_t) / sigma**2
        _, _, of_sample, of_output = prediction_weights(self.config.prediction_type, signal, sigma)
        return -(of_sample * x_t + of_output * output) / sigma

    # Sampling --------------------------------------------------------------------------------------------------------

    def set_timesteps(self, num_inference_steps=None, device=None, timesteps=None):
        """Take the times linspace(1, sampling_eps, N), and the discrete form in N steps.

        Args:
            num_inference_steps (`int`, *optional*): N; by default `num_train_timesteps`.
            device (`str` or `torch.device`, *optional*): the device of `self.timesteps`, which are float64.

        Raises:
            ValueError: for times of one's own, and for fewer steps than the discrete form of VP allows.
        """
        if timesteps is not None:
            raise ValueError(
                "timesteps are even in the continuous time of ScoreSDEScheduler: give num_inference_steps instead."
            )
        steps = self.config.num_train_timesteps if num_inference_steps is None else num_inference_steps
        check_count("num_inference_steps", steps)
        self.num_inference_steps, self._discrete = steps, None
        if self.config.predictor in ("reverse_diffusion", "ancestral") or self.config.corrector != "none":
            self._discrete_form()
        dtype = table_dtype(torch.device("cpu" if device is None else device))
        self.timesteps = torch.linspace(1, self.sampling_eps, steps, dtype=torch.float64).to(device, dtype)

    def updates(self, step):
        """The methods that a loop calls at step number `step`, each with a new output of the network."""
        no_predictor = self.config.predictor == "none"
        corrects = self.config.corrector != "none" and (self.config.correct_first or step > 0 or no_predictor)
        return [self.correct] * (self.config.correct_steps if corrects else 0) + [self.step] * (not no_predictor)

    @property
    def ends_with_mean(self):
        """Whether a loop returns `prev_sample_mean` of its last step."""
        return self.config.denoise and self.config.predictor != "none"

    def step(self, model_output, timestep, sample, generator=None, noise=None, return_dict=True):
        """The predictor: one step backwards in time from x_t.

        Args:
            model_output (`torch.Tensor`): the network's output at x_t, (B, C, *).
            timestep (`float` or `torch.Tensor`): t in (0, 1], one for all or (B,).
            sample (`torch.Tensor`): x_t, (B, C, *).
            generator (`torch.Generator` or a list of B, *optional*): the only source of randomness.
            noise (`torch.Tensor`, *optional*): the standard normal noise itself.

        Returns:
            [`ScoreSDESchedulerOutput`], or with `return_dict=False` the tuple of its first two; in the dtype of
            `sample`. Half precision is computed in float32.
        """
        at = self._scored(model_output, timestep, sample)
        mean, noise_std = self._predicted(*at)
        if self.config.probability_flow or self.config.predictor == "none":
            noisy = mean
        else:
            noisy = mean + noise_std * _noise_like(mean, generator, noise)
        return self._output(noisy, mean, at, sample.dtype, return_dict)

    def correct(self, model_output, timestep, sample, generator=None, noise=None, return_dict=True):
        """The corrector: one step of Langevin dynamics at the noise level of t; the arguments are those of `step`.

        Raises:
            ValueError: if the config has no corrector.
        """
        if self.config.corrector == "none":
            raise ValueError("corrector='none' has no correction: make the scheduler with corrector='langevin'.")
        at = x, score, times = self._scored(model_output, timestep, sample)
        noise, alpha = _noise_like(x, generator, noise), _shaped(self._discrete_form().alpha(times), x)
        if self.config.corrector == "langevin":
            size = langevin_size(score, noise, self.config.snr, alpha)
        else:
            size = annealed_size(self._levels(times, x)[1], self.config.snr, alpha)
        mean = langevin_mean(x, score, size)
        return self._output(mean + (2 * size) ** 0.5 * noise, mean, at, sample.dtype, return_dict)

    def _scored(self, model_output, timestep, sample):
        """x_t and its score in the dtype of the arithmetic, and its times, (B,)."""
        times = self._times(timestep, sample)
        score = self._score(model_output, times, sample)
        return cast(sample, score.dtype), score, times

    def _predicted(self, x, score, times):
        """The mean of the predictor's step, and the standard deviation of its noise."""
        match self.config.predictor:
            case "euler_maruyama":
                rate, diffusion = _shaped((self.process.drift_rate(times), self.process.diffusion(times)), x)
                mean = euler_maruyama_mean(x, score, rate, diffusion, self.num_inference_steps, self._flow_share)
                return mean, diffusion / self.num_inference_steps**0.5
            case "reverse_diffusion":
                factor, gain = _shaped(self._discrete_form().coefficients(times), x)
                return reverse_diffusion_mean(x, score, factor, gain, self._flow_share), gain
            case "ancestral":
                removed, shrinking, noise_std = _shaped(self._discrete_form().ancestral(times), x)
                return ancestral_mean(x, score, removed, shrinking), noise_std
        return x, None

    def _output(self, noisy, mean, at, dtype, return_dict):
        """The result of a step from `at`, the result of `_scored`."""
        noisy, mean = cast(noisy, dtype), cast(mean, dtype)
        if not return_dict:
            return noisy, mean
        x, score, times = at
        signal, sigma = self._levels(times, x)
        x0 = cast((x + sigma**2 * score) / signal, dtype)
        return ScoreSDESchedulerOutput(prev_sample=noisy, prev_sample_mean=mean, pred_original_sample=x0)

    # Numbers of times ------------------------------------------------------------------------------------------------

    def _discrete_form(self):
        if self._discrete is None:
            self._discrete = discretization(self.process, self.num_inference_steps)
        return self._discrete

    def _times(self, t, samples):
        """t in float64 on the device of the samples, (B,).

        Raises:
            ValueError: for a t on the host outside of (0, 1], and for neither one nor as many as there are samples.
        """
        t = _in_double(t)
        if t.ndim > 1 or (t.ndim == 1 and len(t) not in (1, len(samples))):
            raise ValueError(
                f"t of shape {tuple(t.shape)} must be one for all {len(samples)} samples, or one for each."
            )
        if t.device.type == "cpu" and not ((t > 0) & (t <= 1)).all():
            outside = t[~((t > 0) & (t <= 1))].flatten()[0].item()
            raise ValueError(f"t={outside:g} must be in (0, 1]: continuous time is 1 at the prior, and data are at 0.")
        return t.to(samples.device, table_dtype(samples.device)).expand(len(samples))

    def _levels(self, times, samples):
        """(a_t, sigma_t), shaped to broadcast over the samples."""
        return _shaped(self.process.levels(times), samples)


def _shaped(values, samples):
    """A tuple of values, (B,), or one, in the dtype of the arithmetic, shaped to broadcast over the samples."""
    if isinstance(values, tuple):
        return tuple(_shaped(value, samples) for value in values)
    return per_sample(cast(values, math_dtype(samples)), samples.ndim)


def _in_double(t):
    """A time as a tensor; a number is not rounded to float32."""
    return t if isinstance(t, torch.Tensor) else torch.as_tensor(t, dtype=torch.float64)


def _noise_like(x, generator, noise):
    if noise is None:
        return randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    if noise.shape != x.shape:
        raise ValueError(f"noise of shape {tuple(noise.shape)} must be of the sample's, {tuple(x.shape)}.")
    return cast(noise, x.dtype)
