import itertools
import logging
from io import BytesIO

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_hf.data import (
    EndlessBatches,
    ImageForm,
    ImagesInMemory,
    ImagesOnDemand,
    batches,
    decode_all,
    decode_image,
    find_image_column,
    load_images,
    open_images,
    to_model_range,
)
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.errors import InputError


def arguments(dataset, **options):
    return DataArguments(dataset=str(dataset), **options)


def stored(image, format="PNG"):
    buffer = BytesIO()
    image.save(buffer, format)
    return {"bytes": buffer.getvalue(), "path": None}


def write_parquet(tmp_path, images, **columns):
    features = datasets.Features({"image": datasets.Image(), **{name: columns[name][0] for name in columns}})
    values = {"image": images, **{name: columns[name][1] for name in columns}}
    path = tmp_path / "data.parquet"
    datasets.Dataset.from_dict(values, features=features).to_parquet(str(path))
    return path


def tensors(source, **options):
    return load_images(source, memory_limit_gb=1, **options).tensors


# --- every kind of data set gives the same pixels


def check_pixels(source, pixels):
    assert (source.channels, source.resolution, len(source)) == (1, 8, 16)
    assert np.array_equal(tensors(source)["images"].squeeze(1).numpy(), pixels)


def test_folder_of_images(image_folder, pixels):
    check_pixels(open_images(arguments(image_folder), 28), pixels)


def test_parquet_file_and_folder(tmp_path, pixels):
    path = write_parquet(tmp_path, [Image.fromarray(p) for p in pixels])
    check_pixels(open_images(arguments(path), 28), pixels)
    folder = tmp_path / "folder"
    folder.mkdir()
    path.rename(folder / "train.parquet")
    check_pixels(open_images(arguments(folder), 28), pixels)


@pytest.mark.parametrize("with_splits", [False, True])
def test_saved_to_disk(tmp_path, pixels, with_splits):
    rows = datasets.Dataset.from_dict(
        {"picture": [Image.fromarray(p) for p in pixels]}, features=datasets.Features({"picture": datasets.Image()})
    )
    rows = datasets.DatasetDict(train=rows) if with_splits else rows
    rows.save_to_disk(str(tmp_path / "saved"))
    check_pixels(open_images(arguments(tmp_path / "saved"), 28), pixels)


def test_embedded_data():
    args = DataArguments(class_conditional=True)
    source = open_images(args, 64)
    assert (source.channels, source.resolution, len(source), source.num_classes) == (1, 28, 6000, 10)
    data = tensors(source)
    assert data["images"].shape == (6000, 1, 28, 28)
    assert data["images"].dtype == torch.uint8
    assert torch.equal(torch.bincount(data["labels"]), torch.full((10,), 600))


# --- columns


def test_image_column_is_found_by_type_and_chosen_by_name():
    features = datasets.Features({"a": datasets.Image(), "n": datasets.Value("int64"), "b": datasets.Image()})
    assert find_image_column(features, "b") == "b"
    with pytest.raises(InputError, match="several columns of images: choose with --image_column a or b"):
        find_image_column(features)
    with pytest.raises(InputError, match=r"image_column='n' does not hold images: choose a or b.*n \(int64\)"):
        find_image_column(features, "n")
    with pytest.raises(InputError, match="image_column='c' does not exist"):
        find_image_column(features, "c")
    with pytest.raises(InputError, match=r"no column of images. The columns are: n \(int64\)"):
        find_image_column(datasets.Features({"n": datasets.Value("int64")}))


def test_class_labels_of_folders(image_folder):
    source = open_images(arguments(image_folder, class_conditional=True), 28)
    assert source.num_classes == 2
    assert tensors(source)["labels"].tolist() == [0] * 8 + [1] * 8


def test_integers_are_labels_only_by_name(tmp_path, pixels):
    images = [Image.fromarray(p) for p in pixels]
    path = write_parquet(tmp_path, images, kind=(datasets.Value("int32"), [0, 1, 2, 3] * 4))
    with pytest.raises(InputError, match="no column of class labels"):
        open_images(arguments(path, class_conditional=True), 28)
    source = open_images(arguments(path, class_conditional=True, label_column="kind"), 28)
    assert source.num_classes == 4


