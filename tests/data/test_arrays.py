"""Images of any depth and number of channels: read, trained on, sampled, written and scored without loss."""

import datasets
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image
from typer.testing import CliRunner

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, cli
from ddpm_hf.data import DataArguments, open_images, open_points, open_stream, to_model_range
from ddpm_hf.errors import InputError
from ddpm_hf.pipelines.sample_files import files_of
from ddpm_hf.samples import kind_of

DTYPES = ("uint8", "int8", "uint16", "int16", "float32", "float64")


def values_of(dtype, shape=(6, 5, 8, 12)):
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.normal(3, 100, shape).astype(dtype)
    info = np.iinfo(dtype)
    values = rng.integers(info.min, info.max + 1, shape, dtype=dtype)
    values.flat[:2] = info.min, info.max
    return values


def written(folder, values):
    np.save(folder / "values.npy", values)
    return str(folder / "values.npy")


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_come_back_as_they_were(tmp_path, dtype):
    """From the file into the range of the network and out of the pipeline, bit for bit; floats but for rounding."""
    values = values_of(dtype)
    source = open_images(DataArguments(dataset=written(tmp_path, values)), None)
    images = to_model_range(source.decode()["images"])
    assert images.dtype == torch.float32 and images.shape == (6, 5, 8, 12)
    assert images.min() == -1 and images.max() == 1
    kind = source.samples
    assert kind.levels == {"1": 256, "2": 65536}.get(str(values.dtype.itemsize))
    kind.check_data(images)
    back = kind.to_output(kind.from_data(images), "np").transpose(0, 3, 1, 2)
    if dtype == "uint8":  # as all images of 8 bits
        back = (back * 255).round().astype(np.uint8)
    if kind.levels is None:
        assert back.dtype == np.float32
        np.testing.assert_allclose(back, values, rtol=1e-6, atol=1e-4)
    else:
        assert back.dtype == values.dtype
        assert_array_equal(back, values)


def test_a_cut_to_eight_bits_would_be_seen(tmp_path):
    """Neighbours among 65536 levels stay apart, and lie on a grid that is as fine."""
    values = np.arange(65536, dtype=np.uint16).reshape(1, 1, 256, 256)
    images = open_images(DataArguments(dataset=written(tmp_path, values)), None).decode()["images"]
    assert len(images.unique()) == 65536
    with pytest.raises(ValueError, match="on the grid of levels=256"):
        kind_of({"in_channels": 1, "sample_size": 256}).check_data(images)


