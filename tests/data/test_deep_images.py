"""Picture files of 16 bits and of floats: read, trained on, sampled, written and scored at their full depth."""

import logging
import struct
import zlib

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from numpy.testing import assert_array_equal
from PIL import Image
from typer.testing import CliRunner

from ddpm_hf import cli
from ddpm_hf.data import DataArguments, load_images, open_images, open_stream, to_model_range
from ddpm_hf.data.images import ImagesOnDemand
from ddpm_hf.data.mapped import decode_to_disk
from ddpm_hf.data.streaming import decode_first
from ddpm_hf.errors import InputError
from ddpm_hf.image_files import deep_values
from ddpm_hf.pipelines.deep_png import write_deep_png
from ddpm_hf.pipelines.image_inputs import read_image, resized_picture
from ddpm_hf.samples import kind_of
from ddpm_hf.samples.value_range import SIXTEEN_BITS, Depth
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.held_out import load_held_out

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of `datasets`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def random_values(channels, number=6, highest=65535):
    values = np.random.default_rng(0).integers(0, highest + 1, (number, 8, 12, channels), dtype=np.uint16)
    values[:, 0, 0] = highest
    return values


def write_tiff(values, file, order="<", compressed=False, layout=2, alpha=None):
    """A TIFF of 16-bit colours, which PIL reads and does not write, of one strip.

    Args:
        layout: the number of the colour model: 2 for RGB, 5 for CMYK; alpha: what the fourth channel of RGB is: 1 for
            an alpha by which the colours are multiplied, 2 for one by which they are not.
    """
    height, width, channels = values.shape
    strip = values.astype(f"{order}u2").tobytes()
    strip = zlib.compress(strip) if compressed else strip
    begin, bits = 8, struct.pack(f"{order}{channels}H", *[16] * channels)
    tags = [
        *((256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, begin), (259, 3, 1, 8 if compressed else 1)),
        *((262, 3, 1, layout), (273, 4, 1, begin + len(bits)), (277, 3, 1, channels), (278, 3, 1, height)),
        (279, 4, 1, len(strip)),
        *([] if alpha is None else [(338, 3, 1, alpha)]),
    ]
    entries = b""
    for tag, kind, count, value in tags:
        packed = struct.pack(f"{order}H2x", value) if (kind, count) == (3, 1) else struct.pack(f"{order}I", value)
        entries += struct.pack(f"{order}HHI", tag, kind, count) + packed
    header = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, begin + len(bits) + len(strip))
    directory = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)
    file.write_bytes(header + bits + strip + directory)


def folder_of(tmp_path, values, write, ending):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(values):
        write(image, folder / f"{number}.{ending}")
    return str(folder)


def write_grey(image, file):
    Image.fromarray(image[..., 0]).save(file)


WRITERS = {
    "grey png": (1, write_grey, "png"),
    "grey tiff": (1, write_grey, "tiff"),
    "colour png": (3, write_deep_png, "png"),
    "colour tiff": (3, write_tiff, "tiff"),
    "big-endian tiff": (3, lambda image, file: write_tiff(image, file, ">"), "tiff"),
    "compressed tiff": (3, lambda image, file: write_tiff(image, file, ">", compressed=True), "tiff"),
}


def read_by(kind, source_of):
    """The images as training reads them, in the range of the network, in the order of the files."""
    if kind == "stream":
        return decode_first(source_of(open_stream), 6, seed=0)["images"]
    source = source_of(open_images)
    if kind == "disk":
        return decode_to_disk(source).read()["images"]
    if kind == "mapped":
        return decode_to_disk(source).__getitems__(np.arange(6))["images"]
    if kind == "memory":
        return load_images(source, 1).tensors["images"]
    return ImagesOnDemand(source).__getitems__(np.arange(6))["images"]


@pytest.mark.parametrize("name", WRITERS)
def test_values_come_back_bit_for_bit(tmp_path, name):
    channels, write, ending = WRITERS[name]
    values = random_values(channels)
    folder = folder_of(tmp_path, values, write, ending)
    source = open_images(DataArguments(dataset=folder, resolution="8x12"), None)
    kind = source.samples
    assert kind.depth == SIXTEEN_BITS and source.channels == channels
    images = to_model_range(source.decode()["images"], random_flip=False)
    kind.check_data(images)
    back = kind.to_output(kind.from_data(images), "np")
    assert back.dtype == np.uint16
    assert_array_equal(back, values)


