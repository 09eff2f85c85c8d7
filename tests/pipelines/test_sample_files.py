"""Files and pictures of each kind of samples."""

import numpy as np
import pytest
from PIL import Image

from ddpm_hf.errors import InputError
from ddpm_hf.pipelines.sample_files import FILES, files_of
from ddpm_hf.pipelines.trajectory_pictures import TrajectoryRecorder

IMAGES, POINTS = {"in_channels": 1, "sample_size": 8}, {"in_channels": 2}
LATENTS = {"sample_size": 4, "in_channels": 2, "autoencoder_factor": 2, "image_channels": 1}


def test_every_kind_has_its_files():
    assert [files_of(config).samples.name for config in (IMAGES, LATENTS, POINTS)] == list(FILES)


def test_latents_are_images_in_files():
    files = files_of(LATENTS)
    assert files.picture_bytes(2) == files_of(IMAGES).picture_bytes(2)
    assert files.picture([Image.new("L", (8, 8))] * 2).size == (128, 64)


def test_images_are_one_grid(tmp_path):
    files = files_of(IMAGES)
    paths = files.free_files(tmp_path / "grid.png")
    assert paths == [tmp_path / "grid.png"]
    files.save([Image.new("L", (8, 8), level) for level in (0, 255)], paths)
    assert Image.open(paths[0]).size == files.picture([Image.new("L", (8, 8))] * 2).size == (128, 64)
    # 8x8 levels, and 64x64 of each in the grid, twice.
    assert files.picture_bytes(2) == 2 * (64 + 2 * 64**2)
    assert isinstance(files.recorder(3), TrajectoryRecorder)
    for name in ("grid.png", "grid.csv"):
        with pytest.raises(InputError):
            files.free_files(tmp_path / name)
    with pytest.raises(InputError, match="makes images of 5 channels, and a PNG holds 1, 2, 3, 4"):
        files_of(IMAGES | {"in_channels": 5}).free_files(tmp_path / "other.png")


@pytest.mark.parametrize("ending", [".csv", ".npy"])
def test_points_are_numbers_with_their_scatter_beside(tmp_path, ending):
    files, points = files_of(POINTS), [np.array([0.5, 1.0]), np.array([-1.0, 2.0])]
    paths = files.free_files(tmp_path / f"points{ending}")
    assert paths == [tmp_path / f"points{ending}", tmp_path / "points.png"]
    files.save(points, paths)
    read = np.load(paths[0]) if ending == ".npy" else np.loadtxt(paths[0], delimiter=",", skiprows=1)
    assert read.tolist() == [[0.5, 1.0], [-1.0, 2.0]]
    assert Image.open(paths[1]).size == files.picture(points).size
    with pytest.raises(InputError, match="--trajectory is of images"):
        files.recorder(3)
