import dataclasses
import importlib.util
import math
import typing

import pytest
import yaml

from ddpm_hf.errors import InputError
from ddpm_hf.models.presets import NETWORK_PRESETS
from ddpm_hf.training.argument_checks import option_names
from ddpm_hf.training.argument_parsing import parse_arguments
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.classifier_arguments import ClassifierArguments


def write_yaml(tmp_path, **options):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(options), encoding="utf-8")
    return str(path)


def test_flags_win_over_config_and_config_over_preset(tmp_path):
    config = write_yaml(tmp_path, learning_rate=3e-4, batch_size=8)
    args = parse_arguments(["--preset", "cifar10", "--config", config, "--batch_size", "4"])
    assert args.batch_size == 4
    assert args.learning_rate == 3e-4
    assert args.lr_warmup_steps == 5000
    assert args.log_every == 100


def test_the_data_are_given_with_or_without_a_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_images").mkdir()
    options = ["--max_train_steps", "1", "--random_flip"]
    assert parse_arguments([*options, "my_images"]) == parse_arguments([*options, "--dataset", "my_images"])
    with pytest.raises(SystemExit):
        parse_arguments([*options, "my_images", "--dataset_name", "someone/images"])
    assert "given twice, as 'my_images' and as --dataset someone/images: give one" in capsys.readouterr().err


def test_a_flag_that_repeats_the_default_wins_too(tmp_path):
    config = write_yaml(tmp_path, batch_size=8, max_train_steps=1)
    assert parse_arguments(["--config", config, "--batch_size", "64"]).batch_size == 64


def test_switches_turn_off_what_a_preset_turns_on(tmp_path):
    assert parse_arguments(["--preset", "cifar10"]).random_flip is True
    assert parse_arguments(["--preset", "cifar10", "--random_flip", "false"]).random_flip is False
    assert parse_arguments(["--preset", "cifar10", "--no_center_crop"]).center_crop is False


def test_yaml_spellings_mean_what_they_mean_as_flags(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "learning_rate: 2e-4\nmixed_precision: no\nrandom_flip: yes\nresolution: null\nmax_train_steps: 3\n",
        encoding="utf-8",
    )
    args = parse_arguments(["--config", str(path)])
    assert args.learning_rate == 2e-4
    assert args.mixed_precision == "no"
    assert args.random_flip is True
    assert args.resolution is None


def test_length_has_two_spellings_and_the_last_given_holds(tmp_path):
    args = parse_arguments(["--preset", "cifar10", "--num_epochs", "2"])
    assert (args.max_train_steps, args.num_epochs) == (None, 2)
    config = write_yaml(tmp_path, num_epochs=3)
    args = parse_arguments(["--config", config, "--max_train_steps", "10"])
    assert (args.max_train_steps, args.num_epochs) == (10, None)


@pytest.mark.parametrize("name", TrainingArguments.presets)
def test_presets_parse(name):
    argv = ["--preset", name, "--dataset", "somewhere"]
    assert parse_arguments(argv).unet in NETWORK_PRESETS


def test_the_options_of_a_run_are_a_config(tmp_path):
    args = TrainingArguments(
        max_train_steps=5, mixed_precision="no", objective="vlb", variance_head="learned_range", dataset="a"
    )
    path = write_yaml(tmp_path, **dataclasses.asdict(args), environment={"torch": "2"})
    assert parse_arguments(["--config", path]) == args


@pytest.mark.parametrize(
    ("options", "objective", "variance_type"),
    [
        ({}, "simple", "fixed_small"),
        ({"variance_head": "learned_range"}, "hybrid", "learned_range"),
        ({"variance_head": "npr", "train_head_only": True, "init_from": "a"}, "npr", "npr"),
        ({"variance_head": "sn", "train_head_only": True, "init_from": "a"}, "sn", "sn"),
        ({"variance_head": "ocm", "train_head_only": True, "init_from": "a"}, "ocm", "ocm"),
    ],
)
def test_objective_and_variance_type_follow_from_the_head(options, objective, variance_type):
    args = TrainingArguments(max_train_steps=1, **options)
    assert (args.objective, args.variance_type) == (objective, variance_type)
    assert TrainingArguments(max_train_steps=1, **options, objective=objective) == args