@pytest.mark.parametrize("kept", ["memory", "disk", "mapped", "demand", "stream"])
def test_wherever_they_are_kept(tmp_path, kept):
    values = random_values(3)
    args = DataArguments(dataset=folder_of(tmp_path, values, write_deep_png, "png"), resolution="8x12")
    images = read_by(kept, lambda open_data: open_data(args, None))
    back = kind_of({"in_channels": 3, "sample_size": (8, 12), "value_range": (0, 65535), "levels": 65536})
    assert_array_equal(np.unique(back.to_output(images, "np"), axis=0), np.unique(values, axis=0))


def test_a_cut_to_eight_bits_would_be_seen(tmp_path):
    """All 65536 levels stay apart; with the cut, which is an option, 256 are left."""
    folder = folder_of(tmp_path, RAMP[None], write_grey, "png")
    images = open_images(DataArguments(dataset=folder), None).decode()["images"]
    assert len(images.unique()) == 65536
    cut = open_images(DataArguments(dataset=folder, preserve_input_precision=False), None)
    assert len(cut.decode()["images"].unique()) == 256 and "value_range" not in cut.network_options


def test_resized_images_stay_on_the_grid_of_their_levels(tmp_path):
    values = random_values(3)
    folder = folder_of(tmp_path, values, write_deep_png, "png")
    source = open_images(DataArguments(dataset=folder, resolution=4), None)
    images = source.decode()["images"]
    source.samples.check_data(images)
    assert images.shape == (6, 3, 4, 4) and (images * 32767.5 + 32767.5).remainder(257).count_nonzero() > 200
    eight_bits = open_images(DataArguments(dataset=folder, resolution=4, preserve_input_precision=False), None)
    torch.testing.assert_close(images, to_model_range(eight_bits.decode()["images"]), atol=3 / 255, rtol=0)


def test_twelve_bits_have_4096_levels(tmp_path):
    values = random_values(1, highest=4095)
    source = open_images(
        DataArguments(dataset=folder_of(tmp_path, values, write_grey, "png"), resolution="8x12"), None
    )
    assert source.samples.depth == Depth((0, 4095), 4096)
    images = source.decode()["images"]
    assert images.max() == 1
    assert_array_equal(source.samples.to_output(images, "np"), values)


def test_floats_have_the_range_of_all(tmp_path):
    values = np.random.default_rng(0).normal(3, 100, (6, 8, 12, 1)).astype(np.float32)
    args = DataArguments(dataset=folder_of(tmp_path, values, write_grey, "tiff"), resolution="8x12")
    source = open_images(args, None)
    assert source.samples.depth == Depth((values.min(), values.max()), None)
    images = source.decode()["images"]
    assert images.min() == -1 and images.max() == 1
    np.testing.assert_allclose(source.samples.to_output(images, "np"), values, rtol=1e-5, atol=1e-4)
    with pytest.raises(InputError, match="of 32-bit floats"):
        open_stream(args, None)
    network = source.network_options | {"value_range": (0, 1)}
    images = open_images(args, None, network)
    with pytest.raises(InputError, match="its values are from .*, and the network is for the range 0 to 1"):
        images.decode()


@pytest.mark.parametrize("value, words", [(np.nan, "not finite"), (7, r"All values in column 'image' are 7")])
def test_floats_that_are_refused(tmp_path, value, words):
    folder = folder_of(tmp_path, np.full((2, 8, 8, 1), value, np.float32), write_grey, "tiff")
    with pytest.raises(InputError, match=words):
        open_images(DataArguments(dataset=folder), None)


