r"""Whether a converted network was read as it was trained: its error on images, beside that of other readings.

A network that is read wrongly samples noise without a word. Where images and noise are equally strong a trained one
predicts the noise with a mean square error far below 1, the variance of the noise. Each option that the weights do
not tell is also given the other values that fit the weights, and those with smaller errors on the same images and
noise are believed more. Without images there is only the look of its samples: neighbouring pixels of images are alike.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from ddpm_hf.converters.processes import sampled
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.for_network import ImageData
from ddpm_hf.evaluation.discrete_chains import evaluating
from ddpm_hf.models.network_config import classes_of
from ddpm_hf.pipelines.conditioning import Conditioning
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.pipelines.schedulers import is_centered, network_times
from ddpm_hf.schedulers.scheduling_score_sde import ScoreSDEScheduler

# A network with a larger share of the noise's variance left has not been read as it was trained, or is not trained.
LARGEST_ERROR = 0.5
# Another reading is believed more if it is better by so many standard errors of the difference, image by image.
STANDARD_ERRORS = 3
# Between neighbouring pixels; photographs have 0.9 and more, small pictures of clothes 0.6, noise 0.
LEAST_CORRELATION = 0.4
DATA_RANGE = "the data range"
# The ranges of data by whether they are centred.
RANGES = {True: "[-1, 1]", False: "[0, 1]"}
# Drawing them takes `steps` calls of the network each, and comparing readings only as many as there are readings.
MOST_SAMPLES = 16


class Reading(NamedTuple):
    """A value of an option, and the mean square errors of the predicted noise with it, (N,), one for each image."""

    option: str
    value: object
    errors: torch.Tensor
    # The factor of an error that makes it one of x0_hat, as a share of the variance of the images.
    factor: float

    @property
    def noise_error(self):
        return self.errors.mean().item()

    def is_better_than(self, other):
        """Whether x0_hat is nearer to the images than with another reading, and not by chance."""
        gain = other.factor * other.errors - self.factor * self.errors
        return gain.mean().item() > STANDARD_ERRORS * gain.std().item() / math.sqrt(len(gain))


class ImageCheck(NamedTuple):
    """The error of a conversion on images, and readings with smaller ones, the smallest first."""

    number: int
    noise_error: float
    better: tuple
    options: tuple

    @property
    def is_doubtful(self):
        return bool(self.better) or not self.noise_error < LARGEST_ERROR

    @property
    def text(self):
        """What was found, in sentences."""
        found = (
            f"On {self.number} images, the mean square error of its predicted noise at half noise is "
            f"{self.noise_error:.3g}, where 1 is that of no prediction"
        )
        if self.better:
            first, names = self.better[0], ", ".join(dict.fromkeys(each.option for each in self.better))
            return f"{found}. With {first.option}={first.value} it is {first.noise_error:.3g}: doubt {names}."
        if self.is_doubtful:
            options = ", ".join(self.options)
            return f"{found}: it was read wrongly, or the images are not like those of its training. Doubt {options}."
        return f"{found}; no other reading that fits its weights has a smaller one."

    def values(self):
        """The values for `conversion.json`."""
        better = [
            {"option": each.option, "value": each.value, "noise_error": each.noise_error} for each in self.better
        ]
        return {"text": self.text, "number": self.number, "noise_error": self.noise_error, "better": better}


class SampleCheck(NamedTuple):
    """How much neighbouring pixels of a network's own samples are alike."""

    number: int
    correlation: float
    options: tuple

    @property
    def is_doubtful(self):
        return not self.correlation > LEAST_CORRELATION

    @property
    def text(self):
        """What was found, in sentences."""
        found = f"Neighbouring pixels of {self.number} samples have a correlation of {self.correlation:.2f}"
        if self.is_doubtful:
            return f"{found}, which is that of noise: it was read wrongly. Doubt {', '.join(self.options)}."
        return (
            f"{found}, as pixels of images have, which does not show that each option is right: --check_images does."
        )

    def values(self):
        """The values for `conversion.json`."""
        return {"text": self.text, "number": self.number, "correlation": self.correlation}


def check_on_images(pipeline, conversion, reread, images, seed=0):
    """The [`ImageCheck`] of a conversion.

    Args:
        pipeline ([`GaussianDiffusionPipeline`]): what was made of the conversion.
        conversion ([`Conversion`]): with the options that are doubtful.
        reread: a function of {option: value} that gives the pipeline with other options.
        images (`torch.Tensor`): (N, C, H, W), in [-1, 1].
        seed (`int`): of the noise.
    """
    given = Reading("", None, *errors_at_half_noise(pipeline, images, seed))
    others = [
        Reading(option, value, *errors_at_half_noise(reread({option: value}), images, seed))
        for option, values in conversion.doubtful.items()
        for value in values
    ]
    other_range = not is_centered(pipeline.scheduler)
    errors = errors_at_half_noise(pipeline, images, seed, other_range)
    others.append(Reading(DATA_RANGE, RANGES[other_range], *errors))
    better = sorted(
        (each for each in others if each.is_better_than(given)), key=lambda each: each.factor * each.noise_error
    )
    return ImageCheck(len(images), given.noise_error, tuple(better), options_to_doubt(conversion))


