"""Command lines of diffusers' train_unconditional.py."""

import dataclasses
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from diffusers import DDPMPipeline
from PIL import Image

from ddpm_hf.training.argument_parsing import parse_arguments
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.diffusers_flags import REFUSED, SAME, ScriptFlags
from ddpm_hf.training.train import main

GUIDE = Path(__file__).parents[2] / "docs" / "training.md"
# The command line is from the README of diffusers' examples/unconditional_image_generation; what needs the Hub is left out.
README = """
  --dataset_name="DATA" \
  --resolution=64 --center_crop --random_flip \
  --output_dir="ddpm-ema-flowers-64" \
  --train_batch_size=16 \
  --num_epochs=100 \
  --gradient_accumulation_steps=1 \
  --use_ema \
  --learning_rate=1e-4 \
  --lr_warmup_steps=500 \
  --mixed_precision=no \
  --push_to_hub
"""


@pytest.fixture
def photographs(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "flowers").mkdir()
    for i in range(4):
        pixels = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "flowers" / f"{i}.png")
    return tmp_path / "flowers"


def test_the_command_line_of_the_readme_means_here_what_it_means_there(photographs):
    args = parse_arguments(shlex.split(README.replace("DATA", str(photographs))))
    assert (args.dataset, args.resolution, args.batch_size) == (str(photographs), 64, 16)
    assert args.center_crop and args.random_flip and args.push_to_hub
    assert (args.num_epochs, args.max_train_steps, args.learning_rate) == (100, None, 1e-4)
    assert (args.lr_warmup_steps, args.gradient_accumulation_steps, args.mixed_precision) == (500, 1, "no")
    assert args.output_dir == "ddpm-ema-flowers-64"


@pytest.mark.slow
def test_the_command_line_of_the_readme_trains_a_model(photographs, tmp_path, monkeypatch):
    """With the script's name changed, data of this machine, one epoch for a hundred, and images of 16x16."""
    monkeypatch.chdir(tmp_path)
    line = README.replace("DATA", "flowers").replace("=100", "=1").replace("--push_to_hub", "")
    line = line.replace("=64", "=16").replace("train_batch_size=16", "train_batch_size=2")
    more = "--save_images_epochs=1 --ddpm_num_steps=20 --ddpm_num_inference_steps=2 --eval_batch_size=4"
    more += " --checkpointing_steps=1 --checkpoints_total_limit=1 --logging_dir=curves --cache_dir=cache"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", None)
    main(shlex.split(f"{line} {more}"))
    folder = tmp_path / "ddpm-ema-flowers-64"
    pipeline = DDPMPipeline.from_pretrained(folder)
    assert pipeline.unet.config.sample_size == 16 and len(pipeline.scheduler) == 20
    stored = yaml.safe_load((folder / "training_args.yaml").read_text(encoding="utf-8"))
    assert (stored["sample_every"], stored["save_images_epochs"]) == (2, None)
    assert Image.open(next((folder / "samples").glob("*.png"))) and (tmp_path / "cache").is_dir()


@pytest.mark.parametrize(("theirs", "ours"), SAME.items())
def test_every_flag_of_the_same_meaning_is_an_option_of_ours(theirs, ours):
    fields = {field.name: field for field in dataclasses.fields(TrainingArguments)}
    assert ours in fields
    assert theirs not in fields


@pytest.mark.parametrize("theirs", REFUSED)
def test_what_has_no_counterpart_says_what_to_do(theirs, capsys):
    with pytest.raises(SystemExit):
        parse_arguments([f"--{theirs.replace('_', '-')}"])
    assert f"train: error: There is no option --{theirs}: {REFUSED[theirs]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--use_ema", "false"], "give --ema_decay 0 for no average"),
        (["--no-use-ema"], "give --ema_decay 0 for no average"),
        (["--resume_from_checkpoint", "checkpoint-500"], "continues at the newest checkpoint in its --output_dir"),
        (["--dataset_name=a/b", "--train_data_dir=c"], "--dataset_name and --train_data_dir are the same option"),
        (["--save_images_epochs=1", "--sample_every=5"], "both say when samples are drawn"),
        (["--save_images_epochs=1", "--streaming"], "cannot be counted with streaming"),
        (["--save_images_epochs=0"], "save_images_epochs=0.0 is not allowed: it must be greater than 0"),
        (["--train_batch_sise=4"], "did you mean --train_batch_size?"),
    ],
)
def test_what_is_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--max_train_steps=1", *flags])
    assert message in capsys.readouterr().err


def test_the_token_is_used_and_not_recorded(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "another")
    args = parse_arguments(["--max_train_steps=1", "--hub_token=hf_mine", "--resume_from_checkpoint=latest"])
    assert os.environ["HF_TOKEN"] == "hf_mine"
    assert "hf_mine" not in str(vars(args))


def test_the_guide_lists_every_flag():
    """The table of docs/training.md has each flag of the script with the option of ours."""
    rows = dict(re.findall(r"^\| `--(\w+)` \| `?-?-?(\w+)", GUIDE.read_text(encoding="utf-8"), flags=re.M))
    assert SAME.items() <= rows.items()
    assert {*REFUSED, *(field.name for field in dataclasses.fields(ScriptFlags))} <= rows.keys()
