"""Samples as files: images as a grid, points as numbers and as a scatter."""

import numpy as np

from ddpm_hf.models.network_config import is_of_points
from ddpm_hf.pipelines.image_grids import image_grid
from ddpm_hf.visualization.point_sets import draw_points
from ddpm_hf.visualization.style import save_figure


def sample_files(path, config):
    """The files that `save_samples` writes: images are one PNG, points a CSV or NPY with their scatter beside, or it alone.

    Args:
        path (`pathlib.Path`): one of them.
        config: of the network.

    Raises:
        ValueError: for another ending, and for files that are there.
    """
    endings = (".csv", ".npy", ".png") if is_of_points(config) else (".png",)
    if path.suffix.lower() not in endings:
        kind = "points" if is_of_points(config) else "images"
        raise ValueError(f"{path} must end in {' or '.join(endings)}: the model makes {kind}.")
    files = [path] if path.suffix.lower() == ".png" else [path, path.with_suffix(".png")]
    for file in files:
        if file.exists():
            raise ValueError(f"{file} is already there; choose another name, or move it away.")
    return files


def save_samples(samples, files):
    """Writes a list of PIL images, or of points (d,), into the `sample_files`."""
    files[0].parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(samples[0], np.ndarray):
        image_grid(samples).save(files[0])
        return
    points = np.stack(samples)
    for file in files:
        match file.suffix.lower():
            case ".csv":
                names = ",".join(f"x_{i + 1}" for i in range(points.shape[1]))
                np.savetxt(file, points, fmt="%.7g", delimiter=",", header=names, comments="")
            case ".npy":
                np.save(file, points)
            case ".png":
                save_figure(draw_points(points), file)
