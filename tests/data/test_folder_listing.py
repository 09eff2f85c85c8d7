"""A folder is listed once while `datasets` looks for files in it, and anew afterwards."""

import datasets
from fsspec.core import url_to_fs
from PIL import Image

from ddpm_hf.data.folder_listing import listing_folders_once


def test_one_listing_finds_the_same_files_and_ends_with_the_context(tmp_path, monkeypatch):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / split / "a.png")
    expected = datasets.load_dataset_builder(str(tmp_path)).config.data_files
    file_system, _ = url_to_fs(str(tmp_path))
    listed, list_folder = [], file_system.ls

    def counted(path, *args, **options):
        listed.append(str(path))
        return list_folder(path, *args, **options)

    monkeypatch.setattr(type(file_system), "ls", lambda self, path, *args, **options: counted(path, *args, **options))
    with listing_folders_once(tmp_path):
        found = datasets.load_dataset_builder(str(tmp_path)).config.data_files
    assert found == expected and len(listed) == len(set(listed))
    Image.new("L", (4, 4)).save(tmp_path / "train" / "b.png")
    assert len(datasets.load_dataset_builder(str(tmp_path)).config.data_files["train"]) == 2
