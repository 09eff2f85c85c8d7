r"""Whether a converted network was read as it was trained: its error at half noise, beside that of other readings.

A network that is read wrongly samples noise without a word. At :math:`\bar\alpha_t` nearest to 1/2 a trained one
predicts the noise with a mean square error far below 1, the variance of the noise. Each option that the weights do not
tell is also given the other values that fit the weights, and the one with a clearly smaller error is doubted.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from ddpm_hf.converters.processes import sampled
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.for_network import ImageData
from ddpm_hf.evaluation.discrete_chains import evaluating
from ddpm_hf.models.network_config import classes_of
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline

HALF_NOISE = 0.5
# A network with a larger share of the noise's variance left has not been read as it was trained, or is not trained.
LARGEST_ERROR = 0.5
# Another reading is doubted to be the right one below this share of the error.
CLEARLY_SMALLER = 0.9
DATA_RANGE = "the data range"


class Reading(NamedTuple):
    """A value of an option, and the errors of the network with it, of the noise and relative to the images."""

    option: str
    value: object
    noise_error: float
    image_error: float


class Check(NamedTuple):
    """The error of a conversion at half noise, and the readings that have smaller ones, the smallest first."""

    images: str
    number: int
    noise_error: float
    better: tuple
    others: tuple

    @property
    def is_doubtful(self):
        return bool(self.better) or not self.noise_error < LARGEST_ERROR

    @property
    def text(self):
        """What was found, in sentences."""
        found = (
            f"On {self.number} {self.images}, the mean square error of its predicted noise at half noise is "
            f"{self.noise_error:.3g}, where 1 is that of no prediction"
        )
        if self.better:
            first, names = self.better[0], ", ".join(dict.fromkeys(each.option for each in self.better))
            return f"{found}. With {first.option}={first.value} it is {first.noise_error:.3g}: doubt {names}."
        if self.is_doubtful:
            options = ", ".join(dict.fromkeys(each.option for each in self.others))
            return f"{found}, which is that of a wrong reading, or of a network without training. Doubt {options}."
        return f"{found}; no other reading that fits its weights has a smaller one."

    def values(self):
        """The values for `conversion.json`."""
        better = [each._asdict() for each in self.better]
        return {"text": self.text, "number": self.number, "noise_error": self.noise_error, "better": better}


def check_reading(pipeline, conversion, reread, images, name, seed=0):
    """The [`Check`] of a conversion on images.

    Args:
        pipeline ([`GaussianDiffusionPipeline`]): what was made of the conversion.
        conversion ([`Conversion`]): with the options that are doubtful.
        reread: a function of {option: value} that gives the pipeline with other options.
        images (`torch.Tensor`): (N, C, H, W), in [-1, 1].
        name (`str`): what the images are, in the plural.
        seed (`int`): of the noise.
    """
    noise_error, image_error = errors_at_half_noise(pipeline, images, seed)
    others = [
        Reading(option, value, *errors_at_half_noise(reread({option: value}), images, seed))
        for option, values in conversion.doubtful.items()
        for value in values
    ]
    others.append(Reading(DATA_RANGE, "[0, 1]", *errors_at_half_noise(pipeline, (images + 1) / 2, seed)))
    better = [each for each in others if each.image_error < CLEARLY_SMALLER * image_error]
    better.sort(key=lambda each: each.image_error)
    return Check(name, len(images), noise_error, tuple(better), tuple(others))


@torch.no_grad()
def errors_at_half_noise(pipeline, images, seed=0):
    """The mean square error of the predicted noise, and that of x0_hat as a share of the images' variance.

    The second one compares readings with other ranges of the data and other noise levels.
    """
    scheduler, device = pipeline.scheduler, pipeline.unet.device
    t = (scheduler.alphas_cumprod - HALF_NOISE).abs().argmin()
    alpha_bar = scheduler.alphas_cumprod[t].item()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    x0 = images.to(device)
    x_t = scheduler.add_noise(x0, noise, t)
    with evaluating(pipeline.unet):
        labels = pipeline.encode_labels(some_labels(pipeline.unet.config, len(x0)), batch_size=len(x0), device=device)
        output = pipeline.predict(x_t, t, t.to(device), labels)[:, : x0.shape[1]]
    predicted = NOISE_OF[scheduler.config.prediction_type](output, x_t, alpha_bar)
    error = (predicted - noise).square().mean().item()
    return error, error * (1 - alpha_bar) / alpha_bar / x0.var().item()


def some_labels(config, number):
    """A label for each image, one class after the other; None for a network without classes."""
    classes = classes_of(config)[0]
    return None if classes is None else torch.arange(number) % classes


# The predicted noise, from the output of a network of each prediction type.
NOISE_OF = {
    "epsilon": lambda output, x_t, alpha_bar: output,
    "sample": lambda output, x_t, alpha_bar: (x_t - alpha_bar**0.5 * output) / (1 - alpha_bar) ** 0.5,
    "v_prediction": lambda output, x_t, alpha_bar: alpha_bar**0.5 * output + (1 - alpha_bar) ** 0.5 * x_t,
}


def own_samples(pipeline, number, steps, seed=0):
    """Samples of the network itself, (N, C, H, W) in [-1, 1], where there are no images to check it on."""
    labels = some_labels(pipeline.unet.config, number)
    generator = torch.Generator().manual_seed(seed)
    samples = pipeline(
        batch_size=number,
        class_labels=labels,
        generator=generator,
        num_inference_steps=steps,
        eta=0.0,
        output_type="latent",
    ).images
    return samples.clamp(-1, 1).cpu()


class SelfCheck(NamedTuple):
    """Checks a conversion on images of a data set, or on samples of the network itself where there are none.

    data: [`DataArguments`] of the images, or None; number: of images; steps: of sampling; seed: of the noise; tell:
    called with the text that was found.
    """

    data: DataArguments | None = None
    number: int = 16
    steps: int = 25
    seed: int = 0
    tell: Callable = print

    def __call__(self, opened, conversion, result):
        """The [`Check`]; None for what is no pipeline, and so has no process to check it with."""
        if not isinstance(result, GaussianDiffusionPipeline):
            self.tell("The reading is not checked, for no pipeline samples this network.")
            return None
        images = self.images_for(result)
        name = "samples of its own" if self.data is None else "images"
        check = check_reading(
            result, conversion, lambda changes: sampled(opened.read(changes)), images, name, self.seed
        )
        self.tell(check.text)
        return check

    def images_for(self, pipeline):
        """The images for a network, (N, C, H, W) in [-1, 1]."""
        if self.data is None:
            return own_samples(pipeline, self.number, self.steps, self.seed)
        config = pipeline.unet.config
        source = ImageData.open_for_network(self.data, config, "the converted network")
        images = source.select(range(min(self.number, len(source)))).decode().images
        return pipeline.samples.from_data(images)
