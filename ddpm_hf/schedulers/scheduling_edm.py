"""The scheduler of EDM (Karras et al. 2022) with diffusers' interface: preconditioning, Heun's method, churn."""

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from ddpm_hf.number_checks import check_count
from ddpm_hf.schedulers.config_checks import check_choice
from ddpm_hf.schedulers.edm import churned_sigmas, karras_sigmas, preconditioning
from ddpm_hf.schedulers.reverse_kernel import cast, math_dtype, per_sample
from ddpm_hf.schedulers.scheduler_outputs import GaussianDiffusionSchedulerOutput


class EDMScheduler(SchedulerMixin, ConfigMixin):
    """Samples a network F that was trained with EDM's preconditioning (Karras et al. 2022, algorithm 2).

    `timesteps` are the c_noise = log(sigma) / 4 of all calls of the network: at the level where a step begins, after
    its churn, and with Heun's method at the level where it ends, but for the last step to clean data. So N steps cost
    2 N - 1 calls, and the network is called at the noised state, as the paper has it and diffusers'
    `EDMEulerScheduler` has not.

    Args:
        num_train_timesteps: N if `set_timesteps` is not told otherwise, and the number of shares of training noise.
        sigma_min, sigma_max, rho: the noise levels (eq. 5).
        sigma_data: standard deviation of the data.
        P_mean, P_std: of the normal distribution of log sigma in training.
        solver: `heun`, or `euler` for N calls.
        s_churn, s_tmin, s_tmax, s_noise: S_churn, S_tmin, S_tmax (None is no limit), S_noise of algorithm 2; a churn
            of 0 is the deterministic flow.

    Raises:
        ValueError: for a value that its key does not allow.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        sigma_data: float = 0.5,
        P_mean: float = -1.2,
        P_std: float = 1.2,
        solver: str = "heun",
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float | None = None,
        s_noise: float = 1.0,
    ):
        check_choice("solver", solver, ("heun", "euler"))
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(
                f"sigma_min={sigma_min} and sigma_max={sigma_max} must be above 0 and finite, the first "
                "below the second."
            )
        for name in ("rho", "sigma_data", "P_std"):
            if not 0 < self.config[name] < math.inf:
                raise ValueError(f"{name}={self.config[name]} must be greater than 0 and finite.")
        for name in ("s_churn", "s_noise"):
            if not 0 <= self.config[name] < math.inf:
                raise ValueError(f"{name}={self.config[name]} must be at least 0 and finite.")
        self.set_timesteps()

    def __len__(self):
        return self.config.num_train_timesteps

    # The network -----------------------------------------------------------------------------------------------------

    def training_sigmas(self, shares):
        """sigma for uniform numbers in (0, 1), float64: log sigma is normal with mean P_mean and deviation P_std."""
        normal = torch.special.ndtri(shares.clamp(1e-9, 1 - 1e-9))
        return (self.config.P_mean + self.config.P_std * normal).exp()

    def network_input(self, sample, sigma):
        """What F is given for x and sigma, () or (B,): c_in x, and c_noise in float32."""
        c = preconditioning(sigma, self.config.sigma_data)
        return per_sample(c.c_in, sample.ndim).to(sample) * sample, c.c_noise.float()

    def denoised(self, model_output, sample, sigma):
        """D(x; sigma), the expectation of x0 given x, from the output of F."""
        c = preconditioning(sigma, self.config.sigma_data)
        c_skip, c_out = (per_sample(value, sample.ndim).to(sample) for value in (c.c_skip, c.c_out))
        return c_skip * sample + c_out * model_output

    def loss_weight(self, sigma):
        """The weight of the squared error of D in training."""
        return preconditioning(sigma, self.config.sigma_data).loss_weight

    def scale_model_input(self, sample, timestep=None):
        """c_in x at the level of the next call."""
        return self.network_input(sample, self.call_sigmas[self._call])[0]

    def add_noise(self, original_samples, noise, sigmas):
        """x0 + sigma noise, for sigma () or (B,)."""
        return original_samples + per_sample(torch.as_tensor(sigmas), noise.ndim).to(noise) * noise

    # Sampling --------------------------------------------------------------------------------------------------------

    @property
    def init_noise_sigma(self):
        """The standard deviation of the noise at the first call: sigma_max and its churn."""
        churn = self.begun[0] ** 2 - self.sigmas[0] ** 2
        return (self.sigmas[0] ** 2 + self.config.s_noise**2 * churn).sqrt().item()

    def set_timesteps(self, num_inference_steps=None, device=None):
        """Take N steps, by default `num_train_timesteps`, and begin anew."""
        steps = self.config.num_train_timesteps if num_inference_steps is None else num_inference_steps
        check_count("num_inference_steps", steps)
        config = self.config
        self.num_inference_steps = steps
        self.sigmas = karras_sigmas(steps, config.sigma_min, config.sigma_max, config.rho)
        self.begun = churned_sigmas(self.sigmas, config.s_churn, config.s_tmin, config.s_tmax or math.inf)
        if config.solver == "euler":
            self.call_sigmas = self.begun
        else:
            ended = self.sigmas[1:-1]
            pairs = torch.stack([self.begun[:-1], ended], dim=1).flatten()
            self.call_sigmas = torch.cat([pairs, self.begun[-1:]])
        self.timesteps = (self.call_sigmas.log() / 4).float().to(device)
        self._call, self._slope, self._x = 0, None, None

    def step(self, model_output, timestep, sample, generator=None, noise=None, return_dict=True):
        """The state at the next call of the network, from its output at this one; calls are counted from 0.

        Args:
            model_output (`torch.Tensor`): F at `scale_model_input(sample)`, (B, C, *).
            timestep: the c_noise of the call, which `timesteps` has in order.
            sample (`torch.Tensor`): x at the call, (B, C, *).
            generator (`torch.Generator` or a list of B, *optional*): the source of the churn's noise.
            noise (`torch.Tensor`, *optional*): that standard normal noise itself.
        """
        dtype = math_dtype(sample, model_output)
        x, sigma = cast(sample, dtype), self.call_sigmas[self._call].item()
        x0 = self.denoised(cast(model_output[:, : x.shape[1]], dtype), x, self.call_sigmas[self._call])
        slope, is_euler = (x - x0) / sigma, self.config.solver == "euler"
        index = self._call if is_euler else self._call // 2
        width = (self.sigmas[index + 1] - self.begun[index]).item()
        is_first = is_euler or self._call % 2 == 0
        moved = x + width * slope if is_first else self._x + width * (self._slope + slope) / 2
        ends_step = is_euler or not is_first or index + 1 == self.num_inference_steps
        self._x, self._slope = x, slope
        self._call += 1
        if ends_step and index + 1 < self.num_inference_steps:
            moved = self._churned(moved, index + 1, generator, noise)
        prev_sample, x0 = cast(moved, sample.dtype), cast(x0, sample.dtype)
        if not return_dict:
            return prev_sample, x0
        return GaussianDiffusionSchedulerOutput(prev_sample=prev_sample, pred_original_sample=x0)

    def _churned(self, x, index, generator, noise):
        """x with the noise that raises its level to that where the step begins (algorithm 2, lines 4 to 6)."""
        added = (self.begun[index] ** 2 - self.sigmas[index] ** 2).clamp(min=0).sqrt().item() * self.config.s_noise
        if added == 0:
            return x
        if noise is None:
            noise = randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return x + added * cast(noise, x.dtype)
