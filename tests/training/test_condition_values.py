"""A column of numbers as the condition: read, checked, taught, told when sampling, scored, calibrated and shared."""

import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from torch.testing import assert_close
from typer.testing import CliRunner

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, cli
from ddpm_hf.calibration import fit_solver
from ddpm_hf.data import DataArguments, open_images
from ddpm_hf.data.told_labels import are_within, as_numbers
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.run import evaluate_bits_per_dim
from ddpm_hf.pipelines.conditioning import ConditionInput, Guidance, make_conditioning
from ddpm_hf.samples.condition_values import ABSENT_TOLD, absent_value_of, told_values, value_limits_of
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.conditions import learned_labels
from ddpm_hf.training.train import train

NUMBER = 24


@pytest.fixture
def rows(tmp_path):
    """Grey images of 8x8, with their brightness in per cent beside, and columns that are no numbers."""
    brightness = np.linspace(20, 95, NUMBER)
    images = [np.full((8, 8), round(2.55 * value), dtype=np.uint8) for value in brightness]
    columns = {
        "image": images,
        "brightness": list(brightness),
        "count": list(range(NUMBER)),
        "name": [str(value) for value in brightness],
        "same": [7.0] * NUMBER,
        "gap": [1.0, None, *[2.0] * (NUMBER - 2)],
        "nan": [1.0, 2.0, float("nan"), *[2.0] * (NUMBER - 3)],
        "kind": [i % 2 for i in range(NUMBER)],
    }
    features = datasets.Features(
        {
            **{name: datasets.Value("float64") for name in ("brightness", "same", "gap", "nan")},
            **{"image": datasets.Image(), "count": datasets.Value("int32"), "name": datasets.Value("string")},
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    columns = {name: columns[name] for name in features}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "data.parquet")
    return str(tmp_path / "data.parquet")


def options(rows, column="brightness", **more):
    return DataArguments(dataset=rows, value_column=column, **more)


@pytest.mark.parametrize("limits", [(1,), (0, 0, None), (0, 0, 0)])
def test_numbers_go_with_their_images_wherever_these_are_kept(rows, limits):
    source = open_images(options(rows), None)
    assert source.value_limits == (20, 95) and source.num_classes is None
    assert source.network_options["condition_value_range"] == [20, 95]
    batch = source.load(*limits).__getitems__(np.array([5, 17]))
    assert batch["labels"].dtype == torch.float32
    assert_close(batch["images"][:, 0, 0, 0].double(), (2.55 * batch["labels"].double()).round())
    assert source.fingerprint != open_images(options(rows, "count"), None).fingerprint


@pytest.mark.parametrize(
    "column, message",
    [
        ("name", r"value_column='name' does not hold numbers. The columns are: .*brightness \(float64\)"),
        ("kind", "value_column='kind' does not hold numbers"),
        ("age", "value_column='age' does not exist"),
        ("gap", "value_column='gap' has None in row 1: every image needs a finite number"),
        ("nan", "value_column='nan' has nan in row 2"),
        ("same", "value_column='same' has 7 everywhere: there is nothing to learn"),
    ],
)
def test_columns_that_are_refused(rows, column, message):
    with pytest.raises(InputError, match=message):
        open_images(options(rows, column), None)


@pytest.mark.parametrize(
    "more, message",
    [
        ({"class_conditional": True}, "does not go with class_conditional: leave one"),
        ({"streaming": True}, "does not tell its least and greatest number before it is read: give them with"),
        ({"value_dropout": 0.1, "value_column": None}, "drops numbers, and none are told"),
        ({"value_dropout": 0.1, "condition_column": "x", "condition_dropout": 0.1}, "give one of them"),
        ({"value_range": "5"}, "value_range='5' must be two numbers, the lesser first"),
        ({"value_range": "5,5"}, "value_range='5,5' must be two numbers"),
        ({"value_range": "1,2", "value_column": None}, "is of numbers: name their column with --value_column"),
        ({"low_resolution": 4, "max_augmentation_level": 0.5}, "does not go with max_augmentation_level=0.5"),
    ],
)
def test_options_that_do_not_go_with_it(rows, more, message):
    with pytest.raises(InputError, match=message):
        TrainingArguments(**{"dataset": rows, "value_column": "brightness"} | more)


def test_a_range_may_be_wider_than_that_of_the_data(rows):
    assert open_images(options(rows, value_range="0,100"), None).value_limits == (0, 100)
    with pytest.raises(InputError, match="has numbers from 20 to 95, and value_range says 0 to 90: give a range"):
        open_images(options(rows, value_range="0,90"), None)


def test_limits_hold_the_numbers_that_are_rounded_to_them():
    numbers = as_numbers([0.1, None, float("nan"), 0.3, 0.31])
    assert are_within(numbers, (0.1, 0.3)).tolist() == [True, False, False, True, False]
    assert are_within(numbers, (float(np.float32(0.1)), 0.31)).tolist() == [True, False, False, True, True]


def test_points_and_files_of_arrays_have_no_such_column(tmp_path):
    with pytest.raises(InputError, match="value_column='x' is for images, and these are points"):
        TrainingArguments(dataset="swiss_roll", value_column="x")
    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(InputError, match="has no labels: leave out --value_column"):
        open_images(options(str(tmp_path / "a.npy")), None)


def test_the_least_number_is_told_as_0_and_the_greatest_as_1000(tiny_unet):
    unet = tiny_unet(condition_value_range=(20, 95))
    wanted = torch.tensor([0.0, 500, 1000])
    values = torch.tensor([20, 57.5, 95])
    assert_close(told_values(values, (20, 95)), wanted)
    shares = SimpleNamespace(label_dropout=0.9, value_dropout=0.0)
    assert_close(learned_labels({"labels": values}, unet.config, shares), wanted)
    pipeline = GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler())
    assert_close(pipeline.encode_labels([20, 57.5, 95], batch_size=3), wanted)
    x = torch.randn(3, 1, 8, 8)
    assert_close(unet(x, 3).sample, unet(x, 3, torch.full((3,), 500.0)).sample)


