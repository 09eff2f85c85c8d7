"""Errors of reading name the damaged file, or the cache of `datasets`."""

from dataclasses import replace

import datasets
import pytest
from PIL import Image

from ddpm_hf.data import DataArguments, load_images, open_images, open_points
from ddpm_hf.errors import InputError
from ddpm_hf.training.argument_parsing import parse_arguments


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of `datasets`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def refused(folder, open_data=open_points, *default):
    with pytest.raises(InputError) as caught:
        open_data(DataArguments(dataset=str(folder)), *default)
    return str(caught.value)


@pytest.mark.parametrize("rows", [3, 100_000])
def test_csv_of_another_encoding(tmp_path, rows):
    """Noticed in the header, and by the reader of `datasets` far behind it."""
    path = tmp_path / "points.csv"
    path.write_bytes(b"x,y\n" + b"1,2\n" * rows + "3,né\n".encode("latin-1"))
    assert "points.csv" in refused(path) and "'utf-8' codec can't decode byte 0xe9" in refused(path)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("json", '{"x": 1, "y": 2}\n{"x": 3, "y": 4}', '{"x": 1, "y": 2}\n{"x": 3, '),
        ("jsonl", '{"x": 1, "y": 2}', '{"x": 1 "y": 2}'),
        ("csv", "x,y\n1,2\n3,4", "x,y\n1,2\n3,4,5,6"),
        ("csv", "x,y\n1,2\n3,4", "x,y\n1,\udce9\n3,4"),
    ],
)
def test_one_bad_file_of_many(tmp_path, name, good, bad):
    for number in range(3):
        text = bad if number == 1 else good
        (tmp_path / f"train-{number}.{name}").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert f"train-1.{name}: " in refused(tmp_path)


def test_saved_data_with_a_bad_file(tmp_path):
    for name in ("state.json", "dataset_info.json"):
        folder = tmp_path / name
        datasets.Dataset.from_dict({"x": [1.0, 2.0]}).save_to_disk(folder)
        (folder / name).write_text("{broken", encoding="utf-8")
        assert f"{name}: Expecting property name" in refused(folder)


def test_metadata_of_another_encoding(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / "metadata.csv").write_bytes("file_name,word\n0.png,né\n".encode("latin-1"))
    assert "metadata.csv: 'utf-8' codec can't decode" in refused(tmp_path, open_images, 28)


def test_options_of_another_encoding(tmp_path, capsys):
    (tmp_path / "run.yaml").write_bytes("output_dir: né\n".encode("latin-1"))
    with pytest.raises(SystemExit):
        parse_arguments(["--config", str(tmp_path / "run.yaml")])
    assert "run.yaml: 'utf-8' codec can't decode byte 0xe9" in capsys.readouterr().err


def test_a_bomb_is_named(tmp_path, monkeypatch):
    Image.new("L", (8, 8)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert "large.png): Image size (64 pixels) exceeds limit" in refused(tmp_path, open_images, 28)


def test_the_cache_is_not_the_data(tmp_path, monkeypatch, image_folder):
    """A file stands where its folder should be, which nobody may write into, whatever his rights are."""
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    said = refused(image_folder, open_images, 28)
    assert said.startswith(f"The cache of datasets, {tmp_path}/file/cache, cannot be written")
    assert "HF_DATASETS_CACHE=FOLDER" in said


def test_a_cache_that_decoded_images_cannot_be_written_to(tmp_path, monkeypatch, image_folder):
    source = replace(open_images(DataArguments(dataset=image_folder), 28), pixels=1e9)
    (tmp_path / "file").mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    (tmp_path / "file" / "ddpm_hf").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="The cache of datasets, .*file, cannot be written.*--on_disk_limit_gb 0"):
        load_images(source, memory_limit_gb=0)


@pytest.mark.parametrize("name", ["pictures.zip", "0.png", "notes"])
def test_a_file_of_another_kind(tmp_path, name):
    (tmp_path / name).write_bytes(b"?")
    message = refused(tmp_path / name, open_images, None)
    assert (
        f"{name}' is a file, and files of data end in .arrow, " in message
        and "unpacked if this is an archive" in message
    )


def test_a_folder_of_links_to_folders(tmp_path):
    (tmp_path / "there").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "there" / "0.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "there", target_is_directory=True)
    message = refused(tmp_path / "data", open_images, None)
    assert f"behind a link to a folder, which datasets does not follow: give the folder itself, {tmp_path}" in message