def test_timestep_sampling_follows_from_the_objective():
    head = {"max_train_steps": 1, "variance_head": "learned_range"}
    assert TrainingArguments(max_train_steps=1).timestep_sampling == "uniform"
    assert TrainingArguments(**head, objective="hybrid").timestep_sampling == "uniform"
    assert TrainingArguments(**head, objective="vlb").timestep_sampling == "importance"
    assert TrainingArguments(**head, objective="vlb", timestep_sampling="uniform").timestep_sampling == "uniform"


def test_the_bound_can_be_trained_with_a_fixed_variance():
    """L of Ho et al. 2020, table 2."""
    assert TrainingArguments(max_train_steps=1, objective="vlb").variance_type == "fixed_small"


HYBRID = {"objective": "hybrid", "variance_head": "learned_range"}
NPR = {"variance_head": "npr", "init_from": "a", "train_head_only": True}
BAD_VALUES = [
    ({"batch_size": 0}, "batch_size=0 .* at least 1"),
    ({"batch_size": 1.5}, "batch_size=1.5 must be of type int"),
    ({"batch_size": True}, "batch_size=True must be of type int"),
    ({"learning_rate": "fast"}, "learning_rate='fast' must be a number"),
    ({"learning_rate": 0.0}, "learning_rate=0.0 .* greater than 0 and at most 1"),
    ({"learning_rate": 1e30}, r"learning_rate=1e\+30 .* greater than 0 and at most 1"),
    ({"adam_epsilon": 1e-300}, "adam_epsilon=1e-300 .* from 1e-37 to 1"),
    (
        {"adam_weight_decay": 1e30, "unet": "small_32"},
        "adam_weight_decay=1e.30 is not allowed with learning_rate=0.0002: an update takes",
    ),
    ({"label_dropout": 1.1}, r"label_dropout=1.1 .* in \[0, 1\]"),
    ({"ema_decay": 1.0}, r"ema_decay=1.0 .* in \[0, 1\)"),
    ({"num_train_timesteps": 0}, "num_train_timesteps=0 .* at least 1"),
    ({"beta_start": 0.0}, "beta_start=0.0 .* between 0 and 1"),
    ({"beta_start": 0.5}, "beta_start=0.5 must be smaller than beta_end=0.02"),
    ({"beta_schedule": "linaer"}, "beta_schedule='linaer' is not one of 'linear'"),
    ({"prediction_type": "eps"}, "prediction_type='eps' is not one of 'epsilon', 'sample', 'v_prediction'"),
    ({"mixed_precision": "bf17"}, "mixed_precision='bf17' is not one of 'auto', 'no', 'fp32', 'bf16', 'fp16'"),
    ({"variance_head": "range"}, "variance_head='range' is not one of 'learned_range', 'npr', 'sn', 'ocm'"),
    ({"variance_type": "learned_range"}, "variance_type='learned_range' does not go with variance_head=None"),
    (
        {"variance_type": "fixed_large", "variance_head": "learned_range"},
        "variance_type='fixed_large' does not go with variance_head='learned_range'",
    ),
    ({"variance_type": "npr"}, "variance_type='npr' does not go with variance_head=None"),
    ({**NPR, "variance_type": "sn"}, "variance_type='sn' does not go with variance_head='npr'"),
    ({"unet": "huge"}, "unet='huge' is not one of 'fashion_mnist'"),
    ({"unet": "small64"}, "unet='small64' is not one of .*; did you mean 'small_64'"),
    ({"unet": "no/such/config.json"}, "unet='no/such/config.json' is not one of .*, nor a config.json of a network"),
    ({"objective": "l1"}, "objective='l1' is not one of 'simple', 'hybrid', 'vlb'"),
    (
        {**HYBRID, "objective": "simple"},
        "objective='simple' would leave variance_head='learned_range' untrained: choose --objective hybrid",
    ),
    ({**NPR, "objective": "simple"}, "objective='simple' would leave variance_head='npr' .*: choose --objective npr"),
    ({**NPR, "objective": "hybrid"}, "objective='hybrid' would leave variance_head='npr' .*: choose --objective npr"),
    ({**NPR, "objective": "vlb"}, "objective='vlb' would leave variance_head='npr' .*: choose --objective npr"),
    ({**NPR, "objective": "sn"}, "objective='sn' teaches the head of that name.*: give --variance_head sn"),
    ({"objective": "ocm"}, "objective='ocm' teaches .*, not variance_head=None: give --variance_head ocm"),
    (
        {"variance_head": "sn"},
        "variance_head='sn' learns the errors of a prediction that stays .*: add --train_head_only",
    ),
    ({**NPR, "init_from": None}, "train_head_only needs a trained network .*: give --init_from MODEL"),
    ({"objective": "hybrid"}, "objective='hybrid' is for a variance head, .*: add --variance_head learned_range"),
    ({"vlb_weight": 0.1}, "vlb_weight=0.1 has no effect with objective='simple'"),
    ({**HYBRID, "vlb_weight": 0.0}, "vlb_weight=0.0 .* greater than 0"),
    ({"min_snr_gamma": -1.0}, "min_snr_gamma=-1.0 .* greater than 0"),
    ({"objective": "vlb", "min_snr_gamma": 5.0}, "min_snr_gamma=5.0 .* which objective='vlb' does not have"),
    ({**NPR, "min_snr_gamma": 5.0}, "min_snr_gamma=5.0 .* which objective='npr' does not have"),
    (
        {**HYBRID, "rescale_betas_zero_snr": True, "prediction_type": "epsilon"},
        "objective='hybrid' needs x0, .* choose --prediction_type v_prediction",
    ),
    ({"timestep_sampling": "halton"}, "timestep_sampling='halton' is not one of 'uniform', 'low_discrepancy', 'imp"),
    ({**HYBRID, "train_head_only": True}, "train_head_only needs a trained network .*: give --init_from MODEL"),
    (
        {"init_from": "a", "train_head_only": True},
        "train_head_only needs .* --variance_head, one of learned_range, npr, sn, ocm",
    ),
    (
        {**HYBRID, "init_from": "a", "train_head_only": True, "adam_weight_decay": 0.1},
        "adam_weight_decay=0.1 would also shrink the trained weights beside the head",
    ),
    (
        {"lr_scheduler": "constant", "lr_warmup_steps": 5},
        "lr_warmup_steps=5 has no effect with lr_scheduler='constant'",
    ),
    ({"num_epochs": 1}, "Give --max_train_steps 1 or --num_epochs 1, not both"),
    ({"minutes": 1.0}, "Give --minutes=1, --max_train_steps or --num_epochs, only one of them"),
    ({"minutes": 0.0}, "minutes=0.0 .* greater than 0"),
    ({"resolution": 256}, "resolution=256 would blow up the embedded Fashion-MNIST"),
    ({"hub_license": "Apache 2"}, "hub_license='Apache 2' is not as the Hub spells a licence"),
    ({"num_train_timesteps": 20, "sample_steps": 50}, "sample_steps=50 must be at most num_train_timesteps=20"),
    ({"num_train_timesteps": 20, "eval_steps": 21}, "eval_steps=21 must be at most num_train_timesteps=20"),
    ({"seed": 2**32}, "seed=4294967296 is not allowed: it must be at most 4294967295"),
    ({"num_train_timesteps": 10**9}, "num_train_timesteps=1000000000 .* at most 100000"),
    ({"num_samples": 10**6}, "num_samples=1000000 .* at most 10000"),
    ({"max_train_steps": 10**12}, "max_train_steps=1000000000000 .* at most 1000000000"),
]


