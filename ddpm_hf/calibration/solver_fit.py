"""Deterministic solvers fitted to a model: the timesteps, and the row of each step, that come nearest to its own fine paths.

A row is (c, b_0, .., b_n) in x_(n+1) = c x_n + b_0 x0_hat_0 + .. + b_n x0_hat_n; DDIM, DPM-Solver++ and the predictor of UniPC
are special rows. Let x*(t) be fine paths of the model's probability flow, and x_n the states of the solver from the same
noise. In the order of the steps, each row minimises

    sum |x*(t_(n+1)) - c x_n - sum_j b_j x0_hat_j|^2 + rho |row - row of DDIM|^2

over paths and dimensions, and is then scaled so that its result spreads about its mean over the paths as x*(t_(n+1)) does:
least squares alone shrinks contrast, step by step. The solver moves on by that row, so that later rows mend earlier errors.
"""

from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from ddpm_hf.calibration.transition_costs import starting_noise
from ddpm_hf.evaluation.discrete_chains import check_chain_length, discrete_chain, evaluating
from ddpm_hf.models.network_config import classes_of
from ddpm_hf.pipelines.conditioning import encode_labels
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.schedulers.fitted_solvers import described_for_fit
from ddpm_hf.schedulers.timestep_spacings import spaced_timesteps

# The paths: second order, even in log-SNR, so fine that a path of twice as many steps differs from it by far less than any
# solver of 25 steps does.
FINE_STEPS = 96
# Where a solver may look for its timesteps; the nearest ones of the fine paths are taken.
SPACINGS = ("trailing", "logsnr", "karras", "quadratic", "linspace")
# The weight of the row of DDIM, as a share of the mean of the normal equations' diagonal.
RIDGE = 1e-6
LEAST_PATHS = 16
CLEAN = -1


class Paths(NamedTuple):
    """Fine paths of a model: x at each of their timesteps and at -1, (N, *), on the host in float32."""

    x: dict[int, torch.Tensor]
    labels: torch.Tensor | None


@torch.no_grad()
def fit_solver(
    unet,
    scheduler,
    steps,
    num_paths=96,
    seed=0,
    guidance_scale=1.0,
    class_labels=None,
    batch_size=96,
    progress_bar=True,
):
    """A scheduler that samples deterministically in few steps, by solvers fitted to this network.

    Args:
        unet: the network, stock or ours, or any module with the call and the config of one.
        scheduler ([`SchedulerMixin`]): of the network's training.
        steps (`Iterable[int]`): the numbers of steps to fit a solver for.
        num_paths (`int`): fine paths to fit to, at least 16.
        seed (`int`): of the noise that the paths begin in.
        guidance_scale (`float`): of classifier-free guidance; the solvers are for this scale alone.
        class_labels: for a class-conditional network: one for all paths, or one for each; by default all classes in turn.
        batch_size (`int`): paths in one call of the network.
        progress_bar (`bool`): show one, counted in network calls.

    Returns:
        [`GaussianDiffusionScheduler`]: with eta = 0 and `fitted_solvers`; `set_timesteps(K)` takes the one for K.

    Raises:
        ValueError: for too few paths, and for numbers of steps outside 1 .. `FINE_STEPS`.
    """
    steps = sorted({*steps})
    if num_paths < LEAST_PATHS:
        raise ValueError(
            f"num_paths={num_paths} must be at least {LEAST_PATHS}: a row has as many numbers as steps before it."
        )
    if not steps or steps[0] < 1 or steps[-1] > FINE_STEPS:
        raise ValueError(
            f"steps={steps} must be one or more numbers in 1 .. {FINE_STEPS}, the steps of the fine paths."
        )
    deterministic = {"eta": 0.0, "variance_type": "fixed_small", "timestep_plans": None, "fitted_solvers": None}
    chain = discrete_chain(scheduler, "be fitted a solver for", solver_order=2, corrector=False, **deterministic)
    check_chain_length(unet, chain)
    fitting = SolverFit(unet, chain, num_paths, seed, guidance_scale, class_labels, batch_size)
    calls = FINE_STEPS + len(SPACINGS) * sum(steps)
    with evaluating(unet), tqdm(total=calls, desc="solvers", unit="call", disable=not progress_bar) as bar:
        fitting.follow_paths(bar.update)
        solvers = {str(count): fitting.best_solver(count, bar.update) for count in steps}
    described = described_for_fit(chain.config, chain.alpha_bar(range(len(chain))).numpy()) | {
        "guidance_scale": float(guidance_scale)
    }
    return type(chain).from_config(
        chain.config, timestep_spacing="karras", fitted_solvers={"fitted_for": described, "solvers": solvers}
    )


