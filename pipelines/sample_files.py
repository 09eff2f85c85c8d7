"""Samples as files: images as a grid, points as numbers and as a scatter."""

import numpy as np

from ddpm_hf.errors import InputError
from ddpm_hf.files import written_whole
from ddpm_hf.models.network_config import is_of_points, sample_shape
from ddpm_hf.pipelines.image_grids import image_grid
from ddpm_hf.results import check_free_file
from ddpm_hf.visualization.point_sets import draw_points
from ddpm_hf.visualization.style import save_figure

# Grey, grey with alpha, colours, colours with alpha.
PNG_CHANNELS = (1, 2, 3, 4)


def sample_files(path, config):
    """The files that `save_samples` writes: images are one PNG, points a CSV or NPY with their scatter beside, or it alone.

    Each is tried: none of them is there, and all can be written.

    Args:
        path (`pathlib.Path`): one of them.
        config: of the network.

    Raises:
        InputError: for another ending, files that are there or cannot be written, and images that no PNG can hold.
    """
    channels, *sides = sample_shape(config)
    if sides and channels not in PNG_CHANNELS:
        raise InputError(
            f"The model makes images of {channels} channels, and a PNG holds {', '.join(map(str, PNG_CHANNELS))}: call the "
            "pipeline in Python with output_type='np'."
        )
    endings = (".csv", ".npy", ".png") if is_of_points(config) else (".png",)
    files = [path] if path.suffix.lower() == ".png" else [path, path.with_suffix(".png")]
    for file in files:
        check_free_file(file, endings)
    return files


def save_samples(samples, files):
    """Writes a list of PIL images, or of points (d,), into the `sample_files`."""
    for file in files:
        with written_whole(file) as aside:
            if isinstance(samples[0], np.ndarray):
                _save_points(np.stack(samples), aside)
            else:
                image_grid(samples).save(aside)


def _save_points(points, file):
    match file.suffix.lower():
        case ".csv":
            names = ",".join(f"x_{i + 1}" for i in range(points.shape[1]))
            np.savetxt(file, points, fmt="%.7g", delimiter=",", header=names, comments="")
        case ".npy":
            np.save(file, points)
        case ".png":
            save_figure(draw_points(points), file)
