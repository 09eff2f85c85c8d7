"""Calls of a network over data, batch by batch, where the noise of an image depends on its place in the data."""

from contextlib import contextmanager
from typing import NamedTuple

import torch
from tqdm.auto import tqdm

from ddpm_hf.evaluation.discrete_chains import evaluating
from ddpm_hf.evaluation.image_labels import check_labels, labels_of
from ddpm_hf.evaluation.seeded_noise import image_generators, noise_of_steps
from ddpm_hf.pipelines.conditioning import Conditioning
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline


class NoisedImage(NamedTuple):
    """x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise of a batch, (B, C, *), and the network's output for it."""

    t: int | torch.Tensor
    noise: torch.Tensor
    x_t: torch.Tensor
    output: torch.Tensor


class Batch(NamedTuple):
    """A batch of the data; `first` is the place of its first image, `labels` has one for each image or one for all."""

    first: int
    data: torch.Tensor
    labels: torch.Tensor | int | None
    pipeline: GaussianDiffusionPipeline
    seed: int
    bar: tqdm

    def noised(self, x0, timesteps, condition_image=None):
        """Yields a [`NoisedImage`] for each of the timesteps, by one network call.

        Args:
            x0 (`torch.Tensor`): the input of the network, (B, C, *), on its device.
            timesteps (`torch.Tensor`): (K,) for the whole batch, or (K, B), one for each image.
            condition_image (`torch.Tensor`, *optional*): what the network is told beside, from `SampleKind.split`.
        """
        labels = self.pipeline.encode_labels(self.labels, batch_size=len(x0), device=x0.device)
        told = Conditioning(labels, image=condition_image)
        # The scheduler reads a single timestep on the host, the network on the device: neither waits for the other.
        on_device = timesteps.to(x0.device)
        on_host = timesteps.tolist() if timesteps.ndim == 1 else on_device
        noises = noise_of_steps(image_generators(self.seed, self.first, x0), len(timesteps), x0)
        for t, t_on_device, noise in zip(on_host, on_device, noises, strict=True):
            x_t = self.pipeline.scheduler.add_noise(x0, noise, t)
            yield NoisedImage(t, noise, x_t, self.pipeline.predict(x_t, t, t_on_device, told))
            self.bar.update()


class Measuring(NamedTuple):
    """The data that a network is measured on, and the batches, labels and noise of its calls.

    data: a tensor of all samples, or an iterable of batches; class_labels: one for all, one for each image, or None;
    batch_size: images at a time, if `data` is a tensor; seed: seed of the noise; accelerator: its processes share the
    batches; progress_bar: whether one is shown, counted in network calls.
    """

    data: torch.Tensor | object
    class_labels: torch.Tensor | int | None = None
    batch_size: int = 64
    seed: int = 0
    accelerator: object = None
    progress_bar: bool = True

    @property
    def rank(self):
        return 0 if self.accelerator is None else self.accelerator.process_index

    @property
    def processes(self):
        return 1 if self.accelerator is None else self.accelerator.num_processes

    @property
    def batches(self):
        return self.data.split(self.batch_size) if isinstance(self.data, torch.Tensor) else self.data

    def unwrapped(self, unet):
        """The network without what the accelerator put around it."""
        return unet if self.accelerator is None else self.accelerator.unwrap_model(unet)

    def total(self, sums):
        """The sums over all processes of float64 sums, on the host; every process must call this."""
        if self.processes == 1:
            return sums
        return self.accelerator.reduce(sums.to(self.accelerator.device), "sum").cpu()


@contextmanager
def noised_batches(pipeline, measuring, calls_per_batch, description, unit="call"):
    """Gives the [`NoisedBatches`] of this process, with dropout switched off inside the block.

    `calls_per_batch` is what the progress bar counts for a batch, in `unit`s.
    """
    batches, rank, processes = measuring.batches, measuring.rank, measuring.processes
    own = len(range(rank, len(batches), processes)) if hasattr(batches, "__len__") else None
    calls = None if own is None else own * calls_per_batch
    hidden = not measuring.progress_bar or rank > 0
    with evaluating(pipeline.unet), _bar(calls, description, unit, hidden) as bar:
        yield NoisedBatches(pipeline, measuring, batches, bar)


def _bar(total, description, unit, hidden):
    # Parts of a unit are shown with two digits.
    return tqdm(total=total, desc=description, unit=unit, unit_scale=unit != "call", disable=hidden)


class NoisedBatches:
    """The [`Batch`]es of one process, for one iteration; `num_images` then counts the images of all processes.

    Raises:
        ValueError: if there are no images, or another number of labels.
    """

    def __init__(self, pipeline, measuring, batches, bar):
        self.pipeline, self.measuring, self.batches, self.bar = pipeline, measuring, batches, bar
        self.num_images = 0

    def __iter__(self):
        how = self.measuring
        for index, (first, data) in enumerate(numbered(self.batches)):
            self.num_images = first + len(data)
            if index % how.processes == how.rank:
                labels = labels_of(how.class_labels, first, len(data))
                yield Batch(first, data, labels, self.pipeline, how.seed, self.bar)
        check_labels(how.class_labels, self.num_images)


def numbered(batches):
    """Yields (place of the first image in the data, batch) for each batch; ValueError if there is none."""
    first = 0
    for batch in batches:
        yield first, batch
        first += len(batch)
    if first == 0:
        raise ValueError("There are no images to evaluate.")
