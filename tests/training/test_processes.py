"""Images, loss curve and updates are the same however a batch is spread over processes."""

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from diffusers import DiffusionPipeline
from diffusers.training_utils import EMAModel
from PIL import Image
from recorded_training import train as train_recorded
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.distributed import LONGEST_WAIT, join_processes, own_part
from ddpm_hf.errors import InputError
from ddpm_hf.reports.loss_curve import read_rows
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.batch_seeds import seed_batch
from ddpm_hf.training.checkpoints import list_checkpoints
from ddpm_hf.training.run_setup import make_accelerator
from ddpm_hf.training.samples import _draw, draw_samples
from ddpm_hf.training.sharding import SavedWhole
from ddpm_hf.training.train import train

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "training" / "configs" / "accelerate"
ON_TWO = ("--num_processes", "2", "--mixed_precision", "no")


@pytest.fixture
def launch():
    """launch("multi_cpu", *arguments): runs `accelerate launch` with a configuration of ours."""

    def start(config, *arguments):
        command = [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            str(CONFIGS / f"{config}.yaml"),
        ]
        # Beside other tests, the usual port may be taken.
        port = () if "--main_process_port" in arguments else ("--main_process_port", str(free_port()))
        return subprocess.Popen(
            [*command, *port, *arguments],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(config, *arguments):
        return finished(start(config, *arguments))

    run.start = start
    return run


def finished(process):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# Which part is whose -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "processes"), [(10, 1), (10, 3), (2, 4), (64, 8), (0, 2)])
def test_parts_are_the_whole_and_none_is_larger_than_the_first(total, processes):
    parts = [own_part(total, SimpleNamespace(process_index=i, num_processes=processes)) for i in range(processes)]
    assert [place for part in parts for place in part] == list(range(total))
    assert max(map(len, parts)) == len(parts[0]) <= -(-total // processes)


def test_random_numbers_are_those_of_the_place():
    def drawn(seed, place):
        seed_batch(seed, place)
        return torch.randn(3).tolist()

    assert drawn(0, 5) == drawn(0, 5)
    assert len({tuple(drawn(seed, place)) for seed in (0, 1) for place in (0, 1, 2)}) == 6


def test_samples_of_parts_are_those_of_the_whole(tiny_unet, make_accelerator):
    pipeline = GaussianDiffusionPipeline(tiny_unet(num_classes=3), GaussianDiffusionScheduler())
    args = TrainingArguments(unet="small_32", max_train_steps=1, num_samples=5, sample_steps=2, seed=7)
    whole = _draw(pipeline, range(5), args, lambda: False, None)
    parts = [
        image
        for index in (0, 1)
        for image in _draw(
            pipeline,
            own_part(5, SimpleNamespace(process_index=index, num_processes=2)),
            args,
            lambda: False,
            None,
        )
    ]
    difference = np.stack([np.asarray(a).astype(int) - np.asarray(b) for a, b in zip(whole, parts, strict=True)])
    assert np.abs(difference).max() <= 1  # rounding to 8 bits
    assert len({image.tobytes() for image in whole}) == 5
    drawn = [
        draw_samples(pipeline, make_accelerator(), replace(args, batch_size=batch_size), 5) for batch_size in (2, 5)
    ]
    first, second = (np.stack([np.asarray(image) for image in images]).astype(int) for images in drawn)
    assert len(first) == 5 and np.abs(first - second).max() <= 1


def test_processes_wait_for_one_that_works_alone(monkeypatch):
    variables = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    join_processes("cpu")
    try:
        group = torch.distributed.group.WORLD
        assert group._get_backend(torch.device("cpu")).options._timeout == LONGEST_WAIT
    finally:
        torch.distributed.destroy_process_group()


# Configurations ------------------------------------------------------------------------------------------------------


def test_every_configuration_says_what_it_is_for_and_is_in_the_guide(monkeypatch):
    guide = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    files = sorted(CONFIGS.glob("*.yaml"))
    assert len(files) == 7
    for file in files:
        assert file.read_text(encoding="utf-8").startswith("# ")
        assert f"`{file.name}`" in guide
        config = load_config_from_file(str(file))
        assert config.num_processes >= config.num_machines >= 1
    assert load_config_from_file(str(CONFIGS / "fsdp2.yaml")).fsdp_config["fsdp_version"] == 2
    assert load_config_from_file(str(CONFIGS / "deepspeed_zero2.yaml")).deepspeed_config["zero_stage"] == 2


def test_the_precision_is_that_of_the_launcher_unless_it_is_given(monkeypatch):
    assert TrainingArguments(max_train_steps=1).mixed_precision == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert TrainingArguments(max_train_steps=1).mixed_precision == "bf16"
    assert TrainingArguments(max_train_steps=1, mixed_precision="no").mixed_precision == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(InputError, match="mixed_precision='fp8' is not one of"):
        TrainingArguments(max_train_steps=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixed_precision": "fp16"}, "mixed_precision='fp16' is not supported with DeepSpeed"),
        ({"channels_last": "yes"}, "channels_last='yes' does not go with DeepSpeed"),
        (
            {"train_head_only": True, "variance_head": "npr", "init_from": "model"},
            r"train_head_only does not go with DeepSpeed: leave it out, or train with multi_gpu.yaml",
        ),
    ],
)
def test_what_an_engine_cannot_do_is_refused_before_it_starts(monkeypatch, options, message):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(InputError, match=message):
        make_accelerator(TrainingArguments(max_train_steps=1, **options))


def test_a_sharded_average_is_whole_in_a_checkpoint(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh, weight = init_device_mesh("cpu", (1,)), torch.arange(6.0).view(3, 2)
        first, second = (EMAModel([distribute_tensor(w, mesh)]) for w in (weight, torch.zeros(3, 2)))
        first.optimization_step = 5
        saved, saved_elsewhere = (SavedWhole(first, is_main_process=is_main) for is_main in (True, False))
        for part in (saved, saved_elsewhere):
            part.gather()
        state = saved.state_dict()
        assert type(state["shadow_params"][0]) is torch.Tensor
        SavedWhole(second, is_main_process=True).load_state_dict(state)
        assert isinstance(second.shadow_params[0], DTensor) and second.optimization_step == 5
        assert torch.equal(second.shadow_params[0].full_tensor(), weight)
        assert saved_elsewhere.state_dict()["shadow_params"] == [None]
    finally:
        torch.distributed.destroy_process_group()


# The same training ---------------------------------------------------------------------------------------------------


def recorded(folder, name, **options):
    train_recorded(folder, name, **options)
    return torch.load(folder / f"{name}.pt")


def assert_same_training(run, other, tolerance=1e-5):
    """The same images, and curves, in every update, and weights and averages that agree after each."""
    assert len(run) == len(other) == 4
    for update, expected in zip(run, other, strict=True):
        for key in ("rows", "lr", "ema_decay"):
            assert update[key] == expected[key]
        for key in ("weights", "averages"):
            difference = max((a - b).abs().max().item() for a, b in zip(update[key], expected[key], strict=True))
            assert difference <= tolerance, (key, difference)


def size_of_updates(run):
    """How far the weights have moved: weights that agree to 1e-5 must have moved by much more."""
    return max((a - b).abs().max().item() for a, b in zip(run[0]["weights"], run[-1]["weights"], strict=True))


def test_accumulation_is_a_larger_batch(tmp_path):
    one = recorded(tmp_path, "one", noise="given", batch_size=8)
    two = recorded(tmp_path, "two", noise="given", batch_size=4, gradient_accumulation_steps=2)
    assert_same_training(two, one)
    assert size_of_updates(one) > 1e-3
    assert [update["lr"] for update in one[:3]] == [0, 5e-4, 1e-3]


@pytest.fixture
def alone(tmp_path):
    """The runs that several processes must equal: one process with as large a batch, and with as many batches."""
    given = recorded(tmp_path, "given_alone", noise="given", batch_size=32)
    drawn = recorded(tmp_path, "drawn_alone", batch_size=16, gradient_accumulation_steps=2)
    return given, drawn


RUNS = [{"name": "given", "noise": "given", "batch_size": 16}, {"name": "drawn", "batch_size": 16}]


def assert_same_as_alone(folder, alone):
    given, drawn = (torch.load(folder / f"{name}.pt") for name in ("given", "drawn"))
    assert_same_training(given, alone[0])
    # Nothing was handed in: noise, timesteps, flips, dropped labels and dropout are those of the batch's place.
    assert_same_training(drawn, alone[1])
    assert size_of_updates(given) > 1e-3 and size_of_updates(drawn) > 1e-3
    grids = [np.asarray(Image.open(folder / name / "samples/step-000002.png")) for name in ("drawn", "drawn_alone")]
    assert np.abs(grids[0].astype(int) - grids[1]).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("config", ["multi_cpu", "fsdp2", "deepspeed_zero2"])
def test_two_processes_are_a_larger_batch(tmp_path, launch, alone, config):
    if config == "deepspeed_zero2" and find_spec("deepspeed") is None:
        pytest.skip("needs deepspeed")
    script = Path(__file__).with_name("recorded_training.py")
    launch(config, *ON_TWO, str(script), str(tmp_path), json.dumps(RUNS))
    assert_same_as_alone(tmp_path, alone)


@pytest.mark.slow
def test_two_machines_are_two_processes(tmp_path, launch, alone):
    """Two launchers that meet on loopback."""
    script = Path(__file__).with_name("recorded_training.py")
    port = ("--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port()))
    machines = [
        launch.start(
            "multi_machine",
            *("--num_machines", "2", "--machine_rank", str(rank), *ON_TWO, *port),
            *(str(script), str(tmp_path), json.dumps(RUNS)),
        )
        for rank in (0, 1)
    ]
    for machine in machines:
        finished(machine)
    assert_same_as_alone(tmp_path, alone)


# The whole way -------------------------------------------------------------------------------------------------------


@pytest.fixture
def options(tmp_path, image_folder, tiny_pipeline):
    return {
        **{"dataset": image_folder, "init_from": tiny_pipeline, "max_train_steps": 4, "learning_rate": 1e-3},
        **{"log_every": 2, "checkpoint_every": 2, "num_samples": 3, "sample_steps": 2, "max_grad_norm": 0.01},
    }


def flags(options):
    return [f"--{name}={value}" for name, value in options.items()]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["multi_cpu", "fsdp2", "deepspeed_zero2"])
def test_engines_train_save_resume_and_export(tmp_path, launch, options, config):
    if config == "deepspeed_zero2" and find_spec("deepspeed") is None:
        pytest.skip("needs deepspeed")
    script, run = str(REPOSITORY / "training" / "train.py"), options | {"output_dir": str(tmp_path / "run")}
    launch(config, *ON_TWO, script, *flags(run | {"batch_size": 4}))
    assert (tmp_path / "run/checkpoints/step-000004").is_dir()
    launch(config, *ON_TWO, script, *flags(run | {"batch_size": 4, "max_train_steps": 7}))
    assert [row["step"] for row in read_rows(tmp_path / "run/loss.csv")] == [2, 4, 6, 7]
    # One process that was never stopped.
    whole = options | {"output_dir": str(tmp_path / "whole"), "batch_size": 4, "gradient_accumulation_steps": 2}
    train(TrainingArguments(**whole | {"max_train_steps": 7}))
    unets = [DiffusionPipeline.from_pretrained(tmp_path / name).unet for name in ("run", "whole")]
    for a, b in zip(*(unet.parameters() for unet in unets), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    losses = [[row["loss"] for row in read_rows(tmp_path / name / "loss.csv")] for name in ("run", "whole")]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["cpu", "multi_cpu"])
def test_the_preset_trains_with_every_configuration_of_a_cpu(tmp_path, launch, config):
    changes = {
        "max_train_steps": 2,
        "batch_size": 4,
        "num_samples": 2,
        "sample_steps": 2,
        "output_dir": tmp_path / "run",
    }
    script = str(REPOSITORY / "training" / "train.py")
    output = launch(config, script, "--preset", "fashion_mnist", *flags(changes))
    assert re.search(r"length +2 updates of \d+ images.*, on cpu", output)
    assert DiffusionPipeline.from_pretrained(tmp_path / "run").unet.config.sample_size == 28


# One process fails ---------------------------------------------------------------------------------------------------

FULL_DISK = """
import os, sys
from kill_training import limit_files, on_file_operations
from ddpm_hf.training.train import main

folder, rank, *flags = sys.argv[1:]
if os.environ["RANK"] == rank:
    on_file_operations(folder, lambda number, what: limit_files(5000) if what.endswith("step-000004.tmp") else None)
main(flags)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "rank"),
    [("multi_cpu", 0), ("multi_cpu", 1), ("fsdp2", 0), ("fsdp2", 1), ("deepspeed_zero2", 0), ("deepspeed_zero2", 1)],
)
def test_a_disk_that_is_full_for_one_process_ends_all(tmp_path, launch, options, monkeypatch, config, rank):
    if config == "deepspeed_zero2" and find_spec("deepspeed") is None:
        pytest.skip("needs deepspeed")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "tests"))
    script, run = tmp_path / "script.py", tmp_path / "run"
    script.write_text(FULL_DISK, encoding="utf-8")
    arguments = flags(options | {"output_dir": str(run), "batch_size": 4})
    process = launch.start(config, *ON_TWO, str(script), str(run), str(rank), *arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    sentence = f"train: error: The checkpoint of step 4 cannot be written in {run}/checkpoints ("
    # DeepSpeed leaves it to the launcher to end the other one.
    assert sentence in output if config == "deepspeed_zero2" else output.count(sentence) == 2, output
    assert "The checkpoint of step 2 stands: make room, or repair the disk" in output[output.index(sentence) :]
    assert list(list_checkpoints(run)) == [2]


APART = """
import os, sys
from ddpm_hf.training import run_folder
from ddpm_hf.training.train import main

os.chdir(os.path.join(sys.argv[1], os.environ["RANK"]))
run_folder.SECONDS_UNTIL_SEEN = 1
main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "output_dir='run' must be on a disk that all machines share"),
        ({"split": "night"}, "Cannot read split 'night' of dataset="),
    ],
)
def test_what_one_process_finds_wrong_ends_all(tmp_path, launch, options, changes, message):
    """Two that do not see the same folder, as on machines without a shared disk; and an error of the main process."""
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
    (tmp_path / "script.py").write_text(APART, encoding="utf-8")
    arguments = flags(options | {"output_dir": "run", "batch_size": 4} | changes)
    process = launch.start("multi_cpu", *ON_TWO, str(tmp_path / "script.py"), str(tmp_path), *arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert output.count(f"train: error: {message}") == 2, output
