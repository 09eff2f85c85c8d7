"""Class labels: one for all images, or one for each."""

import torch


def labels_of(class_labels, first, count):
    """The labels of `count` images from place `first` on; one label for all is returned as it is."""
    return class_labels[first : first + count] if _one_per_image(class_labels) else class_labels


def check_labels(class_labels, num_images):
    if _one_per_image(class_labels) and len(class_labels) != num_images:
        raise ValueError(
            f"There are {len(class_labels)} class_labels for {num_images} images: give one each, or one for all."
        )


def _one_per_image(class_labels):
    return class_labels is not None and torch.as_tensor(class_labels).ndim > 0