@pytest.mark.parametrize(
    "told, message",
    [
        ({}, "told a number for each sample: give class_labels, or --value, such as 20 to 95"),
        ({"class_labels": [30, float("nan")]}, "there is "),
        ({"class_labels": "bright"}, "no such names"),
        (
            {"class_labels": 30.0, "guidance_scale": 2},
            "needs a model whose numbers were dropped now and then in training",
        ),
        ({"class_labels": [30, 40], "batch_size": 3}, "must agree on one whole number"),
    ],
)
def test_samples_need_a_number(tiny_unet, told, message):
    unet = tiny_unet(condition_value_range=(20, 95))
    with pytest.raises(ValueError, match=message):
        GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler())(num_inference_steps=1, **told)


def test_guidance_leads_away_from_what_is_told_for_no_number(tiny_unet):
    unet = tiny_unet(condition_value_range=(20, 95), condition_value_absent=ABSENT_TOLD)
    pipeline = GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler())
    x, t, absent = torch.randn(2, 1, 8, 8), torch.tensor(500), torch.full((2,), -1000.0)
    told = make_conditioning(pipeline, [20, 95], Guidance(3.0), 2)
    assert told.labels.tolist() == [0, 1000, -1000, -1000]
    with torch.no_grad():
        without, given = unet(x, t, absent).sample, unet(x, t, torch.tensor([0.0, 1000])).sample
        assert (without - given).abs().max() > 1e-4
        assert_close(pipeline.predict(x, t, t, told), without + 3 * (given - without))
        assert_close(pipeline.predict(x, t, t, make_conditioning(pipeline, None, Guidance(), 2)), without)
        assert_close(unet(x, t).sample, without)


def test_numbers_are_dropped_in_the_asked_share(tiny_unet):
    config = tiny_unet(condition_value_range=(0, 1), condition_value_absent=ABSENT_TOLD).config
    torch.manual_seed(0)
    shares = SimpleNamespace(label_dropout=0.9, value_dropout=0.25)
    told = learned_labels({"labels": torch.full((10_000,), 0.5)}, config, shares)
    assert set(told.tolist()) == {500, -1000}
    assert abs((told == -1000).double().mean() - 0.25) < 0.02


def test_guidance_by_the_image_keeps_the_number(tiny_unet):
    told = {"in_channels": 2, "condition_channels": 1, "condition_value_range": (0, 1), "condition_dropout": True}
    pipeline = GaussianDiffusionPipeline(tiny_unet(**told), GaussianDiffusionScheduler())
    image = ConditionInput(torch.ones(1, 1, 8, 8), sides=(8, 8))
    given = make_conditioning(pipeline, 0.5, Guidance(2.0), 1, image)
    assert given.labels.tolist() == [500, 500] and given.image[:, 0, 0, 0].tolist() == [1, 0]
    by_number = told | {"condition_dropout": False, "condition_value_absent": ABSENT_TOLD}
    pipeline = GaussianDiffusionPipeline(tiny_unet(**by_number), GaussianDiffusionScheduler())
    given = make_conditioning(pipeline, 0.5, Guidance(2.0), 1, image)
    assert given.labels.tolist() == [500, -1000] and given.image[:, 0, 0, 0].tolist() == [1, 1]


def test_numbers_that_were_not_taught_are_said(tiny_unet, rows, diffusers_log, caplog):
    unet = tiny_unet(condition_value_range=(30, 90))
    pipeline = GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler())
    pipeline(class_labels=[30, 90.5], num_inference_steps=1)
    assert "taught numbers from 30 to 90, and is told others: [30, 90.5]" in diffusers_log.text
    source = open_images(options(rows), None, unet.config)
    assert "has numbers from 20 to 95, and the network was taught those from 30 to 90" in caplog.text
    assert source.value_limits == (30, 90)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"condition_value_range": (3, 3)}, "must be the least and the greatest number"),
        ({"condition_value_range": (0, 1), "num_classes": 3}, "without classes and augmentation levels"),
        ({"condition_value_absent": -1000.0}, "is of a number: give condition_value_range too"),
        ({"condition_value_range": (0, 1), "condition_value_absent": 500.0}, r"must be outside of \[0, 1000\]"),
        (
            {
                **{"condition_value_range": (0, 1), "condition_value_absent": -1000.0, "in_channels": 2},
                **{"condition_channels": 1, "condition_dropout": True},
            },
            "guidance is by the number then",
        ),
        ({"condition_value_range": (0, 1), "class_embed_type": "identity"}, "embedded like a timestep"),
    ],
)
def test_configs_that_contradict_themselves(tiny_unet, config, message):
    with pytest.raises(ValueError, match=message):
        tiny_unet(**config)


