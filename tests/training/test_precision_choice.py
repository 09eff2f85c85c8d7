"""The precision of a training that is measured: the faster one, kept with the run."""

from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from huggingface_hub import constants
from safetensors.torch import load_file

from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.errors import InputError
from ddpm_hf.execution import gains
from ddpm_hf.training import precision_choice
from ddpm_hf.training.argument_parsing import parse_arguments
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.classifier_arguments import ClassifierArguments
from ddpm_hf.training.precision_choice import precision_for, settle_precision
from ddpm_hf.training.train import train


@pytest.fixture
def options(tmp_path, image_folder, tiny_pipeline):
    return {
        **{"dataset": image_folder, "init_from": tiny_pipeline, "output_dir": str(tmp_path / "run")},
        **{"max_train_steps": 2, "batch_size": 4, "num_samples": 1, "sample_steps": 2, "sample_every": 0},
    }


def kept(folder):
    return yaml.safe_load((folder / "training_args.yaml").read_text(encoding="utf-8"))["mixed_precision"]


def test_what_was_measured_is_said_and_kept_with_the_run(options, capsys):
    folder = train(TrainingArguments(**options, mixed_precision="auto"))
    said = capsys.readouterr().out
    chosen = kept(folder)
    assert f"Precision: {'bf16' if chosen == 'bf16' else 'float32'}, " in said
    if not gains("bf16", torch.device("cpu")):
        assert chosen == "no" and "bf16 is no faster here" in said
    # The same command goes on in the precision that was chosen, whatever would be measured now.
    train(TrainingArguments(**options | {"max_train_steps": 3}, mixed_precision="auto"))
    assert kept(folder) == chosen and "Precision" not in capsys.readouterr().out
    assert GaussianDiffusionPipeline.from_pretrained(folder).unet.dtype == torch.float32


def test_the_precision_is_measured_where_nothing_names_one(monkeypatch):
    assert TrainingArguments(max_train_steps=1).mixed_precision == "no"  # the launcher's
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    assert TrainingArguments(max_train_steps=1).mixed_precision == "auto"
    assert parse_arguments(["--max_train_steps", "1"]).mixed_precision == "auto"
    for named in ("--precision", "--mixed-precision"):
        assert parse_arguments(["--max_train_steps", "1", named, "fp32"]).mixed_precision == "no"
        assert parse_arguments(["--max_train_steps", "1", named, "bf16"]).mixed_precision == "bf16"
    assert ClassifierArguments(max_train_steps=1, model="m").mixed_precision == "auto"


def test_it_is_measured_once_for_each_machine_network_and_batch(options, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(precision_choice, "gains", lambda precision, device: True)
    measured = []
    timed = precision_choice.seconds_per_update
    monkeypatch.setattr(precision_choice, "seconds_per_update", lambda *given: measured.append(1) or timed(*given))
    for number, batch_size in enumerate((4, 4, 2)):
        AcceleratorState._reset_state()
        changes = {"batch_size": batch_size, "output_dir": f"{options['output_dir']}_{number}"}
        train(TrainingArguments(**options | changes, mixed_precision="auto"))
    assert len(measured) == 2 * 2 and capsys.readouterr().out.count("Precision: ") == 3


def test_a_device_that_seems_to_have_no_bf16_is_asked_again(options, monkeypatch, tmp_path):
    """A busy machine may seem so, and the next run must not believe it."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(precision_choice, "WORTHWHILE_GAIN", 0.001)
    for has_bf16, precision in ((False, "no"), (True, "bf16")):
        monkeypatch.setattr(precision_choice, "gains", lambda precision, device, has=has_bf16: has)
        changes = {"output_dir": str(tmp_path / precision)}
        assert kept(train(TrainingArguments(**options | changes, mixed_precision="auto"))) == precision


def test_measuring_leaves_the_run_as_it_would_be(options, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(precision_choice, "WORTHWHILE_GAIN", float("inf"))
    weights = []
    for precision in ("no", "auto"):
        folder = train(
            TrainingArguments(
                **options | {"output_dir": str(tmp_path / precision), "seed": 5}, mixed_precision=precision
            )
        )
        weights.append(load_file(next((folder / "unet").glob("*.safetensors"))))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_failing_trial_leaves_float32(options, monkeypatch, caplog, tmp_path):
    """Some layers have no bf16 on some devices; the run goes on without, and says why."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(precision_choice, "gains", lambda precision, device: True)

    def refused(module, inputs):
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("not implemented for 'BFloat16'\nmore of it")

    hook = torch.nn.modules.module.register_module_forward_pre_hook(refused)
    try:
        folder = train(TrainingArguments(**options, mixed_precision="auto"))
    finally:
        hook.remove()
    assert kept(folder) == "no" and "a trial in it failed (not implemented for 'BFloat16')." in caplog.text


def test_points_are_not_tried(tmp_path, capsys):
    options = {"dataset": "two_moons", "num_points": 64, "unet": "mlp", "num_samples": 4, "sample_steps": 2}
    folder = train(
        TrainingArguments(**options, max_train_steps=1, output_dir=str(tmp_path / "run"), mixed_precision="auto")
    )
    assert kept(folder) == "no" and "Precision" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("gain", "precision", "said"),
    [
        (1.9, "bf16", "trains 1.90 times as fast"),
        (1.15, "no", "trains 1.15 times"),
        (0.0, "no", "bf16 is no faster here"),
    ],
)
def test_a_gain_of_a_fifth_is_worth_it(gain, precision, said):
    chosen, sentence = precision_for(gain)
    assert chosen == precision and said in sentence


def test_a_run_in_the_chosen_precision_learns_as_one_that_names_it(options, monkeypatch):
    """The accelerator that is made anew casts as that of `--mixed_precision bf16`."""
    options |= {"seed": 5}
    named = train(
        TrainingArguments(**options | {"output_dir": options["output_dir"] + "_named"}, mixed_precision="bf16")
    )
    AcceleratorState._reset_state()  # two runs of two precisions are of two processes elsewhere
    monkeypatch.setattr(precision_choice, "WORTHWHILE_GAIN", 0.0)  # so bf16 is chosen on every processor
    chosen = train(TrainingArguments(**options, mixed_precision="auto"))
    assert kept(chosen) == "bf16"
    weights = [load_file(next((folder / "unet").glob("*.safetensors"))) for folder in (named, chosen)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_sharded_networks_are_not_tried():
    accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP)
    args = TrainingArguments(max_train_steps=1, mixed_precision="auto")
    with pytest.raises(InputError, match="mixed_precision='auto' tries the whole network on each device"):
        settle_precision(args, accelerator, None)