def options_of(kind, hint):
    return [
        (kind, name)
        for name, of in typing.get_type_hints(kind).items()
        if name in option_names(kind) and hint in (of, *typing.get_args(of))
    ]


@pytest.mark.parametrize(
    ("kind", "name"), options_of(TrainingArguments, float) + options_of(ClassifierArguments, float)
)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**400])
def test_every_number_is_finite(kind, name, value):
    with pytest.raises(InputError, match=f"{name}={value}.* is not allowed: it must be finite"):
        kind(**{"max_train_steps": 1, name: value})


@pytest.mark.parametrize(("kind", "name"), options_of(TrainingArguments, str) + options_of(ClassifierArguments, str))
@pytest.mark.parametrize("value", ["", " "])
def test_no_text_is_empty(kind, name, value):
    with pytest.raises(InputError, match=f"{name}='{value}' is empty, as it is where a shell variable is not set"):
        kind(**{name: value, "max_train_steps": 1})


def test_what_is_empty_on_the_command_line_and_in_a_file_is_named(tmp_path, capsys):
    (tmp_path / "quoted.yaml").write_text("dataset: ''\nmax_train_steps: 1\n", encoding="utf-8")
    for flags, name in (
        (["--dataset", ""], "dataset"),
        (["--output_dir="], "output_dir"),
        (["--preset", ""], "preset"),
        (["--config", ""], "config"),
        (["--config", str(tmp_path / "quoted.yaml")], "dataset"),
    ):
        with pytest.raises(SystemExit):
            parse_arguments([*flags, "--max_train_steps=1"])
        assert f"{name}=''" in capsys.readouterr().err


