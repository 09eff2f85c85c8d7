"""For a model that cannot be read, every command says in one sentence why, and what to do."""

import json
import multiprocessing
import re
import resource
import sys

import pytest
from diffusers import (
    CMStochasticIterativeScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    RePaintScheduler,
)
from hub_server import OTHER_TOKEN, TOKEN, Fault

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, cli
from ddpm_hf.errors import InputError
from ddpm_hf.hub.model_folder import load_pipeline

TAKEN = "Give a pipeline folder or a Hub id of a DDPM of images"


@pytest.fixture
def folder(tmp_path, tiny_unet):
    GaussianDiffusionPipeline(tiny_unet(), GaussianDiffusionScheduler()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def shared(hub, folder, tmp_path):
    """A Hub with a public and a private model, one of another kind of diffusion, one of text, and damaged ones."""
    hub.add("someone/model", folder)
    hub.add("someone/private", folder, private=True)
    latent = {"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"], "unet": ["diffusers", "UNet2DModel"]}
    kinds = {"latent": {"model_index.json": latent}, "text": {"config.json": {"model_type": "bert"}}}
    for name, files in kinds.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(json.dumps(content), encoding="utf-8")
        hub.add(f"someone/{name}", tmp_path / name)
    config, weights = (
        folder / "scheduler" / "scheduler_config.json",
        folder / "unet" / "diffusion_pytorch_model.safetensors",
    )
    content = config.read_text(encoding="utf-8")
    config.write_text("{", encoding="utf-8")
    hub.add("someone/broken", folder)
    config.write_text(content, encoding="utf-8")
    weights.write_bytes(weights.read_bytes()[:-1])
    hub.add("someone/cut", folder)
    weights.unlink()
    hub.add("someone/half", folder)
    (folder / "model_index.json").write_text("[]", encoding="utf-8")
    hub.add("someone/list", folder)
    return hub


def refusal(model):
    with pytest.raises(InputError) as refused:
        load_pipeline(model)
    message = str(refused.value)
    assert "\n" not in message and "hf_" not in message and message.endswith(".")
    return message


@pytest.mark.parametrize(
    "model, token, said",
    [
        (
            "someone/private",
            "",
            "no public repository someone/private: .* log in with `hf auth login`, or set HF_TOKEN",
        ),
        ("someone/private", OTHER_TOKEN, "no repository someone/private that your token may read"),
        ("someone/private", "hf_wrong", "does not accept the token for reading someone/private: .*`hf auth login`"),
        ("someone/model", "hf_wrong", "does not accept the token .* a public model needs no token"),
        ("someone/none", TOKEN, "no repository someone/none that your token may read: check the name"),
        ("someone/my model", TOKEN, "someone/my model is neither a folder here nor a name of a repository: check"),
        ("no/such/model", TOKEN, "no/such/model is neither a folder here nor a name"),
        ("someone/text", TOKEN, "someone/text holds another kind of model, for it has no model_index.json: give"),
        ("someone/latent", TOKEN, f"it has a vqvae too, so its network does not see images. {TAKEN}"),
        ("someone/half", TOKEN, r"someone/half/unet has a config.json and no weights \(diffusion_pytorch_model"),
        ("someone/cut", TOKEN, "someone/cut/unet/diffusion_pytorch_model.safetensors is cut off or damaged"),
        ("someone/broken", TOKEN, r"someone/broken/scheduler/scheduler_config.json cannot be read \(Expecting"),
        ("someone/list", TOKEN, "someone/list/model_index.json holds a list and not names with values"),
    ],
)
def test_repositories_that_cannot_be_read(shared, monkeypatch, model, token, said):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match=said):
        load_pipeline(model)
    refusal(model)


def test_a_repository_that_can_be(shared, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    assert type(load_pipeline("someone/model")) is GaussianDiffusionPipeline
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert type(load_pipeline("someone/private")) is GaussianDiffusionPipeline


def test_folders_that_are_no_pipelines(folder):
    assert "unet is not a pipeline folder, for it has no model_index.json" in refusal(folder / "unet")


def edited(folder, file, **changes):
    content = json.loads((folder / file).read_text(encoding="utf-8")) | changes
    (folder / file).write_text(json.dumps(content), encoding="utf-8")


BAD_JSON, NOT_UTF8 = b'{"a": ', b'{"a": "\xff"}'


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize(
    "content, said",
    [
        (BAD_JSON, r"cannot be read \(Expecting value: line 1 column 7"),
        (NOT_UTF8, r"cannot be read \('utf-8' codec can't decode byte 0xff in position 7"),
        (b"[1]", "holds a list and not names with values"),
        (b'"DDPMPipeline"', "holds a str and not names with values"),
    ],
)
def test_configs_that_cannot_be_read_are_named(folder, file, content, said):
    (folder / file).write_bytes(content)
    with pytest.raises(InputError, match=f"^{folder / file} {said}.*restore it, or write it again"):
        load_pipeline(folder)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"_class_name": None}, r"model_index.json names no class of a pipeline \(_class_name=None\)"),
        ({"unet": "UNet2DModel"}, "its model_index.json names no unet"),
        ({"unet": [None, None], "scheduler": 1}, "its model_index.json names no scheduler and no unet"),
    ],
)
def test_an_index_without_its_parts(folder, changes, said):
    edited(folder, "model_index.json", **changes)
    assert re.search(said, refusal(folder))