def test_some_of_16_bits_among_8_are_said_to_be_cut(tmp_path, caplog):
    folder = folder_of(tmp_path, random_values(1), write_grey, "png")
    Image.new("L", (12, 8), 9).save(tmp_path / "images" / "9.png")
    with caplog.at_level(logging.WARNING):
        source = open_images(DataArguments(dataset=folder, resolution=8), None)
    assert source.samples.depth is None
    assert "6 of 7 images in column 'image' have 16 bits a channel, and are read in 8" in caplog.text


def test_networks_and_data_of_different_depths(tmp_path, caplog):
    """A network of 8 bits reads the upper ones of 16, and says so; one of 16 bits takes no others."""
    folder = folder_of(tmp_path, random_values(1), write_grey, "png")
    eight, sixteen = {"in_channels": 1, "sample_size": 8}, {"value_range": (0, 65535), "levels": 65536}
    args = DataArguments(dataset=folder, resolution=8)
    with caplog.at_level(logging.WARNING):
        assert open_images(args, None, eight).decode()["images"].dtype == torch.uint8
    assert "6 of 6 images in column 'image' have 16 bits a channel, and are read in 8" in caplog.text
    assert open_images(args, None, eight | sixteen).samples.depth == SIXTEEN_BITS
    plain = tmp_path / "plain"
    plain.mkdir()
    Image.new("L", (8, 8)).save(plain / "a.png")
    for open_data in (open_images, open_stream):
        with pytest.raises(InputError, match=r"has images of 8 bits, and the network is for values in \(0, 65535\)"):
            open_data(DataArguments(dataset=str(plain)), None, eight | sixteen)


def test_one_of_8_bits_behind_those_of_16_is_left_out_by_name(tmp_path, caplog):
    folder = folder_of(tmp_path, random_values(1), write_grey, "png")
    source = open_images(DataArguments(dataset=folder, resolution="8x12"), None)
    Image.new("L", (12, 8), 9).save(tmp_path / "images" / "3.png")
    with caplog.at_level(logging.WARNING):
        assert len(source.decode()["images"]) == 5
    assert "3.png): it has the PIL mode 'L', of 8 bits" in caplog.text


@pytest.mark.parametrize("deep", ["told", "made", "both"])
def test_pairs_of_16_bits(tmp_path, deep):
    """Either image, or both; what is of 8 bits stays on its own grid."""
    made, told = random_values(1), random_values(3)
    folder = tmp_path / "pairs"
    (folder / "told").mkdir(parents=True)
    for number, (image, condition) in enumerate(zip(made, told, strict=True)):
        write_deep_png(image, folder / f"{number}.png")
        write_deep_png(condition, folder / "told" / f"{number}.png")
        if deep == "told":
            Image.fromarray((image[..., 0] >> 8).astype(np.uint8)).save(folder / f"{number}.png")
        if deep == "made":
            Image.fromarray((condition >> 8).astype(np.uint8)).save(folder / "told" / f"{number}.png")
    lines = ["file_name,told_file_name", *(f"{number}.png,told/{number}.png" for number in range(6))]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    args = DataArguments(dataset=str(folder), condition_column="told", resolution="8x12")
    source = open_images(args, None)
    assert source.samples.depth == (None if deep == "told" else SIXTEEN_BITS)
    x_0, image = to_model_range(source.decode()["images"]).split([1, 3], dim=1)
    for found, values, is_deep in ((x_0, made, deep != "told"), (image, told, deep != "made")):
        levels = found.permute(0, 2, 3, 1).double() / 2 + 0.5
        wanted = values if is_deep else values >> 8
        torch.testing.assert_close(
            levels * (65535 if is_deep else 255), torch.tensor(wanted).double(), atol=0.01, rtol=0
        )


def test_transparent_pixels_are_white_at_any_depth(tmp_path):
    values = np.array([[[1000, 65535], [1000, 0], [0, 13107]]], np.uint16)
    write_deep_png(values, tmp_path / "a.png")
    found = deep_values(lambda: Image.open(tmp_path / "a.png"), 1)
    assert found[..., 0].tolist() == [[1000, 65535, 52428]]
    Image.fromarray(values[..., 0]).save(tmp_path / "b.png", transparency=0)
    found = deep_values(lambda: Image.open(tmp_path / "b.png"), 3)
    assert found[0].tolist() == [[1000] * 3, [1000] * 3, [65535] * 3]


