"""Better samples from a trained model without training: measured variances, planned timesteps, fitted solvers."""

from ddpm_hf.calibration.cheapest_plans import plan_timesteps
from ddpm_hf.calibration.error_propagation import error_growth
from ddpm_hf.calibration.mean_square_epsilon import estimate_mean_square_epsilon
from ddpm_hf.calibration.solver_fit import fit_solver
from ddpm_hf.calibration.transition_costs import FlowPaths, bound_costs, local_errors

__all__ = [
    "FlowPaths",
    "bound_costs",
    "error_growth",
    "estimate_mean_square_epsilon",
    "fit_solver",
    "local_errors",
    "plan_timesteps",
]
