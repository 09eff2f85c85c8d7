"""Gamma_t = E |eps_hat(x_t, t)|^2 / d at every training timestep, the one statistic that Analytic-DPM needs.

It gives Cov[x0 | x_t] = (1 - abar_t) / abar_t * (1 - Gamma_t) (Bao et al. 2022a, theorem 1). So 1 - Gamma_t must be
accurate, and at high noise it is smaller than the sampling error of a plain mean of |eps_hat|^2 / d, whose values scatter
like |eps|^2 / d, by sqrt(2 / d) each. Since E |eps|^2 / d = 1 is known, Gamma_t is estimated as the intercept of a
regression on z = |eps|^2 / d - 1 (a control variate: Lavenberg & Welch 1981), which removes the scatter that eps_hat shares
with eps. Nothing is smoothed over t: every value has its own draws and its own standard error.

The same network calls give R_t = E |eps - eps_hat(x_t, t)|^2 / d. It equals 1 - Gamma_t where eps_hat is the conditional
mean of the noise, and approximates it for a trained network. The optimal variance for such a network has R_t in place of
1 - Gamma_t, because it also makes up for the errors of the mean (Bao et al. 2022b, as one number for each t). R_t is also the
more accurate of the two, since its standard error is proportional to its value. Of images, R_t is shared out among spatial
frequencies too (`residual_spectra`).
"""

import json
from dataclasses import asdict, dataclass

import torch
from diffusers.utils import logging

from ddpm_hf.calibration.progress_file import open_progress, save_progress
from ddpm_hf.calibration.residual_spectra import ResidualSpectra
from ddpm_hf.data import to_model_range
from ddpm_hf.evaluation.discrete_chains import check_chain_length, discrete_chain
from ddpm_hf.evaluation.image_labels import check_labels
from ddpm_hf.evaluation.noised_batches import Measuring, noised_batches
from ddpm_hf.number_checks import check_all_finite
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.samples import kind_of

logger = logging.get_logger(__name__)

# The expected square error of the intercept is infinite with fewer draws.
FEWEST_DRAWS = 4
# Each image then takes as many network calls as sampling it in 100 steps.
TIMESTEPS_PER_IMAGE = 100
# A measurement needs no variance and no plan, and those of the config may not suit this network.
PLAIN_CHAIN = {"variance_type": "fixed_small", "timestep_spacing": "leading", "timestep_plans": None}


@dataclass(frozen=True)
class MeanSquareEpsilon:
    """Gamma_t = E |eps_hat(x_t, t)|^2 / d and R_t = E |eps - eps_hat(x_t, t)|^2 / d, for t = 0 .. T-1.

    values, standard_errors: Gamma_t; residuals, residual_errors: R_t; draws: number of pairs of image and noise at each
    timestep. Errors of different timesteps are nearly independent. num_images, timesteps_per_image, seed: arguments of
    the estimate. covariance_spectrum: how R_t is shared out among spatial frequencies, as the config of a scheduler takes
    it; None for points, and for a network without a `sample_size`.
    """

    values: list[float]
    standard_errors: list[float]
    residuals: list[float]
    residual_errors: list[float]
    draws: list[int]
    num_images: int
    timesteps_per_image: int
    seed: int
    covariance_spectrum: dict | None

    def for_optimal_variance(self):
        """1 - R_t, at least 0: the `mean_square_epsilon` of a scheduler with the optimal variances for this network."""
        return [max(0.0, 1 - residual) for residual in self.residuals]

    def for_scheduler(self):
        """What was measured, as arguments of [`GaussianDiffusionScheduler`]."""
        return {
            "mean_square_epsilon": self.for_optimal_variance(),
            "covariance_spectrum": self.covariance_spectrum,
        }

    def to_json(self):
        return json.dumps(asdict(self), indent=2) + "\n"


@torch.no_grad()
def estimate_mean_square_epsilon(
    unet, scheduler, batches, timesteps_per_image=None, encode=None, state_file=None, **measuring
):
    """Gamma_t = E |eps_hat(x_t, t)|^2 / d for every training timestep, with standard errors (Bao et al. 2022a).

    Each image is used at m timesteps, evenly spread over 0 .. T-1 from a start that is evenly spread over the images.
    So N images give N m / T draws for each timestep, within one or two, and every timestep gets images from all parts
    of the data. The cost is N m network calls on one image. The noise of an image is a function of the seed and of its
    place in the data, so that batches and processes change the result by no more than rounding.

    Args:
        unet ([`UNet2DModel`]): the network, stock or ours, in any precision, on the device of the computation. Dropout
            is switched off.
        scheduler ([`SchedulerMixin`]): the scheduler of the training, or one of the Karras family made from its
            config; predictions of x0 and v are converted.
        batches: (N, C, H, W), uint8 or floats in [-1, 1], or an iterable of such batches. A network of points takes
            (N, d), in its own units.
        timesteps_per_image (`int`, *optional*): m; by default 100, or T if that is less.
        encode (*optional*): for a latent model: a function of a batch of images in [-1, 1] that returns latents in the
            scale of the network.
        state_file (*optional*): an npz file that is written after every batch, and from which the same call continues.
            Each of several processes has its own file beside it.
        measuring: how the network is called, as in [`Measuring`]: `class_labels`, one for all or (N,), where None is
            "no class" if the model has a null label; `batch_size`, 64; `seed`, 0, of the noise and the timesteps;
            `accelerator`, whose processes share the batches and all get the result; `progress_bar`, True.

    Returns:
        [`MeanSquareEpsilon`]

    Raises:
        ValueError: for images that do not fit the network or the range, too few of them, a scheduler that is not a
            discrete chain, a prediction that is not finite, and a `state_file` of another estimate.
    """
    measuring = Measuring(batches, **measuring)
    return _measure(measuring.unwrapped(unet), scheduler, measuring, timesteps_per_image, encode, state_file)


