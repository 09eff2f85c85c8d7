"""A fingerprint depends on the order and content of data, and not on their place or container."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from ddpm_hf.data import DataArguments, image_headers, open_images, open_points, open_stream
from ddpm_hf.data.fingerprint import fingerprint_of_images


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of `datasets`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def values(tmp_path):
    """Eight images as `datasets` stores them: where they are."""
    for number in range(8):
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / f"{number}.png")
    return [{"bytes": None, "path": str(tmp_path / f"{number}.png")} for number in range(8)]


def test_order_content_number_and_labels_count(values, tmp_path):
    labels = np.arange(8)
    (tmp_path / "nothing.png").write_bytes(b"")
    other = [*values[:-1], {"bytes": None, "path": str(tmp_path / "nothing.png")}]
    missing = [*values[:-1], {"bytes": None, "path": str(tmp_path / "missing.png")}]
    swapped = [values[1], values[0], *values[2:]]
    all_fingerprints = [
        fingerprint_of_images(*given)
        for given in (
            (values, 8),
            (values, 9),
            (values[::-1], 8),
            (swapped, 8),
            (other, 8),
            (missing, 8),
            ([*values[:-1], None], 8),
            (values, 8, labels),
            (values, 8, labels[::-1]),
        )
    ]
    assert (
        len(set(all_fingerprints)) == len(all_fingerprints) - 1
    )  # what is missing is missing, whatever it was called


def test_places_and_containers_do_not_count(values, tmp_path):
    embedded = [{"bytes": Path(value["path"]).read_bytes(), "path": "elsewhere.png"} for value in values]
    assert fingerprint_of_images(values, 8, [0] * 8) == fingerprint_of_images(embedded, 8, np.zeros(8, np.int32))


def test_of_a_folder_and_of_a_table_with_the_same_images(image_folder, tmp_path):
    folder = open_images(DataArguments(dataset=image_folder, class_conditional=True), 28)
    rows = datasets.load_dataset(image_folder, split="train").cast_column("image", datasets.Image(decode=False))
    rows = rows.map(lambda row: {"image": {"bytes": Path(row["image"]["path"]).read_bytes(), "path": None}})
    rows = rows.cast_column("image", datasets.Image())
    rows.to_parquet(str(tmp_path / "a.parquet"))
    table = open_images(DataArguments(dataset=str(tmp_path / "a.parquet"), class_conditional=True), 28)
    assert table.fingerprint == folder.fingerprint
    rows.select(range(15, -1, -1)).to_parquet(str(tmp_path / "b.parquet"))
    for open_data in (open_images, open_stream):
        first, turned = (open_data(DataArguments(dataset=str(tmp_path / f"{name}.parquet")), 28) for name in "ab")
        assert first.fingerprint != turned.fingerprint


def test_of_streams_it_is_the_beginning(tmp_path, image_folder):
    rows = datasets.load_dataset(image_folder, split="train")
    streams = {}
    for name, classes in (("same", [0] * 16), ("again", [0] * 16), ("other", [0] * 15 + [1])):
        labelled = rows.remove_columns("label").add_column("label", classes)
        labelled.cast_column("label", datasets.ClassLabel(num_classes=2)).to_parquet(str(tmp_path / f"{name}.parquet"))
        args = DataArguments(dataset=str(tmp_path / f"{name}.parquet"), class_conditional=True)
        streams[name] = open_stream(args, 28).fingerprint
    assert streams["same"] == streams["again"] != streams["other"]


def test_of_points(tmp_path):
    def fingerprint(text):
        (tmp_path / "points.csv").write_text(text, encoding="utf-8")
        return open_points(DataArguments(dataset=str(tmp_path / "points.csv"))).fingerprint

    assert fingerprint("x,y\n1,2\n3,4\n") == fingerprint("a,b\n1.0,2\n3,4.00\n")
    assert len({fingerprint(f"x,y\n{rows}\n") for rows in ("1,2\n3,4", "3,4\n1,2", "1,2\n3,5")}) == 3
    assert open_points(DataArguments(dataset="swiss_roll")).fingerprint is None


def test_it_reads_no_more_of_large_data(monkeypatch, values):
    """Evenly spread images, and of each no more than its beginning and its length."""
    monkeypatch.setattr(image_headers, "SURVEYED_IMAGES", 4)
    rows = datasets.Dataset.from_dict({"image": values})
    assert len(list(image_headers.spread_values(rows, "image"))) == 4
    large, other = np.zeros(100_000, np.uint8), np.zeros(100_000, np.uint8)
    other[-1] = 1
    first, second, longer = (
        fingerprint_of_images([{"bytes": content, "path": None}], 1)
        for content in (large.tobytes(), other.tobytes(), large.tobytes() + b"\0")
    )
    assert first == second != longer