def test_solvers_are_fitted_with_the_numbers_of_the_data(tiny_unet):
    images = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8)
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=20, beta_end=0.6)
    unet = tiny_unet(condition_value_range=(0, 1))
    how = {"num_paths": 16, "progress_bar": False}
    fitted = fit_solver(unet, scheduler, [2], images, image_labels=torch.rand(20), **how)
    assert "2" in fitted.config.fitted_solvers["solvers"]
    with pytest.raises(InputError, match="is told a number: give image_labels"):
        fit_solver(unet, scheduler, [2], images, **how)


def run(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_from_a_column_of_numbers_to_samples_and_scores(rows, tmp_path, tiny_network, tiny_unet):
    """Trained, resumed, drawn by the command, scored, loaded by stock classes and by the repository's own code."""
    folder, data = tmp_path / "run", ["--dataset", rows, "--value_column", "brightness"]
    flags = [
        "--unet",
        tiny_network(),
        "--batch_size",
        4,
        "--num_samples",
        3,
        "--sample_steps",
        1,
        "--output_dir",
        folder,
    ]
    more = ["--num_train_timesteps", 20, "--eval_every", 1, "--eval_split", "train[:4]", "--eval_steps", 2]
    more += ["--value_dropout", 0.5]
    for steps in (1, 2):
        printed = run("train", *data, "--split", "train[4:]", "--max_train_steps", steps, *flags, *more)
    pipeline = GaussianDiffusionPipeline.from_pretrained(folder)
    assert type(pipeline.unet) is UNet2DModel and pipeline.unet.config.class_embed_type == "timestep"
    low, high = value_limits_of(pipeline.unet.config)
    assert absent_value_of(pipeline.unet.config) == ABSENT_TOLD
    assert f"ddpm-hf sample {folder} --value {(low + high) / 2:g} --recipe" in printed
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"class_labels={(low + high) / 2:g}" in card and f"from {low:.4g} to {high:.4g}" in card
    guided = ["--value", 50, "--guidance_scale", 2]
    run("sample", folder, *guided, "--num_images", 2, "--steps", 2, "--output", tmp_path / "samples.png")
    own_code = DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(folder), trust_remote_code=True)
    how = {"num_inference_steps": 2, "output_type": "pt"}
    drawn = [
        each(class_labels=[40, 90.5], generator=torch.Generator().manual_seed(0), **how).images
        for each in (pipeline, own_code)
    ]
    assert_close(drawn[0], drawn[1], rtol=0, atol=0)
    stock = UNet2DModel.from_pretrained(folder, subfolder="unet")
    x, told = torch.randn(1, 1, 8, 8), torch.tensor([300.0])
    assert_close(stock(x, 7, told).sample, pipeline.unet(x, 7, told).sample)

    within = options(rows, split="train[4:]")
    scored = evaluate_bits_per_dim(str(folder), tmp_path / "scores", within, num_images=2, steps=2)
    assert len(scored.per_image) == 2
    few = ["--split", "train[4:]", "--num_images", 8]
    run("calibrate", folder, *data, *few, "--output_dir", tmp_path / "calibrated")
    report = json.loads((tmp_path / "calibrated" / "calibration.json").read_text(encoding="utf-8"))
    assert report["options"]["value_column"] == "brightness"
    with pytest.raises(InputError, match="is told a number of each image: name its column with --value_column"):
        evaluate_bits_per_dim(str(folder), tmp_path / "other", DataArguments(dataset=rows), num_images=2, steps=2)
    again = {"init_from": str(folder), "dataset": rows, "max_train_steps": 1, "batch_size": 4}
    with pytest.raises(InputError, match="value_dropout=0.1 does not go with .* whose network was always told"):
        GaussianDiffusionPipeline(
            tiny_unet(condition_value_range=(0, 100)), GaussianDiffusionScheduler()
        ).save_pretrained(tmp_path / "always")
        dropping = {"value_column": "brightness", "value_dropout": 0.1, "output_dir": str(tmp_path / "more")}
        train(TrainingArguments(**again | {"init_from": str(tmp_path / "always")} | dropping))
    with pytest.raises(InputError, match="whose network is told some: name their column"):
        train(TrainingArguments(**again, output_dir=str(tmp_path / "more")))
    refused = CliRunner().invoke(cli.app, ["sample", str(folder), "--value", "50", "--class", "cat"])
    assert "are for different models" in str(refused.exception) + refused.output
