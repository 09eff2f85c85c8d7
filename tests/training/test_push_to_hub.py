"""`--push_to_hub` pushes the model at every save, and failures of the Hub do not stop training."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN, Fault, running_hub
from huggingface_hub import ModelCard

from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.errors import InputError
from ddpm_hf.hub.background import BackgroundPush
from ddpm_hf.hub.push import Target
from ddpm_hf.hub.retries import Patience
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.train import train

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def options(image_folder, tiny_pipeline, tmp_path):
    return {
        **{"dataset": image_folder, "init_from": tiny_pipeline, "output_dir": str(tmp_path / "run")},
        **{"max_train_steps": 3, "batch_size": 4, "num_samples": 1, "sample_steps": 1, "sample_every": 2},
        **{"push_to_hub": True, "hub_model_id": "someone/model"},
    }


def load(commit, folder):
    for path, content in commit.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return GaussianDiffusionPipeline.from_pretrained(folder)


def test_every_save_is_a_commit_that_loads(hub, options, tmp_path):
    folder = train(TrainingArguments(**options))
    saved, final = hub.repositories["someone/model"].pushed
    assert (saved.summary, final.summary) == ("Step 2 of 3", "Add the trained model")
    assert {"README.md", "training_args.yaml", "samples/step-000002.png", "pipeline.py"} <= saved.files.keys()
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    shared = {name: path.read_bytes() for name, path in files.items() if not name.startswith("checkpoints")}
    assert final.files.keys() == shared.keys() and not (folder / "pushed.tmp").exists()
    # The folder's own names the data by the path that the run resumes with.
    assert {name for name in shared if final.files[name] != shared[name]} == {"training_args.yaml"}
    assert (
        b"dataset: images" in final.files["training_args.yaml"]
        and b"output_dir: run" in final.files["training_args.yaml"]
    )
    for commit in (saved, final):
        assert not any(str(tmp_path).encode() in content for content in commit.files.values())
    assert not any(TOKEN.encode() in content for content in final.files.values())
    early, last = load(saved, tmp_path / "early"), load(final, tmp_path / "last")
    assert not torch.equal(early.unet.conv_in.weight, last.unet.conv_in.weight)
    assert last(num_inference_steps=2).images[0].size == (8, 8)
    card = ModelCard.load(folder / "README.md")
    assert 'from_pretrained("someone/model")' in card.text and "samples/step-000003.png" in card.text
    assert "batch_size: 4" in card.text

    train(TrainingArguments(**options))  # finished, and pushed: nothing is left to do
    assert len(hub.repositories["someone/model"].pushed) == 2


def test_a_push_that_fails_is_logged_and_the_next_tries_again(hub, options, caplog):
    hub.faults.append(Fault("commit", 403))
    train(TrainingArguments(**options))
    (final,) = hub.repositories["someone/model"].pushed
    assert final.summary == "Add the trained model"
    assert "Step 2 of 3 was not pushed, and the next save tries again" in caplog.text and TOKEN not in caplog.text


def test_the_final_push_that_fails_is_one_sentence_with_the_model_kept(hub, options):
    hub.faults.append(Fault("commit", 403, nth=1, times=9))
    with pytest.raises(
        InputError, match="403 Forbidden: a fault on demand.*ddpm-hf push .*run someone/model` goes on"
    ):
        train(TrainingArguments(**options))
    assert GaussianDiffusionPipeline.from_pretrained(options["output_dir"])


def test_one_push_at_a_time_and_nobody_waits_for_it(hub, caplog):
    hub.faults.append(Fault("validate_yaml", "slow", seconds=0.5))
    push = BackgroundPush(Target("someone/model", "someone"), Patience(first_wait=0.01))
    started = time.monotonic()
    push.start({"README.md": b"---\nlicense: mit\n---\n", "model_index.json": b"{}"}, "Step 1", "run")
    assert time.monotonic() - started < 0.4 and push.is_busy
    push.wait()
    assert not push.is_busy and hub.repositories["someone/model"].pushed[0].summary == "Step 1"
    assert caplog.records == []


@pytest.mark.parametrize("token, message", [("hf_wrong", "does not accept the token"), ("", "no token")])
def test_a_token_that_will_not_do_shows_before_the_training(hub, options, monkeypatch, token, message):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match=message) as refused:
        train(TrainingArguments(**options))
    assert "hf auth login" in str(refused.value) and "hf_wrong" not in str(refused.value)
    assert not os.path.exists(options["output_dir"])


@pytest.mark.slow
def test_two_processes_end_to_end(options, tmp_path):
    """`accelerate launch`: one repository, pushed by one process, that loads and draws in a process without the package."""
    flags = [f"--{name}={value}" for name, value in (options | {"max_train_steps": 6, "checkpoint_every": 3}).items()]
    # With --cpu the launcher starts several processes only where an MPI is installed; with --multi_gpu it does anywhere.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--main_process_port", "0"]
    with running_hub() as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "hf")}
        hub.faults += [Fault("commit", 503), Fault("commit", "lost", nth=3), Fault("lfs_upload", 500, nth=2)]
        command = [*launch, str(ROOT / "training" / "train.py"), *flags]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert hub.requests.count("create_repo") == 1
        commits = hub.repositories["someone/model"].pushed
        assert commits[-1].summary == "Add the trained model"
        code = (
            "import sys; sys.modules['ddpm_hf'] = None\n"
            "from diffusers import DiffusionPipeline as P\n"
            "r = 'someone/model'\n"
            "print(type(P.from_pretrained(r)).__name__)\n"
            "p = P.from_pretrained(r, custom_pipeline=r, trust_remote_code=True)\n"
            "print(type(p).__name__, p(num_inference_steps=2).images[0].size)\n"
        )
        loaded = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.split("\n")[:2] == ["DDPMPipeline", "GaussianDiffusionPipeline (8, 8)"]
    assert TOKEN not in done.stdout + done.stderr
    assert len({commit.summary for commit in commits}) == len(commits)
