"""Samples as files and as pictures: images as a grid, points as numbers and as a scatter."""

import math

import numpy as np
from PIL import Image

from ddpm_hf.errors import InputError
from ddpm_hf.files import written_whole
from ddpm_hf.pipelines.deep_png import COLOUR_TYPES, write_deep_png
from ddpm_hf.pipelines.image_grids import array_grid, enlargement, image_grid
from ddpm_hf.pipelines.trajectory_pictures import TrajectoryRecorder
from ddpm_hf.results import check_free_file
from ddpm_hf.samples import kind_of
from ddpm_hf.visualization.point_sets import draw_points
from ddpm_hf.visualization.style import save_figure, to_image

PNG_CHANNELS = tuple(COLOUR_TYPES)
BYTES_PER_NUMBER = 8


def files_of(config):
    """The object that writes and draws the samples of a network.

    Args:
        config: the config of the network.
    """
    samples = kind_of(config)
    return FILES[samples.name](samples)


class SampleFiles:
    """Writes and draws the samples of one network; each kind of samples has a class of its own.

    Args:
        samples (`SampleKind`): the kind of the network's samples.
    """

    endings = (".png",)
    is_deep = False

    def __init__(self, samples):
        self.samples = samples

    def free_files(self, path):
        """The files that `save` is to write for `path`: a PNG alone, or numbers with their picture beside them.

        Raises:
            InputError: for another ending, and for files that are there or cannot be written.
        """
        files = [path] if path.suffix.lower() == ".png" else [path, path.with_suffix(".png")]
        for file in files:
            check_free_file(file, self.endings)
        return files

    def save(self, samples, files):
        """Writes what the pipeline returned, as a list, into the `free_files`."""
        for file in files:
            with written_whole(file) as aside:
                self.write(samples, aside)

    def picture_bytes(self, number):
        """The bytes that `number` samples and their picture take."""
        return number * self.samples.channels * BYTES_PER_NUMBER


class ImageFiles(SampleFiles):
    """Images are one PNG, of 16 bits where the data are. Other whole numbers and floats are an NPY file."""

    endings = (".png", ".npy")

    @property
    def is_deep(self):
        """Whether the values of the data are not of 8 bits."""
        return self.samples.value_range is not None

    def free_files(self, path):
        """The files for `path`, as for all samples; InputError for images that no PNG can hold."""
        channels = self.samples.output_shape[0]
        if path.suffix.lower() == ".npy":
            check_free_file(path, self.endings)
            return [path]
        if self.is_deep and not self.fits_png:
            raise InputError(
                f"The model makes images of {channels} channel(s) with values in {self.samples.value_range}, which "
                "no PNG holds: give --output samples.npy."
            )
        if channels not in PNG_CHANNELS:
            raise InputError(
                f"The model makes images of {channels} channels, and a PNG holds {', '.join(map(str, PNG_CHANNELS))}: "
                "give --output samples.npy, or call the pipeline in Python with output_type='np'."
            )
        return super().free_files(path)

    @property
    def fits_png(self):
        """Whether a PNG of 16 bits holds the values."""
        low, high = self.samples.value_range
        return self.samples.levels is not None and low >= 0 and high > 255 and self.samples.channels in PNG_CHANNELS

    def write_row(self, images, file):
        """Writes images that are not of 8 bits beside each other as one PNG of 16 bits."""
        write_deep_png(np.hstack(images), file)

    def picture(self, images):
        """A PIL image of all, in 8 bits, of at most the first three channels."""
        return image_grid([self.preview(image) for image in images])

    def preview(self, image):
        """A PIL image of 8 bits, of one that the pipeline returned."""
        if isinstance(image, Image.Image):
            return image
        low, high = self.samples.value_range or (0, 1)
        levels = ((image.astype(np.float64) - low) * (255 / (high - low))).round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(levels[..., :3] if levels.shape[-1] >= 3 else levels[..., 0])

    def write(self, images, file):
        if file.suffix.lower() == ".npy":
            np.save(file, np.stack([np.asarray(image) for image in images]))
        elif self.is_deep:
            write_deep_png(array_grid(images), file)
        else:
            self.picture(images).save(file)

    def picture_bytes(self, number):
        """The bytes of so many images as levels, and of their grid, which is put together twice."""
        shape = self.samples.output_shape
        if None in shape:
            return super().picture_bytes(number)
        factor = enlargement(max(shape[1:]))
        return number * math.prod(shape) * (1 + 2 * factor**2)

    def recorder(self, num_frames):
        """The callback that records so many frames of the way from the noise."""
        if self.is_deep or self.samples.output_shape[0] not in PNG_CHANNELS:
            raise InputError("--trajectory is of grey or colour images of 8 bits: leave it out.")
        return TrajectoryRecorder(num_frames)


class PointFiles(SampleFiles):
    """Points are a CSV or NPY file with their scatter beside it, or the scatter alone."""

    endings = (".csv", ".npy", ".png")

    def picture(self, points):
        """A PIL image of all."""
        return to_image(draw_points(np.stack(points)))

    def write(self, points, file):
        points = np.stack(points)
        match file.suffix.lower():
            case ".csv":
                names = ",".join(f"x_{i + 1}" for i in range(points.shape[1]))
                np.savetxt(file, points, fmt="%.7g", delimiter=",", header=names, comments="")
            case ".npy":
                np.save(file, points)
            case ".png":
                save_figure(draw_points(points), file)

    def recorder(self, num_frames):
        raise InputError("--trajectory is of images; `ddpm-hf show path` draws the way of points.")


FILES = {"images": ImageFiles, "latents": ImageFiles, "points": PointFiles}