def test_missing_labels_are_refused(tmp_path, pixels):
    images = [Image.fromarray(p) for p in pixels]
    path = write_parquet(tmp_path, images, label=(datasets.ClassLabel(names=["a", "b"]), [0, 1, -1, 0] * 4))
    with pytest.raises(InputError, match="label -1 in row 2"):
        open_images(arguments(path, class_conditional=True), 28)


# --- what cannot be read


def test_unreadable_sources(tmp_path, image_folder):
    with pytest.raises(InputError, match="dataset='/no/such/folder'"):
        open_images(arguments("/no/such/folder"), 28)
    with pytest.raises(InputError, match="Cannot read split 'test'"):
        open_images(arguments(image_folder, split="test"), 28)
    with pytest.raises(InputError, match=f"dataset='{tmp_path}"):
        (tmp_path / "empty").mkdir()
        open_images(arguments(tmp_path / "empty"), 28)


def test_empty_data(tmp_path):
    with pytest.raises(InputError, match="Cannot read split 'train' of dataset=.* no data.* not empty"):
        open_images(arguments(write_parquet(tmp_path, [])), 28)
    empty = datasets.Dataset.from_dict({"image": []}, features=datasets.Features({"image": datasets.Image()}))
    empty.save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match="Cannot read split 'train' of dataset=.*saved.* not empty"):
        open_images(arguments(tmp_path / "saved"), 28)


@pytest.fixture
def damaged_folder(image_folder, tmp_path):
    """Row 3 is no image, row 5 ends too early."""
    (tmp_path / "images" / "cat" / "03.png").write_bytes(b"nothing")
    path = tmp_path / "images" / "cat" / "05.png"
    path.write_bytes(path.read_bytes()[:60])
    return image_folder


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_are_skipped_counted_and_named(damaged_folder, pixels, caplog, workers):
    source = open_images(arguments(damaged_folder, class_conditional=True), 28)
    with caplog.at_level(logging.WARNING):
        data = tensors(source, workers=workers)
    good = [i for i in range(16) if i not in (3, 5)]
    assert np.array_equal(data["images"].squeeze(1).numpy(), pixels[good])
    assert data["labels"].tolist() == [0] * 6 + [1] * 8
    assert "Skipped 2 of 16 images" in caplog.text
    assert "03.png" in caplog.text
    assert "05.png" in caplog.text


@pytest.mark.parametrize("limit", [0, 1])
def test_damaged_images_stop_a_strict_run(damaged_folder, limit):
    source = open_images(arguments(damaged_folder, strict_data=True), 28)
    with pytest.raises(InputError, match="row 3 .*03.png"):
        list(batches(load_images(source, memory_limit_gb=limit, disk_limit_gb=0), [np.arange(16)]))


def test_damaged_images_on_demand_are_replaced_within_the_batch(damaged_folder, pixels, caplog):
    images = load_images(open_images(arguments(damaged_folder), 28), memory_limit_gb=0, disk_limit_gb=0)
    assert isinstance(images, ImagesOnDemand)
    batch = images.__getitems__(np.array([2, 3, 4]))["images"].squeeze(1).numpy()
    assert np.array_equal(batch, pixels[[2, 4, 2]])
    assert "03.png" in caplog.text
    caplog.clear()
    images.__getitems__(np.array([2, 3, 4]))
    assert not caplog.text  # once is enough


def test_nothing_but_damage(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match="None of the images"):
        open_images(arguments(tmp_path), 28)


# --- colours and sizes


@pytest.mark.parametrize(
    ("modes", "channels"),
    [("1 L LA", 1), ("I;16 L", 1), ("RGB", 3), ("P", 3), ("RGBA", 3), ("CMYK", 3), ("L RGB", 3)],
)
def test_channels_follow_the_colours(tmp_path, modes, channels):
    images = []
    for mode in modes.split():
        if mode == "I;16":
            images.append(Image.fromarray(np.full((8, 8), 0x8001, dtype=np.uint16)))
        else:
            images.append(Image.new("RGB", (8, 8), (200, 100, 50)).convert(mode))
    values = [stored(image, "TIFF" if image.mode == "CMYK" else "PNG") for image in images]
    source = open_images(arguments(write_parquet(tmp_path, values)), 28)
    assert source.channels == channels
    data = tensors(source)["images"]
    assert data.shape == (len(images), channels, 8, 8)
    if modes == "I;16 L":
        assert (data[0] == 0x80).all()
    if modes in ("RGB", "P", "RGBA"):
        assert (data[0, :, 0, 0].float() - torch.tensor([200.0, 100.0, 50.0])).abs().max() <= 4  # a palette is coarse


