"""What an evaluation looks at: the samples of a model or given images, the reference, and the training images."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from ddpm_hf.data import open_images
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.image_archives import holds_images
from ddpm_hf.evaluation.image_labels import labels_at
from ddpm_hf.evaluation.image_sets import ArchivedImages, DrawnImages, SampleConditions, StoredImages
from ddpm_hf.evaluation.run import open_data
from ddpm_hf.evaluation.sampler_measurements import check_pictures
from ddpm_hf.evaluation.samplers import set_steps
from ddpm_hf.hub.model_files import INDEX_FILE
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.models.network_checksum import network_checksum
from ddpm_hf.models.network_config import classes_of, is_told_text
from ddpm_hf.pipelines.conditioning import Guidance
from ddpm_hf.pipelines.pipeline_gaussian_diffusion import GaussianDiffusionPipeline
from ddpm_hf.recipes import changes_for, check_head, prepared_count, with_recipe
from ddpm_hf.samples.condition_images import condition_of
from ddpm_hf.samples.condition_values import value_limits_of
from ddpm_hf.sizes import size_of

NUM_SAMPLES = 10_000
ARCHIVE = ".npz"
# The side of images of several sizes.
SIDE_OF_SEVERAL = 256


class EvaluatedImages(NamedTuple):
    """The image sets of an evaluation.

    samples: the images that are measured. pipeline, sampling: the model that draws them, and the arguments of its call;
    None and {} for images that are there. reference: the images that they are compared with, or None where `statistics`
    names a file with statistics of them. train: the training images, or None where no metric needs them.
    """

    samples: object
    pipeline: GaussianDiffusionPipeline | None
    sampling: dict
    reference: object
    statistics: str | None
    train: object

    @property
    def steps(self):
        """The number of network calls of a sample."""
        return self.sampling["num_inference_steps"] or len(self.pipeline.scheduler)

    def about_samples(self, request):
        """What the samples depend on, by name."""
        about = {"of": str(request.model), "count": len(self.samples), "shape": _words(self.samples.shape)}
        if self.pipeline is not None:
            scheduler = self.pipeline.scheduler
            about |= self.sampling | {"num_inference_steps": self.steps, "seed": request.seed}
            about["sampler"] = request.recipe or type(scheduler).__name__
            about["variance_type"] = request.variance_type
            told = "captions" if is_told_text(self.pipeline.unet.config) else "classes"
            about[told] = None if self.samples.labels is None else "those of the reference"
        return _known(about | {"resizing": self.samples.resizing})

    def about_reference(self, moments):
        """What the reference is, by name; `moments` are the statistics that were read, by network."""
        if self.reference is None:
            counts = {each.count for each in moments.values()}
            return {"name": Path(self.statistics).name, "count": counts.pop(), "statistics": True}
        about = {"name": self.reference.name, "count": len(self.reference), "shape": _words(self.reference.shape)}
        train = None if self.train is None else self.train.name
        return _known(about | {"resizing": self.reference.resizing, "training images": train})

    def settings(self, request):
        """What images and features depend on, to know an interrupted evaluation again."""
        chosen = {name: getattr(request, name) for name in ("seed", "batch_size", "recipe", "variance_type")}
        sets = {"reference": self.reference, "train": self.train}
        return (
            {"model": str(request.model), "num_images": len(self.samples), "sampling": self.sampling}
            | {"weights": None if self.pipeline is None else network_checksum(self.pipeline.unet)}
            | chosen
            | {name: None if each is None else f"{each.name}, {len(each)} images" for name, each in sets.items()}
        )


def open_evaluated(request, device, needs_training_images):
    """The [`EvaluatedImages`] of a request; nothing is drawn yet.

    Raises:
        InputError: for a model that makes no pictures, and for data and files that cannot be read.
    """
    if not is_model(request.model):
        samples = _given_images(request.model)

        def stored(data):
            sized = _in_eight_bits(data, resolution=size_of(*samples.shape[1:]))
            return _stored(open_images(sized, None), data)

        return EvaluatedImages(samples, None, {}, *_references(request, stored, needs_training_images))
    pipeline = _open_pipeline(request).to(device)

    def for_network(data):
        return _stored(open_data(data, pipeline.unet.config), data)

    reference, statistics, train = _references(request, for_network, needs_training_images)
    steps = request.steps or prepared_count(pipeline.scheduler)
    sampling = {"num_inference_steps": steps, "guidance_scale": request.guidance_scale}
    count = request.num_images or NUM_SAMPLES
    samples = DrawnImages(pipeline, count, request.seed, _conditions(pipeline.unet.config, reference, count), sampling)
    return EvaluatedImages(samples, pipeline, sampling, reference, statistics, train)


def is_model(model):
    """Whether a name is that of a model: not an archive, and not a folder of images."""
    return not str(model).endswith(ARCHIVE) and (not Path(model).is_dir() or (Path(model) / INDEX_FILE).is_file())


def _references(request, stored, needs_training_images):
    """The reference, or the file of its statistics, and the training images; `stored` opens images of a data set."""
    data = request.data
    train = stored(replace(data, split=request.train_split)) if needs_training_images else None
    if request.reference is None or not request.reference.endswith(ARCHIVE):
        return stored(data if request.reference is None else replace(data, dataset=request.reference)), None, train
    if holds_images(request.reference):
        return ArchivedImages(request.reference), None, train
    return None, request.reference, train


def _stored(source, data):
    return StoredImages(source, f"{data.dataset or 'embedded Fashion-MNIST'}, {data.split}")


def _in_eight_bits(data, **changes):
    """The options of the data, which are read in 8 bits, as networks of features see them."""
    return replace(data, preserve_input_precision=False, **changes)


def _given_images(place):
    if not str(place).endswith(ARCHIVE):
        source = open_images(_in_eight_bits(DataArguments(dataset=str(place))), SIDE_OF_SEVERAL)
        return StoredImages(source, Path(place).name)
    if not holds_images(place):
        raise InputError(f"{place} has statistics and no images: give it as --reference, and images to measure.")
    return ArchivedImages(place)


def _open_pipeline(request):
    """The pipeline of the model with the requested sampler, checked to make images of one size."""
    pipeline = load_pipeline(request.model, texts=True)
    if request.recipe is not None:
        scheduler = with_recipe(pipeline.scheduler, request.recipe, **changes_for(pipeline.unet.config))
        pipeline.register_modules(scheduler=scheduler)
        check_head(pipeline.unet, pipeline.scheduler)
    if request.variance_type is not None:
        scheduler = pipeline.scheduler.from_config(pipeline.scheduler.config, variance_type=request.variance_type)
        pipeline.register_modules(scheduler=scheduler)
    steps = request.steps or prepared_count(pipeline.scheduler)
    if steps is not None:
        set_steps(pipeline.scheduler, steps, f"{type(pipeline.scheduler).__name__} of {request.model}")
    Guidance(request.guidance_scale).check_fitted(pipeline.scheduler)
    shape = check_pictures(pipeline, request.model, "measure bpd, or use `ddpm_hf.evaluation.distances` for points")
    if None in shape:
        raise InputError(f"{request.model} makes images of any size: measure images that you have drawn from it.")
    pipeline.unet.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _conditions(config, reference, count):
    """What samples are told, [`SampleConditions`]: what the images of the reference are, or each class alike often.

    Raises:
        InputError: for a network that is told images, numbers or captions, and a reference without these.
    """
    num_classes, condition = classes_of(config)[0], condition_of(config)
    is_told_data = condition is not None or value_limits_of(config) is not None or is_told_text(config)
    if is_told_data and not isinstance(reference, StoredImages):
        raise InputError(
            "The samples are told images, numbers or captions of the data, and the reference is an archive: name the data with "
            "--dataset, and leave out --reference."
        )
    labels = getattr(reference, "labels", None)
    if labels is not None and not is_told_text(config):
        labels = torch.as_tensor(labels)
    if labels is None and condition is None:
        return SampleConditions(None if num_classes is None else torch.arange(count) % num_classes)
    # Data are often sorted by class, and the first samples should represent all.
    order = torch.randperm(len(reference), generator=torch.Generator().manual_seed(0))
    places = order[torch.arange(count) % len(order)]
    return SampleConditions(labels_at(labels, places), None if condition is None else reference, places)


def _words(shape):
    return "x".join(map(str, shape))


def _known(about):
    return {name: value for name, value in about.items() if value is not None}