def test_weights_that_are_missing_or_cut_off_are_named(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    for damaged in (content[:1000], content[:-1], b"", b"x" * 1000):
        weights.write_bytes(damaged)
        assert refusal(folder).startswith(f"{weights} is cut off or damaged")
    weights.unlink()
    assert refusal(folder).startswith(f"{folder / 'unet'} has a config.json and no weights")


@pytest.mark.parametrize("size", ["8", -1, 0, [8], [8, 8, 8], 2.5, [8, "8"], True])
def test_sizes_that_images_cannot_have(folder, size):
    edited(folder, "unet/config.json", sample_size=size)
    assert f"has sample_size={size!r}, which must be a positive whole number, or two" in refusal(folder)


@pytest.mark.parametrize("size", [7, [8, 7]])
def test_sizes_that_a_stock_network_of_two_levels_cannot_halve(folder, size):
    """Stock classes do not check it, and torch stopped in the first call."""
    edited(folder, "unet/config.json", sample_size=size, _class_name="UNet2DModel")
    assert f"has sample_size={size!r}, and a network of 2 levels needs sides divisible by 2" in refusal(folder)


def test_a_rectangle_and_no_size_are_allowed(folder):
    for size in ([8, 16], None):
        edited(folder, "unet/config.json", sample_size=size)
        load_pipeline(folder)


@pytest.mark.parametrize(
    "scheduler",
    [FlowMatchEulerDiscreteScheduler, EDMEulerScheduler, CMStochasticIterativeScheduler, RePaintScheduler],
)
def test_models_of_other_processes(folder, scheduler):
    scheduler().save_pretrained(folder / "scheduler")
    edited(folder, "model_index.json", scheduler=["diffusers", scheduler.__name__])
    assert f"its scheduler, {scheduler.__name__}, is of another process than DDPM. {TAKEN}" in refusal(folder)


def test_a_network_that_fails(shared, monkeypatch):
    shared.faults.append(Fault("resolve", "drop", times=99))
    assert "The Hub cannot be reached to read someone/model" in refusal("someone/model")
    shared.faults[:] = [Fault("resolve", 403, times=99)]
    assert "403 Forbidden" in refusal("someone/model")


def _load_without_room(model, answer):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        load_pipeline(model)
        answer.send("loaded")
    except InputError as error:
        answer.send(str(error))


def test_a_cache_without_room(shared, tmp_path):
    """A limit on the size of files stands for a full disk: the weights are larger, the index and the configs are not."""
    here, there = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=_load_without_room, args=("someone/model", there))
    process.start()
    assert here.poll(60)
    said = here.recv()
    process.join()
    assert said.startswith(f"There is no room to download someone/model to ({tmp_path / 'cache'}): make room there")
    assert (
        type(load_pipeline("someone/model")) is GaussianDiffusionPipeline
    )  # what was half-written is in nobody's way


@pytest.mark.parametrize(
    "command",
    [
        ["sample", "{}", "--output", "new.png"],
        ["interpolate", "{}", "a.png", "b.png", "--output", "new.png"],
        ["edit", "{}", "a.png", "--strength", "0.5", "--output", "new.png"],
        ["calibrate", "{}", "--output_dir", "new"],
        ["evaluate", "{}", "--output", "new"],
        ["compare", "{}", "--features", "features", "--output", "new"],
        ["export", "{}", "--output_dir", "new"],
        ["demo", "{}"],
        ["demo", "{}", "--space", "new"],
    ],
)
def test_every_command_says_it(shared, monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    for given in ("a.png", "b.png"):  # places are looked at before the model
        (tmp_path / given).touch()
    for model, token, said in (
        ("someone/private", "", "log in with"),
        ("someone/text", TOKEN, "another kind of model"),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr(sys, "argv", ["ddpm-hf", *(part.format(model) for part in command)])
        with pytest.raises(SystemExit, match=f"^ddpm-hf: error: .*{said}") as stopped:
            cli.main()
        assert isinstance(stopped.value.code, str)  # which Python prints, and exits with 1
    assert not (tmp_path / "new").exists() and not (tmp_path / "new.png").exists()
