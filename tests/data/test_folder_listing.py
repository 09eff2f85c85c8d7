"""A folder is listed once while `datasets` looks for files in it, and anew afterwards."""

import datasets
import pytest
from fsspec.core import url_to_fs
from PIL import Image

from ddpm_hf.data.folder_listing import listing_folders_once


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(folder / name)


def data_files(folder):
    return datasets.load_dataset_builder(str(folder)).config.data_files


def test_one_listing_finds_the_same_files_and_ends_with_the_context(tmp_path, monkeypatch):
    write(tmp_path, "train/a.png", "test/a.png")
    expected = data_files(tmp_path)
    file_system, _ = url_to_fs(str(tmp_path))
    listed, list_folder = [], file_system.ls

    def counted(path, *args, **options):
        listed.append(str(path))
        return list_folder(path, *args, **options)

    monkeypatch.setattr(type(file_system), "ls", lambda self, path, *args, **options: counted(path, *args, **options))
    with listing_folders_once(tmp_path):
        assert data_files(tmp_path) == expected
    assert len(listed) == len(set(listed))
    write(tmp_path, "train/b.png")
    assert len(data_files(tmp_path)["train"]) == 2


@pytest.mark.parametrize(
    "names",
    [
        ("cats/1.png", "dogs/2.png"),
        ("1.png", "my test-3.png", "my_train_2.png"),
        ("data/train-00000-of-00001.png", "data/held_out-00000-of-00001.png"),
        ("cats/validation 2/1.png", "cats/training.1/2.png", "cats/.hidden/3.png", "__special__/4.png"),
        ("trains/1.png", "latest/2.png"),
    ],
    ids=["no_splits", "in_file_names", "shards", "in_folder_names", "parts_of_words"],
)
def test_files_are_in_the_splits_that_their_names_say(tmp_path, names):
    write(tmp_path / "train", *names)  # a word above the folder says nothing
    expected = data_files(tmp_path / "train")
    with listing_folders_once(tmp_path / "train"):
        assert data_files(tmp_path / "train") == expected


def test_a_pattern_is_compared_only_if_its_words_occur(tmp_path, monkeypatch):
    write(tmp_path, "train/a.png")
    file_system, root = url_to_fs(str(tmp_path))
    compared, match = [], file_system.glob
    monkeypatch.setattr(
        type(file_system),
        "glob",
        lambda self, pattern, **options: compared.append(pattern) or match(pattern, **options),
    )
    with listing_folders_once(tmp_path):
        assert file_system.glob(f"{root}/**/test[-._ 0-9]*") == {} and not compared
        assert list(file_system.glob(f"{root}/**/train/**")) and compared
