"""Annealed Langevin dynamics, the sampler of noise-conditional score networks (Song & Ermon 2019, algorithm 1)."""

import torch


def annealed_langevin(score, sigmas, x, step_size, steps_each, noise_like=torch.randn_like):
    """Samples by Langevin dynamics at one noise level after another.

    At the level sigma_i each step is, with alpha_i = step_size sigma_i^2 / sigma_L^2,

        x  <-  x + alpha_i / 2 score(x, sigma_i) + sqrt(alpha_i) z.

    It is [`ScoreSDEScheduler`] with `predictor="none"`, `corrector="annealed_langevin"`, `correct_steps=steps_each`
    and `snr = sqrt(step_size) / (2 sigma_L)` on any levels.

    Args:
        score (`Callable`): score(x, sigma) gives the gradient of the log-density of data with noise sigma, a 0-d
            tensor.
        sigmas (`torch.Tensor`): (L,), descending.
        x (`torch.Tensor`): the initial sample, (B, C, *).
        step_size (`float`): the paper's epsilon; 2e-5 for its images in [0, 1].
        steps_each (`int`): steps at each level; the paper's T, 100.
        noise_like (`Callable`): noise_like(x) gives the standard normal noise z of a step, of the shape of x.

    Returns:
        `torch.Tensor`: x after the last level. x + sigma_L^2 score(x, sigma_L) is its mean without noise.

    Raises:
        ValueError: for levels that are not above 0 and descending.
    """
    if not (sigmas > 0).all() or not (sigmas.diff() < 0).all():
        raise ValueError(f"sigmas={sigmas.tolist()} must be above 0 and descend from the largest noise.")
    for sigma in sigmas:
        alpha = step_size * (sigma / sigmas[-1]) ** 2
        for _ in range(steps_each):
            x = x + alpha / 2 * score(x, sigma) + alpha.sqrt() * noise_like(x)
    return x