def test_resolution_is_the_data_s_own_only_if_all_agree(tmp_path):
    def resolution(*sizes, **options):
        path = write_parquet(tmp_path, [stored(Image.new("L", size)) for size in sizes])
        return open_images(arguments(path, **options), default_resolution=28).resolution

    assert resolution((12, 12), (12, 12)) == 12
    assert resolution((12, 12), (14, 14)) == 28
    assert resolution((12, 10), (12, 10)) == 28
    assert resolution((12, 12), resolution=16) == 16


def test_crop_keeps_the_shape_of_things_and_squeezing_keeps_all_of_them():
    """A wide image whose outer quarters are black and whose middle is white."""
    wide = np.zeros((8, 32), dtype=np.uint8)
    wide[:, 8:24] = 255
    value = stored(Image.fromarray(wide))
    cropped = decode_image(value, ImageForm(1, 8))[0]
    squeezed = decode_image(value, ImageForm(1, 8, center_crop=False))[0]
    assert cropped.shape == squeezed.shape == (8, 8)
    assert (cropped[:, 1:-1] > 200).all()
    assert (squeezed[:, 0] < 50).all()
    assert (squeezed[:, 3:5] > 200).all()


def test_rotation_of_cameras_is_undone(tmp_path):
    image = Image.fromarray(np.tile(np.linspace(0, 255, 8, dtype=np.uint8), (8, 1)))
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    buffer = BytesIO()
    image.save(buffer, "PNG", exif=exif)
    decoded = decode_image({"bytes": buffer.getvalue(), "path": None}, ImageForm(1, 8))[0]
    assert np.array_equal(decoded, np.asarray(image)[::-1, ::-1])


def test_in_memory_and_on_demand_agree(image_folder):
    source = open_images(arguments(image_folder, class_conditional=True), 28)
    in_memory, on_demand = load_images(source, 1), load_images(source, 0, disk_limit_gb=0)
    assert isinstance(in_memory, ImagesInMemory)
    rows = np.array([9, 0, 15, 9])
    first, second = in_memory.__getitems__(rows), on_demand.__getitems__(rows)
    assert first.keys() == second.keys() == {"images", "labels"}
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_decoding_in_processes_keeps_the_order(image_folder):
    source = open_images(arguments(image_folder), 28)
    assert torch.equal(decode_all(source, workers=2)["images"], decode_all(source)["images"])


# --- the walk


def walk(number, **options):
    return list(itertools.islice(EndlessBatches(**{"num_images": 10, "batch_size": 4, "seed": 0} | options), number))


def test_each_epoch_sees_every_image_once():
    rows = np.concatenate(walk(5))
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()


def test_a_place_on_the_walk_is_a_number():
    for first in range(7):
        assert np.array_equal(walk(4, first_batch=first), walk(first + 4)[first:])


def test_processes_and_accumulation_divide_the_same_walk():
    whole = walk(6, batch_size=8)
    halves = [walk(6, batch_size=4, process_index=i, num_processes=2) for i in range(2)]
    accumulated = walk(12, batch_size=4)
    for update in range(6):
        assert np.array_equal(whole[update], np.concatenate([halves[0][update], halves[1][update]]))
        assert np.array_equal(whole[update], np.concatenate(accumulated[2 * update : 2 * update + 2]))


def test_seeds_give_other_walks():
    assert not np.array_equal(walk(2), walk(2, seed=1))


def test_a_loader_leaves_the_random_state_alone(image_folder):
    images = load_images(open_images(arguments(image_folder), 28), 0, disk_limit_gb=0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(iter(batches(images, EndlessBatches(16, 4, 0), workers=1)))
    assert torch.equal(torch.get_rng_state(), before)


# --- on the device


def test_model_range():
    images = to_model_range(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3))
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.flatten(), torch.tensor([-1.0, -0.6, 1.0]))


def test_flip_mirrors_half_of_the_images():
    torch.manual_seed(0)
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).repeat(1000, 1, 1, 1)
    flipped = to_model_range(images, random_flip=True)
    mirrored = flipped[:, 0, 0, 0] == 1
    assert torch.equal(flipped[mirrored], to_model_range(images)[mirrored].flip(-1))
    assert abs(mirrored.float().mean() - 0.5) < 5 * 0.5 / 1000**0.5