def check_on_samples(conversion, samples):
    """The [`SampleCheck`] of a conversion, for samples (N, C, H, W)."""
    centred = samples - samples.mean()
    products = (centred[..., 1:] * centred[..., :-1]).mean() / centred.square().mean()
    return SampleCheck(len(samples), products.item(), options_to_doubt(conversion))


def options_to_doubt(conversion):
    return (*conversion.doubtful, DATA_RANGE)


@torch.no_grad()
def errors_at_half_noise(pipeline, images, seed=0, centered=None):
    """The mean square error of the predicted noise of each image, (N,), and the `factor` of a [`Reading`].

    `centered` says whether the network is shown the images, which are in [-1, 1], as they are, or in [0, 1]; by
    default as its process has them.
    """
    scheduler, device = pipeline.scheduler, pipeline.unet.device
    centered = is_centered(scheduler) if centered is None else centered
    images = (images if centered else (images + 1) / 2).to(device)
    t, ratio = half_noise(scheduler)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    x_t = scheduler.add_noise(images, noise, t)
    labels = pipeline.encode_labels(some_labels(pipeline.unet.config, len(x_t)), batch_size=len(x_t), device=device)
    with evaluating(pipeline.unet):
        output = pipeline.predict(x_t, t, network_times(scheduler, t).to(device), Conditioning(labels))
    output = output[:, : x_t.shape[1]]
    errors = (predicted_noise(scheduler, output, t, x_t) - noise).square().flatten(1).mean(1).cpu()
    return errors, ratio**2 / images.var().item()


def half_noise(scheduler):
    """The time at which the noise is as strong as images in the range of their process, and sigma / a there."""
    if isinstance(scheduler, ScoreSDEScheduler):
        times = scheduler.timesteps
        signal, sigma = scheduler.process.levels(times)
        ratios = sigma / signal
    else:
        times = torch.arange(len(scheduler))
        ratios = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5
    place = (ratios - (1.0 if is_centered(scheduler) else 0.5)).abs().argmin()
    return times[place], ratios[place].item()


def predicted_noise(scheduler, output, t, x_t):
    """eps_hat from the network's output at t."""
    if isinstance(scheduler, ScoreSDEScheduler):
        sigma = scheduler.process.levels(t)[1].to(x_t.device, x_t.dtype)
        return -sigma * scheduler.score(output, t, x_t)
    return scheduler.get_epsilon(output, t, x_t)


def some_labels(config, number):
    """A label for each image, one class after the other; None for a network without classes."""
    classes = classes_of(config)[0]
    return None if classes is None else torch.arange(number) % classes


class SelfCheck(NamedTuple):
    """Checks a conversion on images of a data set, or on samples of the network itself where there are none.

    data: [`DataArguments`] of the images, or None; number: of images; steps: of sampling; seed: of the noise; tell:
    called with the text that was found.
    """

    data: DataArguments | None = None
    number: int = 32
    steps: int = 25
    seed: int = 0
    tell: Callable = print

    def __call__(self, opened, conversion, result):
        """The check; None for a classifier, and for what is told an image."""
        if not isinstance(result, GaussianDiffusionPipeline):
            self.tell("The reading is not checked, for a classifier predicts no noise.")
            return None
        if result.samples.condition is not None:
            self.tell("The reading is not checked, for the network is told a small image: enlarge one and look at it.")
            return None
        if self.data is None:
            check = check_on_samples(conversion, self.samples_of(result))
        else:
            images, read = self.images_for(result), opened.read
            check = check_on_images(result, conversion, lambda changes: sampled(read(changes)), images, self.seed)
        self.tell(check.text)
        return check

    def samples_of(self, pipeline):
        """Samples of the network itself, (N, C, H, W) in [-1, 1]."""
        number = min(self.number, MOST_SAMPLES)
        samples = pipeline(
            batch_size=number,
            class_labels=some_labels(pipeline.unet.config, number),
            generator=torch.Generator().manual_seed(self.seed),
            num_inference_steps=self.steps,
            eta=0.0,
            output_type="latent",
        )
        return samples.images.clamp(-1, 1).cpu()

    def images_for(self, pipeline):
        """The images of the data, in the size of the network, (N, C, H, W) in [-1, 1]."""
        source = ImageData.open_for_network(self.data, pipeline.unet.config, "the converted network")
        images = source.select(range(min(self.number, len(source)))).decode()["images"]
        return pipeline.samples.from_data(images)
