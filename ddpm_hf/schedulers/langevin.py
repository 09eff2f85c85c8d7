"""Annealed Langevin dynamics, the sampler of noise-conditional score networks (Song & Ermon 2019, algorithm 1)."""

from diffusers.utils.torch_utils import randn_tensor


def annealed_langevin(score, sigmas, x, step_size, steps_each, generator=None, noises=None):
    """Samples by Langevin dynamics at one noise level after another.

    At the level sigma_i each step is, with alpha_i = step_size sigma_i^2 / sigma_L^2,

        x  <-  x + alpha_i / 2 score(x, sigma_i) + sqrt(alpha_i) z.

    It is [`ScoreSDEScheduler`] with `predictor="none"`, `corrector="annealed_langevin"`, `correct_steps=steps_each`
    and
    `snr = sqrt(step_size) / (2 sigma_L)` on any levels.

    Args:
        score (`Callable`): score(x, sigma) gives the gradient of the log-density of data with noise sigma, a 0-d
            tensor.
        sigmas (`torch.Tensor`): (L,), descending.
        x (`torch.Tensor`): the initial sample, (B, C, *).
        step_size (`float`): the paper's epsilon; 2e-5 for its images in [0, 1].
        steps_each (`int`): steps at each level; the paper's T, 100.
        generator (`torch.Generator` or a list of B, *optional*): the source of the noise.
        noises (`torch.Tensor`, *optional*): the standard normal noise itself, (L * steps_each, B, C, *).

    Returns:
        `torch.Tensor`: x after the last level. x + sigma_L^2 score(x, sigma_L) is its mean without noise.

    Raises:
        ValueError: for levels that are not above 0 and descending.
    """
    if not (sigmas > 0).all() or not (sigmas.diff() < 0).all():
        raise ValueError(f"sigmas={sigmas.tolist()} must be above 0 and descend from the largest noise.")
    for level, sigma in enumerate(sigmas):
        alpha = step_size * (sigma / sigmas[-1]) ** 2
        for step in range(steps_each):
            if noises is None:
                noise = randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            else:
                noise = noises[level * steps_each + step]
            x = x + alpha / 2 * score(x, sigma) + alpha.sqrt() * noise
    return x
