"""Sharing over real HTTP: the client of huggingface_hub, in a process of its own, against a Hub on loopback."""

import os
import subprocess
import sys

import pytest
from diffusers import DiffusionPipeline
from hub_server import TOKEN, running_hub
from huggingface_hub import ModelCard

from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.sharing import write_model_card
from ddpm_hf.training.train import train


@pytest.fixture
def options(image_folder, tiny_pipeline, tmp_path):
    return {
        **{"dataset": image_folder, "init_from": tiny_pipeline, "output_dir": str(tmp_path / "run")},
        **{"max_train_steps": 1, "batch_size": 4, "num_samples": 1, "sample_steps": 1},
    }


@pytest.fixture
def push(options):
    """Runs a training that pushes, as a user would."""

    def run(endpoint, token):
        flags = [f"--{name}={value}" for name, value in options.items()]
        command = [sys.executable, "-m", "ddpm_hf.training.train", *flags, "--push_to_hub"]
        command += ["--hub_model_id", "someone/model"]
        environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    return run


def test_the_card_says_what_the_model_is(options):
    folder = train(TrainingArguments(**options))
    write_model_card(folder, "someone/model")
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "diffusers"
    assert 'from_pretrained("someone/model")' in card.text
    assert "samples/step-000001.png" in card.text
    assert "batch_size: 4" in card.text


def test_a_run_is_one_commit_of_all_that_others_need(push, tmp_path):
    with running_hub() as hub:
        done = push(hub.endpoint, TOKEN)
        assert done.returncode == 0, done.stderr
        (commit,) = hub.repositories["someone/model"]
    files = commit["files"]
    needed = {"model_index.json", "README.md", "training_args.yaml", "loss.csv", "loss.png"}
    needed |= {"scheduler/scheduler_config.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"}
    assert needed <= files.keys()
    assert not any(path.startswith("checkpoints") for path in files)
    assert not any(TOKEN.encode() in content for content in files.values())
    for path, content in files.items():
        copy = tmp_path / "downloaded" / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "downloaded")
    assert pipeline(num_inference_steps=2).images[0].size == (8, 8)


def test_a_refused_token_is_one_sentence_before_the_training(push, options):
    with running_hub() as hub:
        done = push(hub.endpoint, "hf_wrong")
    assert done.returncode == 1
    assert "train: error: push_to_hub is on, but the Hub does not take the model" in done.stderr
    assert "hf auth login" in done.stderr and "hf_wrong" not in done.stderr
    assert not os.path.exists(options["output_dir"])


def test_a_hub_that_cannot_be_reached_is_one_sentence_before_the_training(push, options):
    done = push("http://127.0.0.1:9", TOKEN)  # nothing listens there
    assert done.returncode == 1
    assert "train: error: push_to_hub is on, but the Hub does not take the model" in done.stderr
    assert not os.path.exists(options["output_dir"])