class SolverFit:
    """Fine paths of a model, and solvers fitted to them."""

    def __init__(self, unet, chain, num_paths, seed, guidance_scale, class_labels, batch_size):
        self.pipeline, self.chain, self.guidance_scale = GaussianDiffusionPipeline(unet, chain), chain, guidance_scale
        self.batches = [range(first, min(first + batch_size, num_paths)) for first in range(0, num_paths, batch_size)]
        self.noise = starting_noise(unet, seed, 0, num_paths)
        if class_labels is None and classes_of(unet.config)[0] is not None:
            class_labels = [i % classes_of(unet.config)[0] for i in range(num_paths)]
        self.class_labels = class_labels
        self.fine = {}

    def follow_paths(self, update_bar):
        """Follows the fine paths from the noise to the data."""
        self.chain.set_timesteps(timesteps=self._nearest_fine("logsnr", FINE_STEPS))
        parts = []
        for batch in self.batches:
            x, path = self.noise[batch.start : batch.stop], {}
            for t in self.chain.timesteps.tolist():
                path[t] = x.cpu()
                x = self.chain.step(self._output(x, t, batch), t, x).prev_sample
            parts.append(path | {CLEAN: x.cpu()})
        update_bar(FINE_STEPS)
        self.fine = {t: torch.cat([part[t] for part in parts]) for t in parts[0]}

    def best_solver(self, count, update_bar):
        """The solver whose results are nearest to the ends of the paths, among one for each spacing."""
        solvers = []
        for spacing in SPACINGS:
            solvers.append(self._fitted(self._nearest_fine(spacing, count)))
            update_bar(count)
        error, timesteps, rows = min(solvers, key=lambda solver: solver[0])
        return {"timesteps": timesteps, "rows": rows, "distance": error}

    def _fitted(self, timesteps):
        """The root mean square distance to the ends of the paths, the timesteps, and the rows."""
        x, x0s, rows = self.noise.cpu(), [], []
        for t, s in zip(timesteps, [*timesteps[1:], CLEAN], strict=True):
            x0s.append(torch.cat([self._x0(x, t, batch) for batch in self.batches]))
            terms, target = [x, *x0s], self.fine[s]
            row = fitted_row(terms, target, self._row_of_ddim(t, s, len(x0s)))
            rows.append(row.tolist())
            x = sum(weight * term for weight, term in zip(rows[-1], terms, strict=True))
        return (x - self.fine[CLEAN]).square().mean().sqrt().item(), timesteps, rows

    def _row_of_ddim(self, t, s, calls):
        """(sigma_s / sigma_t, 0, .., 0, a_s - a_t sigma_s / sigma_t)."""
        alpha_bar_t, alpha_bar_s = self.chain.alpha_bar(t), self.chain.alpha_bar(s)
        of_sample = ((1 - alpha_bar_s) / (1 - alpha_bar_t)).sqrt()
        row = torch.zeros(calls + 1, dtype=torch.float64)
        row[0], row[-1] = of_sample, alpha_bar_s.sqrt() - alpha_bar_t.sqrt() * of_sample
        return row

    def _x0(self, x, t, batch):
        x = x[batch.start : batch.stop].to(self.noise.device)
        return self.chain.p_mean_variance(self._output(x, t, batch), t, x).pred_original_sample.cpu()

    def _output(self, x, t, batch):
        labels = self.class_labels
        if isinstance(labels, (list, tuple, torch.Tensor, np.ndarray)):
            labels = labels[batch.start : batch.stop]
        labels = encode_labels(self.pipeline.unet.config, labels, self.guidance_scale, len(batch), x.device)
        return self.pipeline.predict(x, t, torch.tensor(t, device=x.device), labels, self.guidance_scale)[
            :, : x.shape[1]
        ]

    def _nearest_fine(self, spacing, count):
        """Timesteps of a spacing, descending from the first of training; of the fine paths where those are there."""
        alphas_bar = self.chain.alpha_bar(range(len(self.chain))).numpy()
        wanted = spaced_timesteps(spacing, count, alphas_bar)
        if not self.fine:
            return wanted.tolist()
        fine = np.array([t for t in self.fine if t != CLEAN])  # descending
        places = np.abs(fine[None] - wanted[:, None]).argmin(1)
        for i in range(1, count):  # no two the same
            places[i] = max(places[i], places[i - 1] + 1)
        places = np.minimum(places, len(fine) - count + np.arange(count))
        places[0] = 0
        return fine[places].tolist()


def fitted_row(terms, target, row_of_ddim):
    """The weights of `terms` that give `target` best, with its spread, (len(terms),), float64.

    Args:
        terms (`list[torch.Tensor]`), target: (N, *), over N paths.
        row_of_ddim: what the weights are drawn to by the ridge.
    """
    matrix = torch.stack([term.flatten() for term in terms]).double()
    normal, right = matrix @ matrix.T, matrix @ target.flatten().double()
    ridge = RIDGE * normal.diagonal().mean()
    row = torch.linalg.solve(normal + ridge * torch.eye(len(terms)), right + ridge * row_of_ddim)
    result = sum(weight * term for weight, term in zip(row, terms, strict=True))
    spread, wanted = _spread(result), _spread(target)
    return row * (wanted / spread) if spread > 0 else row


def _spread(x):
    """The standard deviation about the mean over paths, of all dimensions together."""
    return (x.double() - x.double().mean(0)).square().mean().sqrt()