def test_layouts_of_which_pil_keeps_8_bits_are_refused(tmp_path):
    """CMYK, and colours that are multiplied by their alpha; plain alpha is composed on white."""
    values = random_values(4)[0]
    values[..., 3] = 65535
    write_tiff(values, tmp_path / "plain.tiff", alpha=2)
    found = deep_values(lambda: Image.open(tmp_path / "plain.tiff"), 3)
    assert_array_equal(found, values[..., :3])
    for name, how in (("cmyk", {"layout": 5}), ("multiplied", {"alpha": 1})):
        write_tiff(values, tmp_path / f"{name}.tiff", **how)
        with pytest.raises(InputError, match="in a layout of which 8 can be read .*: save it as a PNG in colour"):
            deep_values(lambda name=name: Image.open(tmp_path / f"{name}.tiff"), 3)


def test_grey_of_colours_is_that_of_pil(tmp_path):
    values = random_values(3)[0]
    write_deep_png(values, tmp_path / "a.png")
    found = deep_values(lambda: Image.open(tmp_path / "a.png"), 1)[..., 0]
    eight_bits = np.asarray(Image.fromarray((values >> 8).astype(np.uint8)).convert("L"))
    np.testing.assert_allclose(found / 257, eight_bits, atol=1.5)


def test_a_picture_for_a_network_of_16_bits(tmp_path):
    values = random_values(3)[0]
    write_deep_png(values, tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png", 3, SIXTEEN_BITS)
    assert_array_equal((picture.astype(np.float64) * 65535).round(), values)
    assert resized_picture(picture, (4, 6)).shape == (4, 6, 3)
    assert isinstance(read_image(tmp_path / "a.png", 3), Image.Image)
    with pytest.raises(InputError, match="its values are from .* and the network is for 0 to 4095"):
        read_image(tmp_path / "a.png", 3, Depth((0, 4095), 4096))


def test_held_out_images_have_the_range_of_the_training(tmp_path):
    """The training images reach from 0 to 99, and those held out from 10 to 20: not a contrast of their own."""
    values = np.zeros((4, 8, 8, 1), np.float32)
    values[0, 0, 0], values[2:], values[3, 0, 0] = 99, 10, 20
    folder = folder_of(tmp_path, values, write_grey, "tiff")
    source = open_images(DataArguments(dataset=folder, split="train[:2]"), None)
    args = TrainingArguments(dataset=folder, split="train[:2]", eval_split="train[2:]", eval_every=1)
    held_out = load_held_out(args, source, Accelerator())["images"]
    assert held_out.shape == (2, 1, 8, 8)
    assert held_out.max().item() == pytest.approx(2 * 20 / 99 - 1)


def run(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("channels", [1, 3])
def test_from_a_folder_of_16_bits_to_samples_and_scores(tmp_path, tiny_network, channels):
    """Trained as an upscaler and resumed, enlarged and scored, all in 16 bits."""
    values = np.repeat(random_values(channels), 2, axis=1)[:, :8, :8]
    folder, model = folder_of(tmp_path, values, write_deep_png, "png"), tmp_path / "model"
    flags = ["--unet", tiny_network(), "--batch_size", 2, "--num_samples", 1, "--sample_steps", 1, "--random_flip"]
    for steps in (1, 2):
        run("train", folder, *flags, "--low_resolution", 4, "--max_train_steps", steps, "--output_dir", model)
    write_deep_png(values[0, :4, :4], tmp_path / "small.png")
    run("upscale", model, tmp_path / "small.png", "--steps", 2, "--output", tmp_path / "large.png")
    large = deep_values(lambda: Image.open(tmp_path / "large.png"), channels)
    assert large.shape == (8, 8, channels) and len(np.unique(large % 257)) > 10
    scores = ["--dataset", folder, "--num_images", 2, "--steps", 2]
    assert "bits/dim" in run("evaluate", model, *scores, "--split", "train", "--output", tmp_path / "scores")
    assert '"levels": 65536' in (tmp_path / "scores" / "bpd.json").read_text(encoding="utf-8")