def _measure(unet, scheduler, measuring, timesteps_per_image, encode, state_file):
    chain = discrete_chain(scheduler, "be calibrated", **PLAIN_CHAIN)
    check_chain_length(unet, chain)
    per_image = min(TIMESTEPS_PER_IMAGE, len(chain)) if timesteps_per_image is None else timesteps_per_image
    if not 1 <= per_image <= len(chain):
        raise ValueError(f"timesteps_per_image={per_image} must be in 1 .. {len(chain)}, the training timesteps.")
    if isinstance(measuring.data, torch.Tensor):
        _check_number(len(measuring.data), per_image, len(chain), measuring.seed)
        check_labels(measuring.class_labels, len(measuring.data))
    pipeline = GaussianDiffusionPipeline(unet, chain)
    spectra = _spectra_of(pipeline.samples, unet.device)
    sums, num_images = _summed_draws(pipeline, spectra, measuring, per_image, encode, state_file)
    _check_number(num_images, per_image, len(chain), measuring.seed)
    sums = measuring.total(sums)
    spectrum = None if spectra is None else spectra.spectrum(sums[8:], sums[6]).to_config()
    return _estimate(sums[:8], num_images, per_image, measuring.seed, spectrum)


def _spectra_of(samples, device):
    """The [`ResidualSpectra`] of images of a known size; None for other samples."""
    is_image = len(samples.sides) == 2 and None not in samples.sides
    return ResidualSpectra(samples.shape, device) if is_image else None


def _summed_draws(pipeline, spectra, measuring, per_image, encode, state_file):
    """The sums over the images of this process, (8 + bands, T), and the number of all images.

    The first eight are those of `_add_draws_`; the others are of the residual's mean squares in the bands of `spectra`.
    """
    steps, bands = len(pipeline.scheduler), 0 if spectra is None else spectra.size
    progress = open_progress(
        state_file,
        measuring.rank,
        measuring.processes,
        {"seed": measuring.seed, "timesteps_per_image": per_image, "number of frequency bands": bands},
        pipeline,
        torch.zeros(8 + bands, steps, dtype=torch.float64),
    )
    with noised_batches(pipeline, measuring, per_image, "calibration") as batches:
        for number, batch in enumerate(batches, start=1):
            if progress.has(number, batch.data, batch.labels):
                batch.bar.update(per_image)
                continue
            data = _network_images(batch.data, pipeline.unet, encode, batch.first)
            x0, condition_image = pipeline.samples.split(data)
            timesteps = image_timesteps(batch.first, len(x0), per_image, steps, measuring.seed)
            *draws, in_bands = _draws_of_batch(batch, x0, condition_image, timesteps, spectra)
            _check_finite(draws[0], timesteps, batch.first)
            if number == 1 and measuring.rank == 0:
                _warn_if_worse_than_none(draws[2], timesteps, steps)
            _add_draws_(progress.sums[:8], timesteps, *draws)
            progress.sums[8:].index_add_(1, timesteps.flatten(), in_bands.flatten(0, 1).T)
            save_progress(progress, batch.data, batch.labels)
    return progress.sums, batches.num_images


def _estimate(sums, num_images, per_image, seed, spectrum):
    """The [`MeanSquareEpsilon`] from the sums over all images."""
    values, errors = _intercepts(*sums[:6])
    residuals, residual_errors = _means(sums[0], *sums[6:])
    names = ("Gamma", "standard error of Gamma", "mean square error", "standard error of the mean square error")
    check_all_finite(
        torch.stack([values, errors, residuals, residual_errors]),
        lambda which, t: f"The {names[which]} at timestep {t}",
        "Are the images all alike, or too few?",
    )
    return MeanSquareEpsilon(
        values=values.tolist(),
        standard_errors=errors.tolist(),
        residuals=residuals.tolist(),
        residual_errors=residual_errors.tolist(),
        draws=sums[0].long().tolist(),
        num_images=num_images,
        timesteps_per_image=per_image,
        seed=seed,
        covariance_spectrum=spectrum,
    )


