"""The measures of samples by name: what each is computed from, what it needs, and what is to be said of its figures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.distances import Moments
from ddpm_hf.evaluation.measures.channels import MOST_CHANNELS, channel_differences
from ddpm_hf.evaluation.measures.estimates import GROUPS, Estimate
from ddpm_hf.evaluation.measures.frechet import (
    estimate_frechet_distance,
    extrapolated_frechet_distance,
    samples_for_extrapolation,
)
from ddpm_hf.evaluation.measures.inception_score import SPLITS, inception_score
from ddpm_hf.evaluation.measures.kernel import kernel_distance
from ddpm_hf.evaluation.measures.memorisation import nearer_than_unseen
from ddpm_hf.evaluation.measures.neighbours import nearest, neighbourhoods
from ddpm_hf.evaluation.measures.precision_recall import density_coverage, precision_recall

# The k of the density and coverage of Naeem et al. (2020), and of Stein et al. (2023) for all four.
NEAREST_K = 5
# A bias beyond this share of a figure is told.
TOLD_BIAS = 0.1
# Fewer images for each class and split make an Inception score visibly too small.
IMAGES_PER_CLASS = 10


@dataclass(frozen=True)
class Seen:
    """What a network makes of images: features (N, D), and the logits of its classes (N, K) or None."""

    features: torch.Tensor
    logits: torch.Tensor | None = None

    def select(self, chosen):
        return Seen(self.features[chosen], None if self.logits is None else self.logits[chosen])

    def __len__(self):
        return len(self.features)


class Sets(NamedTuple):
    """The sets that a measure compares; the reference may be statistics alone, and `train` is only for memorisation."""

    samples: Seen
    reference: Seen | Moments
    train: Seen | None = None


class Measure(NamedTuple):
    """A measure of [`Sets`].

    compute: gives {part of the name, "" for the only one: [`Estimate`]}. titles: by part. least: the fewest images on each
    side. warn: gives sentences about an estimate. takes_statistics: whether the reference may be statistics.
    needs_classes, needs_training_images: what else it needs.
    """

    compute: Callable
    titles: dict
    least: int
    warn: Callable = lambda estimate, sets: []
    takes_statistics: bool = False
    needs_classes: bool = False
    needs_training_images: bool = False


class Figure(NamedTuple):
    """A figure of samples with all that it depends on.

    floor: the same measure between two parts of the reference, of `floor_counts` images each; None where it has none.
    """

    name: str
    title: str
    estimate: Estimate
    floor: Estimate | None
    floor_counts: tuple[int, int] | None
    conditions: dict
    warnings: list[str]

    def to_dict(self):
        floor = None
        if self.floor is not None:
            samples, reference = self.floor_counts
            floor = {"value": self.floor.value, "num_samples": samples, "num_reference": reference}
        return {
            **{"name": self.name, "title": self.title, **self.estimate._asdict()},
            **{"floor": floor, "features": self.conditions, "warnings": self.warnings},
        }


def figures(metric, network, sets, extrapolate=False):
    """The [`Figure`]s of a metric.

    Args:
        metric ([`SampleMetric`]): its name, and the measure.
        network ([`FeatureNetwork`]): whose features the sets are.
        sets ([`Sets`]): features of all.
        extrapolate (`bool`): adds the limit of a Frechet distance for infinitely many samples.
    """
    measure = MEASURES[metric.measure]
    halves = _halves(measure, sets)
    floors = {} if halves is None else measure.compute(halves)
    counts = None if halves is None else (len(halves.samples), len(halves.reference))
    found = [
        Figure(
            name=metric.figure(part),
            title=measure.titles[part],
            estimate=estimate,
            floor=floors.get(part),
            floor_counts=counts,
            conditions=network.conditions,
            warnings=measure.warn(estimate, sets),
        )
        for part, estimate in measure.compute(sets).items()
    ]
    if extrapolate and metric.measure == "fd":
        found.append(_limit(metric, network, sets, halves))
    return found


def _limit(metric, network, sets, halves):
    """The [`Figure`] of infinitely many samples; its floor needs halves of enough images."""
    limit, floor, counts = extrapolated_frechet_distance(sets.samples.features, _reference_of(sets)), None, None
    if halves is not None and len(halves.samples) >= samples_for_extrapolation(halves.samples.features.shape[1]):
        floor = extrapolated_frechet_distance(halves.samples.features, halves.reference.features)
        counts = len(halves.samples), len(halves.reference)
    title = "Frechet distance of infinitely many samples"
    return Figure(f"{metric.name}_infinity", title, limit, floor, counts, network.conditions, [])


def check_metric(metric, network, num_samples, reference, extrapolate_dimensions=None):
    """Checks that a metric can be measured, before anything is sampled.

    Args:
        network ([`FeatureNetwork`]): the network that it is measured in.
        num_samples (`int`): how many samples there will be.
        reference (`int` or [`Moments`]): the number of reference images, or their statistics.
        extrapolate_dimensions (`int`, *optional*): the number of features, if the limit is asked for.

    Raises:
        InputError: for too few images, a network without classes, and statistics in place of images.
    """
    measure = MEASURES[metric.measure]
    if measure.needs_classes and not network.has_classes:
        raise InputError(
            f"metrics={metric.name!r} needs a network with classes, and {network.name} has none: inception has, and so have "
            "image classifiers."
        )
    if isinstance(reference, Moments):
        if not measure.takes_statistics:
            raise InputError(
                f"metrics={metric.name!r} needs the reference images, and there are only statistics of them: give images as "
                "--reference, or measure Frechet distances alone."
            )
    elif reference < measure.least:
        raise InputError(
            f"metrics={metric.name!r} needs at least {measure.least} reference images; there are {reference}."
        )
    if num_samples < measure.least:
        raise InputError(
            f"metrics={metric.name!r} needs at least {measure.least} samples, for a covariance and an error; "
            f"num_images={num_samples}."
        )
    if extrapolate_dimensions is not None and num_samples < samples_for_extrapolation(extrapolate_dimensions):
        raise InputError(
            f"--extrapolate needs at least {samples_for_extrapolation(extrapolate_dimensions)} samples in the "
            f"{extrapolate_dimensions} features of {network.name}; num_images={num_samples}."
        )


def _halves(measure, sets):
    """Two parts of the reference as samples and reference; None for statistics, and for too few images."""
    if isinstance(sets.reference, Moments) or len(sets.reference) < 2 * measure.least:
        return None
    order = torch.randperm(len(sets.reference), generator=torch.Generator().manual_seed(0))
    count = max(measure.least, min(len(sets.samples), len(order) // 2))
    return sets._replace(samples=sets.reference.select(order[:count]), reference=sets.reference.select(order[count:]))


def _reference_of(sets):
    return sets.reference if isinstance(sets.reference, Moments) else sets.reference.features


# Each measure ---------------------------------------------------------------------------------------------------------


def _frechet(sets):
    return {"": estimate_frechet_distance(sets.samples.features, _reference_of(sets))}


def _warn_of_bias(estimate, sets):
    count, dimensions = sets.samples.features.shape
    if count <= dimensions:
        return [f"{count} samples have no full covariance of {dimensions} features: the distance is far too large."]
    if estimate.bias > TOLD_BIAS * estimate.value:
        return [f"About {estimate.bias:.2g} of it is the bias of few images, {count} samples among them."]
    return []


def _kernel(sets):
    return {"": kernel_distance(sets.samples.features, sets.reference.features)}


def _neighbours(sets):
    found = neighbourhoods(sets.samples.features, sets.reference.features, NEAREST_K)
    return found.estimates(precision_recall) | found.estimates(density_coverage)


def _warn_of_counts(estimate, sets):
    n, m = len(sets.samples), len(sets.reference)
    return [] if n == m else [f"It depends on the numbers of images, {n} and {m} here; papers have as many of both."]


def _inception_score(sets):
    return {"": inception_score(sets.samples.logits)}


def _warn_of_classes(estimate, sets):
    count, classes = sets.samples.logits.shape
    few = count < IMAGES_PER_CLASS * SPLITS * classes
    return (
        [f"{count} samples are few for {SPLITS} splits of {classes} classes: the score is too small."] if few else []
    )


def _memorisation(sets):
    among = sets.train.features
    distances = [nearest(each.features, among)[0][:, 0] for each in (sets.samples, sets.reference)]
    return {"": nearer_than_unseen(*distances)}


def _channels(sets):
    return channel_differences(sets.samples.features, sets.reference.features)


MEASURES = {
    "fd": Measure(_frechet, {"": "Frechet distance"}, 2 * GROUPS, _warn_of_bias, takes_statistics=True),
    "kid": Measure(_kernel, {"": "Kernel distance (KID)"}, 3),
    "prdc": Measure(
        _neighbours,
        {name: name.capitalize() for name in ("precision", "recall", "density", "coverage")},
        2 * NEAREST_K + 2,
        _warn_of_counts,
    ),
    "is": Measure(
        _inception_score, {"": "Inception score"}, SPLITS, _warn_of_classes, takes_statistics=True, needs_classes=True
    ),
    "memorisation": Measure(
        _memorisation,
        {"": "Chance to be nearer to a training image than unseen images are"},
        2,
        needs_training_images=True,
    ),
    "channels": Measure(
        _channels,
        {
            f"channel_{channel}_{name.lower()}": f"{name} of channel {channel}, samples less data, in levels"
            for channel in range(MOST_CHANNELS)
            for name in ("Mean", "Deviation")
        },
        2,
    ),
}