def test_calls_for_a_sample_are_no_more_than_timesteps():
    args = TrainingArguments(max_train_steps=1, num_train_timesteps=20)
    assert (args.sample_steps, args.eval_steps) == (20, 20)
    args = TrainingArguments(max_train_steps=1)
    assert (args.sample_steps, args.eval_steps) == (50, 50)


@pytest.mark.parametrize(("options", "message"), BAD_VALUES)
def test_bad_values_are_named_with_what_is_allowed(options, message):
    with pytest.raises(InputError, match=message):
        TrainingArguments(**{"max_train_steps": 1} | options)


@pytest.mark.skipif(importlib.util.find_spec("trackio") is not None, reason="needs trackio to be missing")
def test_a_missing_tracker_is_named_with_its_install_line():
    with pytest.raises(InputError, match="report_to='trackio' needs the package: pip install trackio"):
        TrainingArguments(max_train_steps=1, report_to="trackio")


def test_a_mistake_on_the_command_line_is_one_line(tmp_path, capsys):
    def message(*argv):
        with pytest.raises(SystemExit) as stop:
            parse_arguments([*argv, "--max_train_steps=1"])
        assert stop.value.code == 2
        return capsys.readouterr().err

    assert "did you mean 'learning_rate'?" in message("--config", write_yaml(tmp_path, lerning_rate=1))
    assert "must have a single value" in message("--config", write_yaml(tmp_path, batch_size=[1, 2]))
    assert "Invalid value for '--batch_size'" in message("--config", write_yaml(tmp_path, batch_size="many"))
    assert "Cannot read the options in nowhere.yaml" in message("--config", "nowhere.yaml")
    assert "preset='mnist' is not one of 'cifar10'" in message("--preset", "mnist")
    assert "There is no option --lerning_rate; did you mean --learning_rate?" in message("--lerning_rate=1")
    assert "seed=-1 is not allowed: it must be at least 0" in message("--seed=-1")
    (tmp_path / "list.yaml").write_text("- 1\n", encoding="utf-8")
    assert "must hold lines" in message("--config", str(tmp_path / "list.yaml"))
