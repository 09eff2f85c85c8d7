"""The interface of data of every kind, by which training and evaluation need not know the kind."""

import numpy as np

from ddpm_hf.samples import kind_of


class DataSource:
    """Data opened and looked at, before they are loaded.

    A source says how many samples it has, their `labels` (or None), `num_classes`, `class_names` (or None), `channels`
    and `fingerprint`; the class and the options of a network for them, `network_class` and `network_options`, and of a
    scheduler, `scheduler_options`. `load` makes a data set to train on, `decode` reads all into tensors, `select`
    makes a source of some of them.
    """

    resizing = None
    # The autoencoder whose latents the samples are; None for all others.
    vae = None
    # All different captions of the data, whose numbers are the labels; None for data without.
    captions = None

    @property
    def largest(self):
        """The same data in the size whose batches take the most memory."""
        return self

    def check_batch_fits(self, batch_size):
        """Raises InputError for a batch that this machine's memory does not hold."""

    @property
    def samples(self):
        """The kind of the samples, a [`SampleKind`]."""
        return kind_of(self.network_options)


def draw_images(source, num_images, seed, after=0):
    """`num_images` samples of a source of any kind, drawn at random without repetition, in their order.

    Args:
        after (`int`): so many have been drawn with this seed before, and are not drawn again.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[after : after + num_images])
    return source.select(chosen)


def labels_at(labels, chosen):
    return None if labels is None else labels[chosen]
