r"""Exact likelihoods by the probability flow of a score model (Song et al. 2021, section 4.3 and appendix D.2).

The flow dx/dt = f(x, t) - g^2 score(x, t) / 2 carries the density of x at t = eps to that of the prior at t = 1, so

    log p(x) = log prior(z) + integral from eps to 1 of the divergence of the flow,

where z is the end of the flow that begins at x. The divergence is estimated without bias by v^T J v with the Jacobian
J and one random probe v for the whole path (Hutchinson 1990).
"""

from typing import NamedTuple

import torch

from ddpm_hf.ode_solver import OdeOptions, solve_ode


class FlowLikelihood(NamedTuple):
    """log p(x) in nats, (B,), float64; the latents z at t = 1, of the shape of x; the number of calls of the score."""

    log_prob: torch.Tensor
    latents: torch.Tensor
    calls: int


def ode_log_likelihood(score, scheduler, samples, probe, rtol=1e-5, atol=1e-5, on_call=None):
    """log p(x) at the time where likelihoods begin, `scheduler.likelihood_eps`: 1e-5, or the config's `sampling_eps`.

    The density below that time is left out, and the prior takes the place of the true density at t = 1, as in the
    published code. The solver is in float64; its steps are those of the whole batch.

    Args:
        score (`Callable`): score(x, t), the gradient of log p_t at x, for x (B, C, *) and t (B,), both float64; it must
            be differentiable by autograd.
        scheduler ([`ScoreSDEScheduler`]): gives the drift of the flow and the prior.
        samples (`torch.Tensor`): x, (B, C, *).
        probe (`torch.Tensor`): v of the shape of x, its entries independent with mean 0 and variance 1: 1 and -1 at
            random have the smallest variance, and are exact where J is diagonal.
        rtol, atol (`float`): tolerances of the solver.
        on_call (`Callable`, *optional*): called with t, a number, in each call of the score.

    Returns:
        A tuple of log p(x) in nats, (B,), and the latents z, (B, C, *), both float64.

    Raises:
        ValueError: for a probe of another shape, and if the solver does not converge.
    """
    solution = flow_likelihood(score, scheduler, samples, probe, OdeOptions(rtol, atol, on_call))
    return solution.log_prob, solution.latents


def flow_likelihood(score, scheduler, samples, probe, options=OdeOptions()):
    """As `ode_log_likelihood`, with the [`OdeOptions`] together; returns a [`FlowLikelihood`]."""
    if probe.shape != samples.shape:
        raise ValueError(f"probe of shape {tuple(probe.shape)} must be of the samples', {tuple(samples.shape)}.")
    probe = probe.double()

    def derivative(t, state):
        with torch.enable_grad():
            x = state[0].detach().requires_grad_()
            times = t.to(x.device).expand(len(x))
            drift = scheduler.probability_flow_drift(x, times, score(x, times))
            (product,) = torch.autograd.grad(drift, x, probe)
        return drift.detach(), (product * probe).flatten(1).sum(1)

    start = samples.detach().double(), samples.new_zeros(len(samples), dtype=torch.float64)
    (latents, change), calls = solve_ode(derivative, start, scheduler.likelihood_eps, 1.0, options)
    return FlowLikelihood(scheduler.prior_log_prob(latents) + change, latents, calls)