def image_timesteps(first, count, per_image, steps, seed):
    """The timesteps of the images `first` .. `first + count - 1`: floor(T (j + u_i) / m) for j < m, (count, m), int64.

    u_i = (u + i (sqrt(5) - 1) / 2) mod 1 is a sequence that is evenly spread whatever its length. It is computed in
    whole multiples of 2^-32, without rounding.
    """
    golden, unit = 2654435769, 2**32
    start = torch.randint(unit, (), generator=torch.Generator().manual_seed(seed))
    offsets = (start + torch.arange(first, first + count) * golden) % unit
    return (torch.arange(per_image) * unit + offsets[:, None]) * steps // (per_image * unit)


def _draws_of_batch(batch, x0, condition_image, timesteps, spectra):
    """|eps_hat|^2 / d, |eps|^2 / d - 1 and |eps - eps_hat|^2 / d, (B, m), and the last in the bands, (B, m, bands).

    All are float64 and on the host, which waits only here.
    """
    predicted, known, residual, in_bands = [], [], [], []
    for t, noise, x_t, output in batch.noised(x0, timesteps.T, condition_image):
        epsilon = batch.pipeline.scheduler.get_epsilon(output, t, x_t)
        predicted.append(_mean_square(epsilon))
        known.append(_mean_square(noise) - 1)
        error = noise - epsilon
        residual.append(_mean_square(error))
        in_bands.append(error.new_empty(len(error), 0) if spectra is None else spectra.of(error))
    return tuple(torch.stack(draws, dim=1).cpu().double() for draws in (predicted, known, residual, in_bands))


def _mean_square(x):
    return x.square().flatten(1).mean(1)


def _add_draws_(sums, timesteps, y, z, r):
    """Adds 1, y, z, y^2, y z, z^2, r and r^2 of each draw to the sums (8, T) of its timestep."""
    terms = torch.stack([torch.ones_like(y), y, z, y * y, y * z, z * z, r, r * r])
    sums.index_add_(1, timesteps.flatten(), terms.flatten(1))


def _intercepts(n, y, z, yy, yz, zz):
    """The intercepts at z = 0 of the least-squares lines of y over z, and their standard errors, from the sums."""
    y, z = y / n, z / n
    s_yy, s_yz, s_zz = yy - n * y * y, yz - n * y * z, zz - n * z * z
    slope = s_yz / s_zz
    residual = (s_yy - slope * s_yz).clamp(min=0) / (n - 2)
    return y - slope * z, (residual * (1 / n + z * z / s_zz)).sqrt()


def _means(n, r, rr):
    """The means and their standard errors, from the sums."""
    mean = r / n
    return mean, ((rr - n * mean * mean).clamp(min=0) / (n - 1) / n).sqrt()


# Checks --------------------------------------------------------------------------------------------------------------


def _network_images(batch, unet, encode, first):
    """A batch in the form of the network's input: float32, encoded where the model is latent, on its device."""
    samples = kind_of(unet.config)
    if batch.is_floating_point() and not samples.in_range(batch):
        low, high = batch.aminmax()
        raise ValueError(
            f"The images from number {first} on reach from {low.item():.4g} to {high.item():.4g}: give uint8, or floats "
            "in [-1, 1]; what is encoded already goes through `encode=lambda latents: latents`."
            if encode is None
            else f"Images for `encode` must be in [-1, 1]; those from number {first} on reach from {low.item():.4g} to "
            f"{high.item():.4g}."
        )
    images = to_model_range(batch.to(unet.device))
    if encode is not None:
        images = encode(images).float()
    wanted = (samples.data_channels, *samples.sides)
    fits = len(wanted) == images.ndim - 1 and all(
        side in (None, given) for side, given in zip(wanted, images.shape[1:], strict=True)
    )
    if not fits:
        sides = ", ".join("any" if side is None else str(side) for side in wanted)
        raise ValueError(
            f"Images of shape {tuple(images.shape)} do not fit this network, which takes (N, {sides})"
            + ("; a latent model needs `encode`." if encode is None else " from `encode`.")
        )
    return images


def _check_number(num_images, per_image, steps, seed):
    draws = torch.bincount(image_timesteps(0, num_images, per_image, steps, seed).flatten(), minlength=steps)
    if draws.min() < FEWEST_DRAWS:
        needed = -(-(FEWEST_DRAWS + 2) * steps // per_image)
        raise ValueError(
            f"{num_images} images at {per_image} timesteps each leave timestep {draws.argmin().item()} with "
            f"{draws.min().item()} draws, and every one needs {FEWEST_DRAWS}: give about {needed} images or more (1,000 "
            f"serve well), or a larger timesteps_per_image."
        )


def _warn_if_worse_than_none(residuals, timesteps, steps):
    """Warns if the network predicts the noise worse than zero does at high noise, where a mismatch shows most."""
    mean = residuals[timesteps >= 0.75 * steps].mean().item()
    if mean > 1:
        logger.warning(
            f"Where there is most noise, the network's error of the noise is {mean:.3g}, and that of predicting none is 1. "
            "Is it trained? Are prediction_type, the betas and the range of the images those of its training?"
        )


def _check_finite(squares, timesteps, first):
    check_all_finite(
        squares,
        lambda image, column: (
            f"The network's prediction for image {first + image} at timestep {timesteps[image, column]}"
        ),
        "Is it finite there in float32?",
    )
