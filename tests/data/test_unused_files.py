"""Files that `datasets` leaves out of a split are counted and reported with the reason."""

import logging
import os

import datasets
import numpy as np
import pytest
from PIL import Image

from ddpm_hf.data import DataArguments, open_images, open_stream
from ddpm_hf.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of `datasets`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    """folder("cat/0.png", ...): the path of a folder of such images."""

    def write(*names):
        for number, name in enumerate(names):
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), number, np.uint8)).save(path, "PNG")
        return tmp_path / "images"

    return write


def opened(folder, caplog, open_data=open_images, **options):
    """The number of images, None for a stream, and the warnings."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="ddpm_hf"):
        source = open_data(DataArguments(dataset=str(folder), **options), 28)
    return (None if open_data is open_stream else len(source)), caplog.text


def numbered(prefix, number):
    return [f"{prefix}{i}.png" for i in range(number)]


def test_words_in_names_of_files(folder, caplog):
    """Seven of twelve images, because most have a word such as train in their names."""
    found = folder(*numbered("train_", 7), *numbered("picture_", 5))
    number, said = opened(found, caplog)
    assert number == 7
    assert "leaves out 5 of the 12 files on the disk: 5 of no split (words such as train, test, dev or val" in said
    assert "leaves out 5 of the 12 files" in opened(found, caplog, open_stream)[1]


def test_accidental_words_in_names_of_files(folder, caplog):
    """A steam train and a test tube among other things make no splits, and classes and captions stay."""
    found = folder("tools/test-tube.png", "travel/steam train.png", *numbered("travel/", 2), *numbered("tools/", 3))
    number, said = opened(found, caplog)
    assert number == 7
    assert "(2, the first is test-tube.png) are not taken for splits" in said
    assert "leaves out" not in said
    source = open_images(DataArguments(dataset=str(found), class_conditional=True), 28)
    assert source.class_names == ["tools", "travel"] and sorted(source.labels) == [0] * 4 + [1] * 3
    assert "the first is test-tube.png" in opened(found, caplog, open_stream)[1]
    with pytest.raises(InputError, match="there is no split 'test' but train"):
        opened(found, caplog, split="test")


def test_accidental_words_beside_metadata(folder, caplog):
    found = folder("steam train.png", *numbered("", 3))
    (found / "metadata.csv").write_text("file_name,text\n0.png,a\n1.png,b\nsteam train.png,c\n", encoding="utf-8")
    number, said = opened(found, caplog)
    assert number == 3
    assert "leaves out 1 of the 4 files on the disk: 1 not named in metadata.csv" in said


def test_words_in_names_of_folders(folder, caplog):
    found = folder(*numbered("training_plane/", 4), *numbered("dev/", 3), *numbered("cat/", 5))
    number, said = opened(found, caplog)
    assert number == 4
    assert "leaves out 8 of the 12 files" in said
    assert "3 of split 'validation'" in said and "5 of no split" in said
    assert "leaves out 5 of the 12 files" in opened(found, caplog, split="train+validation")[1]
    assert "leaves out 5 of the 12 files" in opened(found, caplog, split="all")[1]
    assert opened(found, caplog, split="train[:50%]")[0] == 2
    with pytest.raises(InputError, match="there is no split 'test' but train, validation; words such as train"):
        opened(found, caplog, split="test")


def test_files_of_metadata_that_name_fewer(folder, caplog):
    found = folder(*numbered("", 8))
    (found / "metadata.csv").write_text("file_name,size\n0.png,1\n3.png,2\n4.png,2\n7.png,2\n", encoding="utf-8")
    number, said = opened(found, caplog)
    assert number == 4
    assert "leaves out 4 of the 8 files on the disk: 4 not named in metadata.csv" in said
    assert "4 not named" in opened(found, caplog, split="train[:50%]")[1]


def test_suffixes_that_are_not_read(folder, caplog):
    found = folder(*numbered("", 3), "a.avif", "b.avif")
    assert "leaves out 2 of the 5 files on the disk: 2 with the suffix .avif" in opened(found, caplog)[1]
    (found / "more.parquet").write_bytes(b"")
    assert "leaves out 3 of the 6 files on the disk" in opened(found, caplog)[1]


def test_links_to_folders(folder, caplog, tmp_path):
    found = folder(*numbered("cat/", 2), *numbered("../elsewhere/", 3))
    os.symlink(tmp_path / "elsewhere", found / "dog")
    number, said = opened(found, caplog)
    assert number == 2
    assert "leaves out 3 of the 5 files on the disk: 3 behind a link to a folder" in said
    os.symlink(found / "cat", tmp_path / "link")
    assert opened(tmp_path / "link", caplog) == (2, "")


def test_shards_are_files_too(tmp_path, caplog):
    rows = datasets.Dataset.from_dict(
        {"image": [Image.new("L", (8, 8))] * 3}, features=datasets.Features({"image": datasets.Image()})
    )
    (tmp_path / "shards").mkdir()
    for name in ("train-0", "more", "even_more"):
        rows.to_parquet(str(tmp_path / "shards" / f"{name}.parquet"))
    for open_data in (open_images, open_stream):
        assert "leaves out 2 of the 3 files" in opened(tmp_path / "shards", caplog, open_data)[1]
    Image.new("L", (8, 8)).save(tmp_path / "shards" / "train.png")
    assert "1 with the suffix .png, which is not read here" in opened(tmp_path / "shards", caplog)[1]


def test_nothing_is_said_where_nothing_is_left_out(folder, caplog):
    found = folder(*numbered("cat/", 3), *numbered("dog/", 3), ".hidden/test.png")
    (found / "notes.txt").write_text("No image, and no data.", encoding="utf-8")
    assert opened(found, caplog) == (6, "")


def test_a_folder_with_captions_is_opened_once(folder, caplog):
    """A second opening would take as long again, and say all warnings twice."""
    found = folder("steam train.png", *numbered("", 3))
    (found / "metadata.csv").write_text("file_name,text\n0.png,a\n1.png,b\n2.png,b\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING, logger="ddpm_hf"):
        source = open_images(DataArguments(dataset=str(found), caption_column="text"), 28)
    assert source.captions == ("a", "b") and source.labels.tolist() == [0, 1, 1]
    assert caplog.text.count("are not taken for splits") == 1