@pytest.mark.parametrize("array", [datasets.Array2D, datasets.Array3D])
def test_a_column_of_arrays(tmp_path, array):
    shape = (8, 12) if array is datasets.Array2D else (5, 8, 12)
    values = values_of("uint16", (6, *shape))
    features = datasets.Features({"scan": array(shape, "uint16"), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"scan": list(values), "kind": [0, 1, 0, 1, 0, 1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    source = open_images(DataArguments(dataset=str(tmp_path / "saved"), class_conditional=True), None)
    back = source.samples.to_output(source.decode()["images"], "np").transpose(0, 3, 1, 2)
    assert_array_equal(back, values.reshape(6, -1, 8, 12))
    assert source.class_names == ["cat", "dog"] and source.labels.tolist() == rows["kind"]


def test_parts_of_an_array(tmp_path):
    values = values_of("uint16", (10, 8, 12))
    for split, expected in (("train[:40%]", values[:4]), ("train[40%:]", values[4:]), ("train", values)):
        source = open_images(DataArguments(dataset=written(tmp_path, values), split=split), None)
        assert_array_equal(source.values[:, 0], expected)
    with pytest.raises(InputError, match="split='test' is no part of an array"):
        open_images(DataArguments(dataset=written(tmp_path, values), split="test"), None)


@pytest.mark.parametrize(
    "values, options, message",
    [
        (np.zeros((2, 2, 2, 2, 2), np.uint8), {}, "has the shape .* arrays are"),
        (np.zeros((0, 8, 8), np.uint8), {}, "at least one"),
        (np.zeros((2, 8, 8), np.int32), {}, "values of the type int32"),
        (np.zeros((2, 8, 8), np.float32), {}, "nothing to learn where all are the same"),
        (np.full((2, 8, 8), np.nan, np.float32), {}, "not finite"),
        (values_of("uint16"), {"class_conditional": True}, "has no labels"),
        (values_of("uint16"), {"resolution": 4}, "arrays are not resized"),
        (values_of("uint16"), {"caption_column": "text"}, "captions are of images in a folder"),
    ],
)
def test_arrays_that_are_refused(tmp_path, values, options, message):
    with pytest.raises(InputError, match=message):
        open_images(DataArguments(dataset=written(tmp_path, values), **options), None)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_last(tmp_path, caplog, channels):
    """As `np.stack` makes them of pictures; five channels are first in `values_of`, and stay so."""
    pictures = values_of("uint8", (6, 8, 12, channels))
    source = open_images(DataArguments(dataset=written(tmp_path, pictures)), None)
    assert_array_equal(source.values, pictures.transpose(0, 3, 1, 2))
    assert f"of the shape (6, 8, 12, {channels}) has its channels last" in caplog.text


NUMBERS = {"kind": np.arange(6)[:, None] % 3, "age": np.linspace(0, 5, 6, dtype=np.float32)}


def archived(folder, **arrays):
    np.savez(folder / "archive.npz", **arrays)
    return str(folder / "archive.npz")


def test_an_archive_of_images_and_labels(tmp_path):
    images = values_of("uint8", (6, 8, 8))
    data = archived(tmp_path, images=images, **NUMBERS)
    source = open_images(DataArguments(dataset=data, class_conditional=True, split="train[2:]"), None)
    assert_array_equal(source.values[:, 0], images[2:])
    assert source.labels.tolist() == [2, 0, 1, 2] and source.num_classes == 3
    told = open_images(DataArguments(dataset=data, value_column="age"), None)
    assert told.labels.tolist() == [0, 1, 2, 3, 4, 5] and told.value_limits == (0, 5)


def test_one_of_several_arrays_of_an_archive(tmp_path):
    images = values_of("uint8", (6, 8, 8))
    data = archived(
        tmp_path, train_images=images, test_images=images[:2], train_labels=NUMBERS["kind"], more=np.arange(6)
    )
    chosen = {"image_column": "train_images", "label_column": "train_labels"}
    source = open_images(DataArguments(dataset=data, class_conditional=True, **chosen), None)
    assert_array_equal(source.values[:, 0], images)
    assert source.num_classes == 3


@pytest.mark.parametrize(
    "arrays, options, message",
    [
        ({"a": values_of("uint8"), "b": values_of("uint8")}, {}, "choose a or b with --image_column"),
        (
            {"a": values_of("uint8"), "b": values_of("uint8")},
            {"image_column": "c"},
            "image_column='c' holds no images",
        ),
        ({"kind": NUMBERS["kind"]}, {}, "images need three dimensions or more"),
        ({"a": values_of("uint8")}, {"class_conditional": True}, "no column of class labels"),
        ({"a": values_of("uint8"), **NUMBERS}, {"value_column": "size"}, "value_column='size' does not exist"),
        ({"a": values_of("uint8"), "b": np.array([None])}, {}, "Cannot read .* as an array"),
    ],
)
def test_archives_that_are_refused(tmp_path, arrays, options, message):
    with pytest.raises(InputError, match=message):
        open_images(DataArguments(dataset=archived(tmp_path, **arrays), **options), None)


@pytest.mark.parametrize("open_data, options", [(open_stream, {}), (open_points, {"point_columns": "x,y"})])
def test_arrays_are_neither_streams_nor_points(tmp_path, open_data, options):
    for data in (written(tmp_path, values_of("uint8")), archived(tmp_path, images=values_of("uint8"))):
        with pytest.raises(InputError, match="is a file of arrays, .* leave out --streaming and --point_columns"):
            open_data(DataArguments(dataset=data, **options), None)


@pytest.mark.parametrize("part", [slice(100), slice(40, None)])
def test_a_damaged_archive(tmp_path, part):
    file = tmp_path / "archive.npz"
    archived(tmp_path, images=values_of("uint8"), **NUMBERS)
    file.write_bytes(file.read_bytes()[part])
    with pytest.raises(InputError, match="Cannot read .* as an array"):
        open_images(DataArguments(dataset=str(file)), None)


def run(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_from_five_channels_to_samples_and_scores(tmp_path, tiny_network, dtype):
    """Trained, resumed, sampled into a file of the same type, and scored in its levels."""
    data, folder = written(tmp_path, values_of(dtype)), tmp_path / "model"
    flags = [
        "--unet",
        tiny_network([8, 12]),
        "--batch_size",
        2,
        "--num_samples",
        1,
        "--sample_steps",
        1,
        "--random_flip",
    ]
    for steps in (1, 2):
        run("train", data, *flags, "--max_train_steps", steps, "--output_dir", folder)
    run("sample", folder, "--num_images", 3, "--steps", 2, "--output", tmp_path / "samples.npy")
    samples = np.load(tmp_path / "samples.npy")
    assert samples.shape == (3, 8, 12, 5) and samples.dtype == dtype
    pipeline = GaussianDiffusionPipeline.from_pretrained(folder)
    again = [torch.Generator().manual_seed(seed) for seed in range(3)]
    assert_array_equal(pipeline(generator=again, num_inference_steps=2).images, samples)
    with pytest.raises(ValueError, match="output_type='pil' would cut the values to 8 bits"):
        pipeline(num_inference_steps=1, output_type="pil")
    scores = ["--dataset", data, "--split", "train", "--num_images", 2, "--steps", 2]
    assert "bits/dim" in run("evaluate", folder, *scores, "--output", tmp_path / "scores")
    text = (tmp_path / "scores" / "bpd.json").read_text(encoding="utf-8")
    assert f'"levels": {"65536" if dtype == "uint16" else "null"}' in text
    other = written(tmp_path, values_of("uint8"))
    with pytest.raises(InputError, match="the network is for the range"):
        open_images(DataArguments(dataset=other), None, pipeline.unet.config)


def test_grey_samples_of_sixteen_bits_are_a_png_of_sixteen_bits(tmp_path, tiny_unet):
    unet = tiny_unet(value_range=(0, 65535), levels=65536)
    images = GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler())(batch_size=3, num_inference_steps=1).images
    files = files_of(unet.config)
    files.save(list(images), files.free_files(tmp_path / "grid.png"))
    picture = Image.open(tmp_path / "grid.png")
    assert picture.mode == "I;16"
    assert_array_equal(np.asarray(picture)[:8, 8:16], images[1, ..., 0])
    colours = files_of(tiny_unet(in_channels=5, value_range=(0, 65535), levels=65536).config)
    with pytest.raises(InputError, match="which no PNG holds: give --output samples.npy"):
        colours.free_files(tmp_path / "other.png")
