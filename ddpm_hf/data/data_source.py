"""What data of every kind are asked, so that training and evaluation need not know which they have."""

import numpy as np

from ddpm_hf.samples import kind_of


class DataSource:
    """Data opened and looked at, before they are loaded.

    Sources have a length, `labels` (or None), `num_classes`, `channels`, a `fingerprint`, `network_options` and
    `scheduler_options`: what network and scheduler are to know of the data. `load` gives a data set to train on, `decode` all
    as tensors, `select` the source of some of them.
    """

    resizing = None

    @property
    def samples(self):
        """The kind of samples that they are, a [`SampleKind`]."""
        return kind_of(self.network_options)


def draw_images(source, num_images, seed):
    """`num_images` of a source of any kind, drawn at random without repetition, in their order."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[:num_images])
    return source.select(chosen)


def labels_at(labels, chosen):
    return None if labels is None else labels[chosen]
