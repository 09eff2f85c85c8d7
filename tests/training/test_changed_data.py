"""A run continues only with its own data: another content or order of equally many images is detected."""

import os
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image

from ddpm_hf.errors import InputError
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.checkpoints import list_checkpoints
from ddpm_hf.training.train import train


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of `datasets`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def options(tmp_path, image_folder, tiny_pipeline):
    return {
        **{"dataset": image_folder, "init_from": tiny_pipeline, "output_dir": str(tmp_path / "run"), "batch_size": 4},
        **{"log_every": 2, "checkpoint_every": 2, "sample_every": 0, "num_samples": 1, "sample_steps": 1},
    }


def go_on(options, steps):
    return train(TrainingArguments(**options, max_train_steps=steps))


def stored_fingerprint(folder):
    return yaml.safe_load((folder / "training_args.yaml").read_text(encoding="utf-8"))["environment"].get(
        "data_fingerprint"
    )


def swap(first, second):
    first.rename(first.with_suffix(".aside"))
    second.rename(first)
    first.with_suffix(".aside").rename(second)


def paint(path):
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda cats, dogs: swap(cats / "00.png", cats / "07.png"),
        lambda cats, dogs: swap(cats / "00.png", dogs / "12.png"),
        lambda cats, dogs: paint(dogs / "15.png"),
    ],
)
def test_other_order_or_content_is_refused_before_the_work_and_nothing_changes(options, image_folder, change):
    folder = go_on(options, 2)
    change(Path(image_folder) / "cat", Path(image_folder) / "dog")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(
        InputError, match=r"holds a run on other data: .*other content now, or the same in another order"
    ):
        go_on(options, 4)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_copies_with_other_times_are_the_same_data(options, image_folder):
    folder = go_on(options, 2)
    shutil.copytree(image_folder, f"{image_folder}_copy", copy_function=shutil.copyfile)
    shutil.rmtree(image_folder)
    os.rename(f"{image_folder}_copy", image_folder)
    go_on(options, 4)
    assert list(list_checkpoints(folder)) == [2, 4]


def test_a_run_of_an_earlier_version_goes_on_and_has_a_fingerprint_then(options, image_folder):
    folder = go_on(options, 2)
    fingerprint = stored_fingerprint(folder)
    arguments = folder / "training_args.yaml"
    arguments.write_text(
        re.sub("  data_fingerprint: .*\n", "", arguments.read_text(encoding="utf-8")), encoding="utf-8"
    )
    assert stored_fingerprint(folder) is None
    go_on(options, 4)
    assert stored_fingerprint(folder) == fingerprint is not None


def test_streams(options, tmp_path, image_folder):
    rows = datasets.load_dataset(image_folder, split="train")
    rows.to_parquet(str(tmp_path / "data.parquet"))
    options |= {"dataset": str(tmp_path / "data.parquet"), "streaming": True, "dataloader_workers": 0}
    go_on(options, 2)
    go_on(options, 3)
    rows.select(range(15, -1, -1)).to_parquet(str(tmp_path / "data.parquet"))
    with pytest.raises(InputError, match="holds a run on other data"):
        go_on(options, 4)


def test_points(tmp_path):
    options = {"dataset": str(tmp_path / "points.csv"), "unet": "mlp", "batch_size": 2, "num_samples": 1}
    options |= {"sample_steps": 1, "sample_every": 0, "output_dir": str(tmp_path / "run")}
    (tmp_path / "points.csv").write_text("x,y\n1,2\n3,4\n5,7\n", encoding="utf-8")
    go_on(options, 1)
    (tmp_path / "points.csv").write_text("x,y\n3,4\n1,2\n5,7\n", encoding="utf-8")
    with pytest.raises(InputError, match="holds a run on other data"):
        go_on(options, 2)
    go_on(options | {"dataset": "two_moons", "output_dir": str(tmp_path / "drawn")}, 1)
    go_on(options | {"dataset": "two_moons", "output_dir": str(tmp_path / "drawn")}, 2)
