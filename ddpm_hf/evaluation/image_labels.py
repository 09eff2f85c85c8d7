"""Class labels: one for all images, or one for each; and in their place captions, as an array of texts."""

import numpy as np
import torch


def labels_of(class_labels, first, count):
    """The labels of `count` images from place `first` on; one label for all is returned as it is."""
    return class_labels[first : first + count] if _one_per_image(class_labels) else class_labels


def labels_at(labels, places):
    """The labels or captions of the images at places, integers in a list or a tensor; None where there are none."""
    if labels is None:
        return None
    places = torch.as_tensor(places)
    return labels[places.numpy() if isinstance(labels, np.ndarray) else places]


def asked_by(labels):
    """The argument of a pipeline for what samples are told: captions are its `prompt`, all else its `class_labels`."""
    return {"prompt": labels.tolist()} if isinstance(labels, np.ndarray) else {"class_labels": labels}


def check_labels(class_labels, num_images):
    if _one_per_image(class_labels) and len(class_labels) != num_images:
        raise ValueError(
            f"There are {len(class_labels)} class_labels for {num_images} images: give one each, or one for all."
        )


def _one_per_image(class_labels):
    return class_labels is not None and torch.as_tensor(class_labels).ndim > 0
