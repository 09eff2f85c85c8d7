"""The metrics of `ddpm-hf evaluate` by name, known without torch."""

from typing import NamedTuple

from ddpm_hf.errors import InputError
from ddpm_hf.nearest_names import not_one_of

# A new metric is a line here and in a table of functions: `evaluate.MODEL_METRICS`, or `sample_metrics.MEASURES`.
OF_THE_MODEL = {
    "bpd": "bits per dimension, the variational bound",
    "nll": "bits per dimension, by the probability flow",
}
OF_SAMPLES = {
    "fd": "Frechet distance",
    "kid": "kernel distance",
    "prdc": "precision, recall, density and coverage",
    "is": "Inception score",
    "memorisation": "how near samples lie to training images",
    "channels": "means and deviations of the channels of the images",
}
NETWORKS = ("inception", "dinov2", "clip")
# Metrics that are measured on the pixels.
OF_PIXELS = ("channels",)
ALIASES = {"fid": "fd_inception"}


class SampleMetric(NamedTuple):
    """A measure of samples, in the features of a named network, or of the one that the user chooses (None)."""

    name: str
    measure: str
    network: str | None

    def figure(self, part):
        """The name of a figure of this metric, such as precision_clip of prdc_clip; "" is its only one."""
        return self.name.replace(self.measure, part, 1) if part else self.name


class Metrics(NamedTuple):
    """The metrics that a user asked for."""

    of_the_model: list[str]
    of_samples: list[SampleMetric]


def parse_metrics(text):
    """The [`Metrics`] in a text such as "bpd,fid,kid_dinov2".

    Raises:
        InputError: for a name that is not known, or is given twice, with the nearest known one.
    """
    names = [name.strip() for name in text.split(",")]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise InputError(f"metrics={text!r} names {sorted(repeated)[0]!r} twice: give each metric once.")
    known = metric_names()
    for name in names:
        if name not in known:
            raise InputError(f"metrics={name!r} {not_one_of(name, known)}")
    return Metrics(
        [name for name in names if name in OF_THE_MODEL],
        [_sample_metric(name) for name in names if name not in OF_THE_MODEL],
    )


def metric_names():
    """All names of metrics: KID in DINOv2, for one, is kid_dinov2, and kid is KID in the network that the user names."""
    in_networks = [name for name in OF_SAMPLES if name not in OF_PIXELS]
    return [
        *OF_THE_MODEL,
        *ALIASES,
        *OF_SAMPLES,
        *(f"{name}_{network}" for name in in_networks for network in NETWORKS),
    ]


def _sample_metric(name):
    measure, _, network = ALIASES.get(name, name).partition("_")
    return SampleMetric(name, measure, network or None)
