"""Points as training data: named distributions, files of numbers, refused inputs, and a run."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_hf import GaussianDiffusionPipeline, MLPDenoiser
from ddpm_hf.data import open_points
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.point_clouds import swiss_roll
from ddpm_hf.errors import InputError
from ddpm_hf.reports.loss_curve import read_rows
from ddpm_hf.training.argument_parsing import parse_arguments
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.train import train

ROWS = [("1.5", "-2", "a"), ("0", "4e1", "b"), ("-3", "0.25", "a")]


def write_csv(folder, rows, header="x,y,name"):
    path = folder / "points.csv"
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return str(path)


def opened(dataset, **options):
    return open_points(DataArguments(dataset=str(dataset), **options))


def values(source):
    """The points in the units of the data."""
    return source.points.double().numpy() * source.std + source.mean


# What is read ---------------------------------------------------------------------------------------------------------


def test_a_named_distribution_is_standardised_and_each_split_is_another_draw():
    source = opened("swiss_roll")
    assert len(source) == 5000 and source.points.dtype == torch.float32 and source.kind == "points of 2 dimensions"
    np.testing.assert_allclose(source.points.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(source.points.std(0), 1, atol=1e-3)
    drawn = swiss_roll(100_000, torch.Generator().manual_seed(9)).points
    np.testing.assert_allclose(source.std, drawn.std(0), rtol=0.05)
    assert len(opened("swiss_roll", num_points=70)) == 70
    other = opened("swiss_roll", split="test")
    assert torch.equal(source.points, opened("swiss_roll").points) and not torch.equal(source.points, other.points)


def test_named_distributions_with_classes():
    source = opened("two_moons", class_conditional=True, num_points=50)
    assert source.num_classes == 2 and set(source.labels) == {0, 1}
    assert opened("two_moons", num_points=50).labels is None
    with pytest.raises(InputError, match="dataset='swiss_roll' has no classes"):
        opened("swiss_roll", class_conditional=True)


def test_a_csv_file(tmp_path):
    path = write_csv(tmp_path, ROWS)
    np.testing.assert_allclose(values(opened(path, point_columns="x,y")), [[1.5, -2], [0, 40], [-3, 0.25]], atol=1e-5)
    np.testing.assert_allclose(values(opened(path, point_columns="y")), [[-2], [40], [0.25]], atol=1e-5)


def test_a_csv_file_with_labels(tmp_path):
    path = write_csv(tmp_path, [("1", "2", "0"), ("3", "5", "2"), ("4", "1", "1")], "x,y,kind")
    source = opened(path, class_conditional=True, label_column="kind")
    assert source.labels.tolist() == [0, 2, 1] and source.num_classes == 3 and source.channels == 2
    path = write_csv(tmp_path, [("1", "2", "0"), ("3", "5", "cat")], "x,y,kind")
    with pytest.raises(InputError, match="Row 1 has 'cat' in column 'kind': labels must be whole numbers"):
        opened(path, class_conditional=True, label_column="kind")


def test_columns_of_numbers_and_of_lists(tmp_path):
    features = np.arange(12.0).reshape(4, 3) ** 2
    rows = {"id": [5, 3, 8, 1], "features": features.tolist()}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    source = opened(tmp_path / "rows.parquet", point_columns="features")
    np.testing.assert_allclose(values(source), features, atol=1e-4)
    both = opened(tmp_path / "rows.parquet")
    assert both.channels == 4
    np.testing.assert_allclose(values(both)[:, 0], [5, 3, 8, 1], atol=1e-5)


def test_the_units_of_a_trained_network(tmp_path):
    config = MLPDenoiser(width=4, data_mean=[1.0, -2.0], data_std=[2.0, 4.0]).config
    source = open_points(DataArguments(dataset=write_csv(tmp_path, ROWS), point_columns="x,y"), config)
    np.testing.assert_allclose(source.points, [[0.25, 0], [-0.5, 10.5], [-2, 0.5625]])
    with pytest.raises(InputError, match=r"have 1 dimensions \(x\), and the network takes 2"):
        open_points(DataArguments(dataset=write_csv(tmp_path, ROWS), point_columns="x"), config)


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows, header, message",
    [
        (ROWS, "x,y,name", r"Row 0 \(counted from 0\) has 'a' in column 'name', which is no finite number"),
        ([("1", "2"), ("3", "")], "x,y", r"Row 1 \(counted from 0\) has no value in column 'y'"),
        ([("1", "2"), ("oops", "4")], "x,y", r"Row 1 .* has 'oops' in column 'x'"),
        ([("1", "2"), ("3", "inf")], "x,y", r"Row 1 .* has 'inf' in column 'y', which is no finite number"),
        ([("1", "2"), ("3", "nan")], "x,y", r"Row 1 .* has 'nan' in column 'y'"),
        ([("1", "2")], "x,y", "has a single point"),
        ([("1", "2"), ("3", "2")], "x,y", "Column 'y' is 2 in every row, so there is nothing to learn"),
        ([("3", "2")], "1,2", r"The first line .* has numbers \(1, 2\) where the names"),
    ],
)
def test_files_that_are_no_points(tmp_path, rows, header, message):
    with pytest.raises(InputError, match=message):
        opened(write_csv(tmp_path, rows, header))


def test_a_bad_value_far_down_a_long_file(tmp_path):
    rows = [(str(i), str(i % 7)) for i in range(30_000)]
    rows[29_990] = ("12", "n/a")
    with pytest.raises(InputError, match=r"Row 29990 .* has 'n/a' in column 'y'"):
        opened(write_csv(tmp_path, rows, "x,y"))


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"x": [1.0, None, 2.0]}, r"Row 1 .* has no value in column 'x'"),
        ({"x": [[1.0, 2.0], [3.0]]}, "Row 1 has 1 numbers in column 'x', and row 0 has 2"),
        ({"x": [[1.0, 2.0], [3.0, None]]}, r"Row 1 .* has no value in column 'x'"),
        ({"x": [{"a": 1.0}, {"a": 2.0}]}, "Column 'x' holds .*, not numbers"),
    ],
)
def test_parquet_files_that_are_no_points(tmp_path, columns, message):
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=message):
        opened(tmp_path / "rows.parquet")


def test_columns_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="names 'z', which is not there: the columns are x, y, name"):
        opened(write_csv(tmp_path, ROWS), point_columns="x,z")


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"dataset": "swiss_roll", "unet": "fashion_mnist"},
            "has points, and unet='fashion_mnist' is for images: --unet mlp",
        ),
        ({"unet": "mlp"}, "unet='mlp' is for points: name them with --dataset, one of swiss_roll"),
        ({"unet": "mlp", "dataset": "swiss_roll", "random_flip": True}, "random_flip mirrors images"),
        ({"unet": "mlp", "dataset": "swiss_roll", "num_points": 0}, "num_points=0 is not allowed"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(InputError, match=message):
        TrainingArguments(max_train_steps=1, **options)


# A run ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def options(tmp_path):
    return {
        **{"dataset": "two_moons", "num_points": 64, "unet": "mlp", "output_dir": str(tmp_path / "run")},
        **{"max_train_steps": 4, "batch_size": 8, "log_every": 2, "checkpoint_every": 2, "learning_rate": 1e-2},
        **{"num_samples": 9, "sample_steps": 2},
    }


def test_the_preset_is_for_points():
    args = parse_arguments(["--preset", "swiss_roll"])
    assert args.unet == "mlp" and args.dataset == "swiss_roll"


def test_a_run_on_points_makes_a_pipeline_of_points(options, capsys):
    train(TrainingArguments(**options, class_conditional=True, dry_run=True))
    plan = capsys.readouterr().out
    assert "update   8 points: 8 at a time" in plan and "GFLOPs per point" in plan and "points per second" in plan
    folder = train(TrainingArguments(**options, class_conditional=True))
    assert "length   4 updates of 8 points, 0.5 passes over the data, on cpu" in capsys.readouterr().out
    pipeline = GaussianDiffusionPipeline.from_pretrained(folder)
    source = opened("two_moons", num_points=64)
    assert pipeline.unet.config.data_std == source.std.tolist() and pipeline.unet.config.num_classes == 2
    assert pipeline.scheduler.config.clip_sample
    assert pipeline.scheduler.config.clip_sample_range == pytest.approx(source.points.abs().max().item(), abs=0.01)
    assert pipeline(5, class_labels=1, num_inference_steps=2).images.shape == (5, 2)
    assert Image.open(folder / "samples" / "step-000004.png").size == (675, 675)
    assert len(read_rows(folder / "loss.csv")) == 2


def test_a_head_on_the_trained_network_leaves_its_prediction(options, tmp_path):
    first = train(TrainingArguments(**options))
    head = {
        "init_from": str(first),
        "variance_head": "ocm",
        "train_head_only": True,
        "output_dir": str(tmp_path / "h"),
    }
    second = train(TrainingArguments(**options | head))
    before, after = (GaussianDiffusionPipeline.from_pretrained(folder).unet for folder in (first, second))
    assert after.config.data_mean == before.config.data_mean
    assert torch.equal(after.proj_out.weight[:2], before.proj_out.weight)
    assert after.proj_out.weight[2:].any()
    assert torch.equal(after.core_1.linear.weight, before.core_1.linear.weight)


@pytest.mark.parametrize("objective, head", [("vlb", None), ("hybrid", "learned_range")])
def test_the_bound_teaches_points(options, objective, head):
    folder = train(TrainingArguments(**options, objective=objective, variance_head=head))
    assert all(np.isfinite(row["loss"]) for row in read_rows(folder / "loss.csv"))
