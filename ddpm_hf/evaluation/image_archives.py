"""Images and statistics of features in .npz files, in the formats of guided-diffusion and of EDM."""

import json
import zipfile
from pathlib import Path

import numpy as np
import torch

from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.distances import Moments
from ddpm_hf.files import written_whole

# guided-diffusion writes images under the name that numpy gives to the first array, uint8 (N, H, W, C).
IMAGES = "arr_0"
# pytorch-fid, guided-diffusion and EDM call the statistics so; ours have a third array, which their readers pass over.
MEAN, COVARIANCE, ABOUT = "mu", "sigma", "ddpm_hf"


def holds_images(file):
    """Whether an .npz file has images, as guided-diffusion's reference batches have, beside statistics or alone.

    Raises:
        InputError: for a file that cannot be read, or has neither images nor statistics.
    """
    with _opened(file) as arrays:
        if IMAGES in arrays:
            return True
        if {MEAN, COVARIANCE} <= {*arrays}:
            return False
        raise InputError(
            f"{file} has the arrays {', '.join(arrays)}: an .npz has images in {IMAGES}, uint8 (N, H, W, C), or statistics in "
            f"{MEAN} and {COVARIANCE}."
        )


def read_images(file):
    """The images of an .npz file, uint8 (N, C, H, W).

    Raises:
        InputError: for an array that does not hold images.
    """
    with _opened(file) as arrays:
        images = arrays[IMAGES]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or len(images) == 0:
        raise InputError(
            f"{file} has {images.dtype} {images.shape} in {IMAGES}, and images are uint8 (N, H, W, C) with 1, 3 or 4 channels."
        )
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def write_images(file, shape, batches):
    """Writes images as guided-diffusion does, batch by batch, so that memory holds one batch.

    Args:
        shape: (N, C, H, W) of all.
        batches: uint8 arrays (B, C, H, W), N images in all.
    """
    count, channels, height, width = shape
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, height, width, channels)}
    with zipfile.ZipFile(file, "w") as archive, archive.open(f"{IMAGES}.npy", "w", force_zip64=True) as array:
        np.lib.format.write_array_header_1_0(array, header)
        for batch in batches:
            array.write(np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).tobytes())


def write_statistics(file, statistics, conditions):
    """Writes mean and covariance, with what they depend on.

    Args:
        statistics: [`FeatureStatistics`] or [`Moments`].
        conditions (`dict`): as of a [`FeatureNetwork`], and more for readers.
    """
    about = json.dumps(conditions | {"count": statistics.count})
    with written_whole(file) as aside:
        np.savez(
            aside, **{MEAN: statistics.mean.numpy(), COVARIANCE: statistics.covariance.numpy(), ABOUT: np.array(about)}
        )


def read_statistics(file, network, dimensions):
    """The [`Moments`] in an .npz file.

    Args:
        network ([`FeatureNetwork`]): the network whose features the statistics must be of.
        dimensions (`int`): the number of its features.

    Raises:
        InputError: for statistics of another network or preprocessing, which ours say and others' show by their
            dimensions alone, and for what is not a mean and a covariance.
    """
    with _opened(file) as arrays:
        mean, covariance = (torch.from_numpy(np.asarray(arrays[name], np.float64)) for name in (MEAN, COVARIANCE))
        about = json.loads(str(arrays[ABOUT])) if ABOUT in arrays else {}
    for name, value in network.conditions.items():
        if about.get(name, value) != value:
            raise InputError(
                f"{file} has statistics of another {name} ({about[name]!r}, and here it is {value!r}): distances compare only "
                "with the same. Give the images themselves, or choose the network that the statistics are of."
            )
    if mean.shape != (dimensions,) or covariance.shape != (dimensions, dimensions):
        raise InputError(
            f"{file} has {MEAN} {tuple(mean.shape)} and {COVARIANCE} {tuple(covariance.shape)}, and {network.name} has "
            f"{dimensions} features: the statistics are of another network."
        )
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise InputError(f"{file} has statistics that are not finite: measure them again.")
    return Moments(about.get("count"), mean, covariance)


def _opened(file):
    if not Path(file).is_file():
        raise InputError(f"There is no file {file}.")
    try:
        return np.load(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{file} cannot be read as an .npz file ({error}): write it again.") from error
