"""What the schedulers of all Gaussian processes x_t = a_t x0 + sigma_t eps have in common, whatever their time is."""

from ddpm_hf.schedulers.cosine_transform import cosine_transform
from ddpm_hf.schedulers.gaussian_kernel import prediction_weights
from ddpm_hf.schedulers.reverse_kernel import (
    Kernel,
    affine,
    cast,
    mixed,
    read_output,
    shifted_by_score,
    times_covariance,
)
from ddpm_hf.schedulers.scheduler_outputs import ReverseKernelOutput


class GaussianProcess:
    """The forward process of a scheduler, its noise prediction, and the shift of its kernels by a gradient.

    The scheduler has its noise levels in `_levels`, whose `at` gives (a_t, sigma_t), the [`Transition`] of a step from
    `_transition`, the [`KernelChoices`] of its config as `_choices[None]`, and `prediction_type` in its config. This
    class precedes `SchedulerMixin` in the bases.
    """

    def scale_model_input(self, sample, timestep=None):
        """The sample itself: the model sees x_t."""
        return sample

    def add_noise(self, original_samples, noise, timesteps):
        """x_t = a_t x0 + sigma_t noise (for DDPM Ho 2020, eq. 4), shape and dtype of `original_samples`.

        Half precision is computed in float32; otherwise the first timesteps would get no noise at all.

        Args:
            timesteps (`int` or `torch.Tensor`): 0-based, one for all or one per sample.
        """
        signal, sigma = self._levels.at(timesteps, original_samples)
        return mixed(signal, original_samples, sigma, noise)

    def get_velocity(self, sample, noise, timesteps):
        """v = a_t noise - sigma_t x0 (Salimans & Ho 2022, appendix D); the arguments are those of `add_noise`."""
        signal, sigma = self._levels.at(timesteps, sample)
        return mixed(-sigma, sample, signal, noise)

    def get_epsilon(self, model_output, timesteps, sample):
        """eps_hat from the network's prediction of epsilon, x0 or v (Salimans & Ho 2022, appendix D).

        Nothing is clipped, and a variance head is ignored. Half precision gives float32.

        Args:
            timesteps (`int` or `torch.Tensor`): 0-based, one for all or one per sample.
        """
        said = read_output(model_output, sample, self._choices[None])
        levels = self._levels.at(timesteps, said.x_t)
        _, _, of_sample, of_output = prediction_weights(self.config.prediction_type, *levels)
        return affine(of_sample, said.x_t, of_output, said.prediction)

    def condition_mean(self, kernel, gradient):
        """The kernel with its mean shifted by its covariance times the gradient (Dhariwal & Nichol 2021, algorithm 1).

        It is p(x_s | x_t, y) to first order in x_s - mean, so it suits many steps and a variance above 0, not eta = 0.
        The shift uses the variance before any `clip_variance_pixels`.

        Args:
            kernel ([`ReverseKernelOutput`]): what `p_mean_variance` gave.
            gradient (`torch.Tensor`): scale times the gradient of log p(y | x_t), of x_t's shape.
        """
        gradient, variance, transform = cast(gradient, kernel.mean.dtype), kernel.variance, None
        if kernel.frequency_variance is not None:
            variance, transform = kernel.frequency_variance, cosine_transform(gradient)
        shift = times_covariance(gradient, variance, transform)
        return ReverseKernelOutput(**{**kernel, "mean": kernel.mean + shift})

    def condition_score(self, kernel, gradient, timestep, sample, prev_timestep=None, eta=None):
        """The kernel at eps_hat - sqrt(1 - abar_t) * gradient (Dhariwal & Nichol 2021, algorithm 2), for any eta.

        x0_hat after clipping is shifted by (1 - abar_t) / sqrt(abar_t) * gradient and not clipped again, as in their
        code; the mean follows from both, and the variance stays. Without signal (abar_t = 0), x_t carries no
        information about the class and nothing is shifted.

        Args:
            kernel ([`ReverseKernelOutput`]): what `p_mean_variance` gave for the same `timestep`, `sample` (x_t),
                `prev_timestep` and `eta`.
            gradient (`torch.Tensor`): scale times the gradient of log p(y | x_t), of x_t's shape.
        """
        gradient = cast(gradient, kernel.mean.dtype)
        c = self._transition(timestep, prev_timestep, self._chosen_eta(eta), cast(sample, kernel.mean.dtype))
        steered = shifted_by_score(Kernel(kernel.mean, kernel.variance, kernel.pred_original_sample), gradient, c)
        epsilon = kernel.pred_epsilon - c.signal / c.sigma * (gradient * c.score_to_x0)
        shifted = {"mean": steered.mean, "pred_original_sample": steered.x0, "pred_epsilon": epsilon}
        return ReverseKernelOutput(**{**kernel, **shifted})
