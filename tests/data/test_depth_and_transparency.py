"""Images of unsupported bit depths are refused before the work, and transparent images are reported."""

import logging
import re

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_hf.data import DataArguments, load_images, open_images, open_stream
from ddpm_hf.data.images import ImagesOnDemand
from ddpm_hf.data.mapped import decode_to_disk
from ddpm_hf.data.streaming import decode_first
from ddpm_hf.errors import InputError

RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8)
OPENERS = pytest.mark.parametrize("open_data", [open_images, open_stream])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of `datasets`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    """folder(a_tiff=array, b_png=image): the path of a folder of such files."""

    def write(**images):
        (tmp_path / "images").mkdir()
        for name, image in images.items():
            image = image if isinstance(image, Image.Image) else Image.fromarray(image)
            image.save(tmp_path / "images" / name.replace("_", "."))
        return str(tmp_path / "images")

    return write


@OPENERS
@pytest.mark.parametrize(
    ("name", "deep", "words"),
    [
        ("b_tiff", RAMP.astype(np.float32), "of 32-bit floats"),
        ("b_tiff", RAMP.astype(np.int32), "of 32-bit integers"),
    ],
)
def test_one_of_another_depth_is_refused_by_name(folder, open_data, name, deep, words):
    """Grey floats were counted as three channels, and became 2 levels."""
    found = folder(a_png=RAMP.astype(np.uint8), **{name: deep})
    with pytest.raises(
        InputError, match=rf"column 'image' cannot be used \(.*b\.tiff\): it has the PIL mode .* {words}"
    ):
        open_data(DataArguments(dataset=found), 28)


@OPENERS
def test_twelve_bits_in_sixteen_are_refused_by_range(folder, open_data):
    found = folder(a_png=RAMP * 60, b_png=RAMP * 64, c_png=RAMP * 1)
    with pytest.raises(InputError, match=r"\(.*b\.png\): its 16-bit values go up to 4032 of 65535, so that 16 of 256"):
        open_data(DataArguments(dataset=found, preserve_input_precision=False), 28)


@pytest.mark.parametrize("kind", ["memory", "disk", "demand", "stream"])
def test_few_bits_among_images_of_the_whole_range_are_left_out_by_name(folder, kind, caplog):
    """Ten bits in sixteen, behind an image that shows the range, were trained on as nearly black images."""
    found = folder(a_png=RAMP * 1040, b_png=RAMP * 16, c_png=RAMP * 0)
    with caplog.at_level(logging.WARNING):
        images = read_by(kind, DataArguments(dataset=found, preserve_input_precision=False))
    assert sorted(image.unique().numel() for image in images) == [1, 64]
    assert re.search(r"b\.png\): its 16-bit values go up to 1008 of 65535, .*multiply the values by 65", caplog.text)
    with pytest.raises(InputError, match=r"b\.png\): its 16-bit values .*or leave out --strict_data"):
        read_by(kind, DataArguments(dataset=found, strict_data=True, preserve_input_precision=False))


def read_by(kind, args):
    """The different images of a data set, as training reads them."""
    if kind == "stream":
        return decode_first(open_stream(args, 28), 3, seed=0)["images"]
    source = open_images(args, 28)
    if kind == "disk":
        return decode_to_disk(source).read()["images"]
    if kind == "memory":
        return load_images(source, 1).tensors["images"]
    return ImagesOnDemand(source).__getitems__(np.arange(3))["images"][:2]


@OPENERS
def test_transparency_is_said_once_and_composed_on_white(folder, open_data, caplog):
    hidden = Image.new("RGBA", (8, 8), (90, 90, 90, 0))
    with caplog.at_level(logging.WARNING):
        source = open_data(DataArguments(dataset=folder(a_png=hidden, b_png=Image.new("RGB", (8, 8)))), 28)
        if open_data is open_images:
            images = load_images(source, 1).tensors["images"]
            assert torch.equal(images[0], torch.full((3, 8, 8), 255, dtype=torch.uint8)) and not images[1].any()
    assert caplog.text.count("1 of 2 images in column 'image' have an alpha channel") == 1


def test_the_reason_why_no_image_can_be_read(folder, tmp_path):
    found = folder()
    (tmp_path / "images" / "a.png").write_bytes(b"nothing")
    with pytest.raises(
        InputError, match=r"None of the images .*: 1 were tried, the first \(.*a.png\): cannot identify"
    ):
        open_images(DataArguments(dataset=found), 28)
