"""What earlier x0_hat add to a step: second order, its corrector, and rows that were fitted to a model.

In lambda = log(a / sigma), x_s is a sum of x_t and of int e^(k l) x0(l) dl over the step, with k = 1 for the
probability flow and 2 for the reverse SDE (Lu et al. 2022b). DPM-Solver++ 2M extrapolates x0 linearly from the last
x0_hat and this one. The corrector of UniPC (Zhao et al. 2023) repeats a step once x0_hat at its end is known, with x0
interpolated between the two. Both are linear in x_t and in the x0_hat of all steps so far, and so is every
deterministic multistep solver:

    x_(n+1) = c_n x_n + b_n0 x0_hat_0 + .. + b_nn x0_hat_n

A fitted row holds such coefficients (c_n, b_n0, .., b_nn), found by `ddpm_hf.calibration.fit_solver`
(`fitted_solvers`).
"""

from typing import NamedTuple

import torch

from ddpm_hf.schedulers.reverse_kernel import is_zero, per_sample


def extrapolation_weight(lambda_u, lambda_t, lambda_s):
    """w = h / (2 h_last) of the steps u -> t -> s, for x0_hat + w (x0_hat - last x0_hat) (Lu et al. 2022b, alg. 2)."""
    return (lambda_s - lambda_t) / (2 * (lambda_t - lambda_u))


def correction_weight(lambda_u, lambda_t, eta):
    """The weight of x0_hat(t) for the step u -> t: 1 / (1 - e^(-k h)) - 1 / (k h); x0_hat(u) has the rest.

    It is the mean position under the weight e^(k l) over the step, for x0 linear in l.
    """
    length = (1 + eta**2) * (lambda_t - lambda_u)
    return -1 / torch.expm1(-length) - 1 / length


class PastStep(NamedTuple):
    """What a step keeps for the next: x0_hat, the x0 in its mean, and the timestep at which it arrived."""

    x0: torch.Tensor
    drawn_with: torch.Tensor
    arrived_at: int | torch.Tensor


class History:
    """The steps of a run so far, which count only for a step that begins where the last one arrived.

    Args:
        second_order (`bool`): extrapolate x0_hat.
        corrector (`bool`): correct the last step.
        solver ([`FittedSolver`], *optional*): has the row of each timestep, for runs that visit all of them; other
            steps are taken as without rows.
    """

    def __init__(self, second_order, corrector, solver=None):
        self.second_order, self.corrector, self.solver = second_order, corrector, solver
        self._steps = []

    def __bool__(self):
        return self.second_order or self.corrector or self.solver is not None

    def begin(self, x0, arrived_at):
        """Forgets all steps, and takes x0 as the first x0_hat of a run that goes on from the timestep `arrived_at`."""
        self._steps = [PastStep(x0, x0, arrived_at)]

    def refine_(self, kernel, x_t, c, timestep, next_timestep):
        """The kernel with its mean, in place, as the history has it.

        Args:
            kernel ([`Kernel`]): the first-order kernel.
            x_t: where the step begins.
            c ([`Transition`]): the numbers of the step.
            timestep, next_timestep: t and s, ints, or tensors () or (B,) on the device of the samples.
        """
        past = self._steps_to(timestep, kernel.x0)
        row = None if self.solver is None else self.solver.row(timestep, len(past))
        if row is not None:
            terms = self.solver.terms(x_t, timestep)
            _fill_by_row_(kernel.mean, row, [*terms, *(step.x0 for step in past), kernel.x0])
            drawn_with = kernel.x0
        else:
            drawn_with = self._correct_(kernel.mean, kernel.x0, past[-1] if past else None, c)
        kept = past if self.solver is not None else []
        self._steps = [*kept, PastStep(kernel.x0, drawn_with, next_timestep)]
        return kernel

    def _correct_(self, mean, x0, last, c):
        """Extrapolates x0 and corrects the last step in the mean; returns the x0 that the mean is made of then."""
        drawn_with = x0
        if last is not None and self.second_order and not is_zero(c.extrapolation):
            change = (x0 - last.x0).mul_(c.extrapolation)
            drawn_with = x0 + change
            mean.add_(change.mul_(c.posterior_x0))
        if last is not None and self.corrector:
            mean.add_((last.x0.lerp(x0, c.correction) - last.drawn_with).mul_(c.corrected_mean))
        return drawn_with

    def _steps_to(self, timestep, x0):
        """The steps so far, if the last one arrived at `timestep`; else none.

        Of a batch with timesteps of its own, the last alone, with x0 in place of its samples that arrived elsewhere.
        So nothing is left of a run that another follows without `set_timesteps`, not even where it was not finite.
        """
        if not self._steps:
            return []
        last = self._steps[-1]
        on_host = isinstance(timestep, int) and isinstance(last.arrived_at, int)
        if on_host and timestep != last.arrived_at:
            return []
        if last.x0.shape != x0.shape:
            raise ValueError(
                f"The last step was of samples of shape {tuple(last.x0.shape)}, this one is of {tuple(x0.shape)}: "
                "second order goes on with the same batch. Call set_timesteps to begin another run."
            )
        if on_host:
            return self._steps
        arrived = per_sample(torch.as_tensor(last.arrived_at == timestep, device=x0.device), x0.ndim)
        return [PastStep(*(torch.where(arrived, was, x0) for was in (last.x0, last.drawn_with)), last.arrived_at)]


def _fill_by_row_(mean, row, terms):
    """The sum of `terms` with the weights of `row`, in place of the mean."""
    mean.copy_(terms[0]).mul_(row[0])
    for weight, term in zip(row[1:], terms[1:], strict=True):
        mean.add_(term, alpha=weight)
