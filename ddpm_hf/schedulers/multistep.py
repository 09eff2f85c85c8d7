"""Second order from the x0_hat of the last step: how far a mean extrapolates it, and how it corrects the step before.

In lambda = log(a / sigma), x_s is a sum of x_t and of int e^(k l) x0(l) dl over the step, with k = 1 for the probability flow
and 2 for the reverse SDE (Lu et al. 2022b). DPM-Solver++ 2M lets x0 go on as it went from the last x0_hat to this one; the
corrector of UniPC (Zhao et al. 2023), once x0_hat at the end of a step is known, draws that step again with x0 between both.
"""

from typing import NamedTuple

import torch

from ddpm_hf.schedulers.reverse_kernel import is_zero, per_sample


def extrapolation_weight(lambda_u, lambda_t, lambda_s):
    """h / (2 h_last) for the steps u -> t -> s: x0_hat + this (x0_hat - last x0_hat) (Lu et al. 2022b, algorithm 2)."""
    return (lambda_s - lambda_t) / (2 * (lambda_t - lambda_u))


def correction_weight(lambda_u, lambda_t, eta):
    """The weight of x0_hat(t) for the step u -> t, that of x0_hat(u) being the rest: 1 / (1 - e^(-k h)) - 1 / (k h).

    It is the mean position of the weight e^(k l) over the step, for x0 that goes evenly from one end to the other.
    """
    length = (1 + eta**2) * (lambda_t - lambda_u)
    return -1 / torch.expm1(-length) - 1 / length


class LastStep(NamedTuple):
    """What a step leaves for the next: x0_hat, the x0 that its mean was made of, and the timestep that it arrived at."""

    x0: torch.Tensor
    drawn_with: torch.Tensor
    arrived_at: int | torch.Tensor


class History:
    """The x0_hat of the last step, which counts only for a step that begins where that one arrived.

    Args:
        second_order (`bool`): extrapolate x0_hat.
        corrector (`bool`): correct the last step.
    """

    def __init__(self, second_order, corrector):
        self.second_order, self.corrector = second_order, corrector
        self._last = None

    def __bool__(self):
        return self.second_order or self.corrector

    def refine_(self, kernel, c, timestep, next_timestep):
        """The kernel with its mean, in place, as it is with x0 extrapolated, and at the corrected x_t.

        Args:
            kernel ([`Kernel`]): of first order.
            c ([`Transition`]): of the step.
            timestep, next_timestep: t and s, ints, or tensors () or (B,) on the device of the samples.
        """
        mean, x0 = kernel.mean, kernel.x0
        last, drawn_with = self._last_step_to(timestep, x0), x0
        if last is not None and self.second_order and not is_zero(c.extrapolation):
            change = (x0 - last.x0).mul_(c.extrapolation)
            drawn_with = x0 + change
            mean.add_(change.mul_(c.posterior_x0))
        if last is not None and self.corrector:
            mean.add_((last.x0.lerp(x0, c.correction) - last.drawn_with).mul_(c.corrected_mean))
        self._last = LastStep(x0, drawn_with, next_timestep)
        return kernel

    def _last_step_to(self, timestep, x0):
        """The last step if it arrived at `timestep`, else None; of a batch with timesteps of its own, x0 where it did not.

        So nothing is left of a run that another follows without `set_timesteps`, not even where it was not finite.
        """
        last = self._last
        if last is None:
            return None
        on_host = isinstance(timestep, int) and isinstance(last.arrived_at, int)
        if on_host and timestep != last.arrived_at:
            return None
        if last.x0.shape != x0.shape:
            raise ValueError(
                f"The last step was of samples of shape {tuple(last.x0.shape)}, this one is of {tuple(x0.shape)}: second "
                "order goes on with the same batch. Call set_timesteps to begin another run."
            )
        if on_host:
            return last
        arrived = per_sample(torch.as_tensor(last.arrived_at == timestep, device=x0.device), x0.ndim)
        return LastStep(*(torch.where(arrived, was, x0) for was in (last.x0, last.drawn_with)), last.arrived_at)
