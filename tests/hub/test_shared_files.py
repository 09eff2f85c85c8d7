"""A push publishes the files that a model needs, without other files, secrets and private paths."""

import json

import pytest
import yaml
from diffusers import DDPMPipeline, DDPMScheduler
from hub_server import TOKEN

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.errors import InputError
from ddpm_hf.hub.background import BackgroundPush
from ddpm_hf.hub.push import Target, push_folder
from ddpm_hf.hub.retries import Patience
from ddpm_hf.hub.shared_files import files_left_out, files_to_share
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.run_folder import check_run_folder, write_arguments

OF_A_MODEL = {
    *("model_index.json", "pipeline.py", "scheduler/scheduler_config.json"),
    *("unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
}
# Put together here, so that the tests hold none of them as a whole.
SECRETS = {
    "a token of the Hub": "hf_" + "Ab1" * 12,
    "a key of AWS": "AKIA" + "ABCDEFGH12345678",
    "a token of GitHub": "ghp_" + "a1B2" * 9,
    "a key of OpenAI": "sk-proj-" + "a1B2" * 12,
    "a private key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nAAAA",
    "a line of .netrc": "machine api.wandb.ai\n  login user\n  password 0123",
    "a password in an address": "https://jane:" + "geheim@example.org/data",
}


@pytest.fixture
def folder(tmp_path, tiny_unet):
    GaussianDiffusionPipeline(tiny_unet(), GaussianDiffusionScheduler()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def add(folder, *names, content="x"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


def test_only_what_a_model_needs_is_shared(folder):
    needed = ["LICENSE", "loss.csv", "loss.png", "samples/step-000002.png", "samples_ddim.png"]
    add(folder, *needed)
    others = [".env", ".netrc", "wandb/run/config.json", "explore.ipynb", "data.parquet", "unet/notes.txt", "notes.md"]
    others += ["samples/faces/jane.png", "train.py", "unet/train.py", "compare.md", "other/config.json", "key.png"]
    add(folder, *others)
    add(folder, "checkpoints/step-2/model.safetensors", "ema_snapshots/a.safetensors", "logs/events", "loss.tmp.csv")
    assert set(files_to_share(folder)) == OF_A_MODEL | set(needed)
    assert files_left_out(folder) == sorted(others)


def test_pictures_that_the_card_shows_are_shared(folder):
    add(folder, "figures/faces.png", "figures/other.png", "figures/wide.jpg", "figures/secret.csv")
    card = '![faces](figures/faces.png) <img src="./figures/wide.jpg"> [data](figures/secret.csv)'
    (folder / "README.md").write_text(card, encoding="utf-8")
    assert set(files_to_share(folder)) == OF_A_MODEL | {"README.md", "figures/faces.png", "figures/wide.jpg"}


def test_code_is_shared_where_the_index_names_it(tmp_path, stock_unet):
    DDPMPipeline(stock_unet, DDPMScheduler()).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text(encoding="utf-8"))
    index |= {"_class_name": ["my_pipeline", "Mine"], "unet": ["my_unet", "MyUNet"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    add(tmp_path, "my_pipeline.py", "unet/my_unet.py", "scheduler/my_unet.py", "unet/other.py")
    assert {name for name in files_to_share(tmp_path) if name.endswith(".py")} == {"my_pipeline.py", "unet/my_unet.py"}


@pytest.mark.parametrize("link", ["key", "unet/key.json", "samples/a.png", "unet", "wandb/key"])
def test_a_link_that_leaves_the_folder_is_refused(hub, folder, tmp_path, link):
    (tmp_path / "id_rsa").write_text("private", encoding="utf-8")
    target = tmp_path / "id_rsa"
    if (folder / link).exists():  # a whole component that lies elsewhere
        (folder / link).rename(tmp_path / "elsewhere")
        target = tmp_path / "elsewhere"
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).symlink_to(target)
    with pytest.raises(InputError, match=f"has {link}, a link to something outside of the folder.* put a copy"):
        push_folder(folder, "someone/model")
    assert hub.repositories == {}


def test_a_link_within_the_folder_is_its_file(folder):
    add(folder, "samples/step-000002.png")
    (folder / "samples.png").symlink_to("samples/step-000002.png")
    assert files_to_share(folder)["samples.png"].read_text(encoding="utf-8") == "x"
    add(folder, "wandb/run/a.log")
    (folder / "wandb" / "latest").symlink_to("run")
    assert "wandb/run/a.log" in files_left_out(folder)
    (folder / "vae").symlink_to("unet")
    with pytest.raises(InputError, match="has vae, a link to a folder: put the folder itself there"):
        files_to_share(folder)


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("name", ["README.md", "loss.csv", "training_args.yaml", "unet/preprocessor_config.json"])
def test_files_with_secrets_are_refused(hub, folder, kind, name):
    content = json.dumps({"note": SECRETS[kind]}) if name.endswith("json") else SECRETS[kind]
    if name.endswith("yaml"):
        write_arguments(TrainingArguments(output_dir=str(folder), max_train_steps=5, dataset=SECRETS[kind]))
    else:
        (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=f"has {name}, which contains {kind}") as refused:
        push_folder(folder, "someone/model", dry_run=True)
    assert SECRETS[kind] not in str(refused.value) and hub.repositories == {}


def test_weights_with_a_secret_in_their_header_are_refused(hub, folder):
    from safetensors.torch import load_file, save_file

    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file), file, {"format": "pt", "note": SECRETS["a token of the Hub"]})
    with pytest.raises(InputError, match="safetensors, which contains a token of the Hub"):
        push_folder(folder, "someone/model")


def test_a_push_in_the_background_with_a_secret_is_logged_and_not_sent(hub, caplog):
    push = BackgroundPush(Target("someone/model", "someone"), Patience(first_wait=0.01))
    push.start({"loss.csv": SECRETS["a key of AWS"].encode()}, "Step 1", "run")
    push.wait()
    assert "run has loss.csv, which contains a key of AWS" in caplog.text and hub.repositories == {}


# Private paths -------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(folder, tmp_path):
    """A run whose data, start and output are in somebody's home."""
    home = tmp_path / "home" / "jane.doe"
    (home / "cats").mkdir(parents=True)
    options = {"output_dir": str(folder), "max_train_steps": 5, "dataset": str(home / "cats"), "init_from": "a/base"}
    write_arguments(TrainingArguments(**options))
    report = {"options": {"model": str(home / "base"), "dataset": str(home / "cats"), "num_images": 9}}
    report |= {"mean_square_epsilon": {"num_images": 9}}
    (folder / "calibration.json").write_text(json.dumps(report), encoding="utf-8")
    settings = {"model": str(home / "run"), "features": str(home / "net"), "data": f"{home}/cats, test, 9 images"}
    comparison = {"distance": "Frechet distance", "settings": settings, "measurements": []}
    (folder / "compare.json").write_text(json.dumps(comparison), encoding="utf-8")
    for file in (folder / "unet" / "config.json", folder / "model_index.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(config | {"_name_or_path": str(home / "start")}), encoding="utf-8")
    return options


def test_what_is_published_names_no_folders_and_the_run_resumes_by_those_that_it_has(hub, folder, trained, tmp_path):
    push_folder(folder, "someone/model")
    (commit,) = hub.repositories["someone/model"].pushed
    assert [
        name for name, content in commit.files.items() if b"jane" in content or str(tmp_path).encode() in content
    ] == []
    options = yaml.safe_load(commit.files["training_args.yaml"])
    assert (options["dataset"], options["output_dir"], options["init_from"]) == ("cats", "model", "a/base")
    assert options["environment"]["local"] == ["cats", "model"]
    assert json.loads(commit.files["calibration.json"])["options"]["model"] == "base"
    assert json.loads(commit.files["compare.json"])["settings"]["data"] == "cats, test, 9 images"
    assert json.loads(commit.files["unet/config.json"])["_name_or_path"] == "start"
    check_run_folder(TrainingArguments(**trained))  # which compares with what the folder itself has
    assert not push_folder(folder, "someone/model").changes


def test_without_private_paths_a_file_is_shared_as_it_is(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    write_arguments(TrainingArguments(output_dir="model", max_train_steps=5, dataset="someone/cats"))
    assert files_to_share(folder)["training_args.yaml"] == folder / "training_args.yaml"


# The dry run ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_without_a_token_says_what_would_be_shared(hub, folder, monkeypatch):
    add(folder, ".env", content="KEY=1")
    monkeypatch.setenv("HF_TOKEN", "")
    dry = push_folder(folder, "someone/model", dry_run=True)
    assert set(dry.changes.new) == OF_A_MODEL | {"README.md"} and dry.left_out == (".env",)
    assert "left out           .env, which is no part of the model" in str(dry) and hub.requests == []
    with pytest.raises(InputError, match="no token"):
        push_folder(folder, "someone/model")
    with pytest.raises(InputError, match="is not a name for a repository"):
        push_folder(folder, "a/b/c", dry_run=True)


def test_a_folder_with_many_files_that_stay_is_one_line(hub, folder):
    add(folder, "unet/notes.txt", *(f"wandb/{i}.log" for i in range(6)))
    lines = [
        line.split(maxsplit=2)[2]
        for line in str(push_folder(folder, "someone/model", dry_run=True)).splitlines()
        if "left out" in line
    ]
    assert lines == [f"{what}, which is no part of the model" for what in ("unet/notes.txt", "wandb/ with 6 files")]


def test_a_token_that_is_given_is_used_and_never_shown(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    pushed = push_folder(folder, "someone/model", token=TOKEN)
    assert len(hub.repositories["someone/model"].pushed) == 1
    assert TOKEN not in repr(pushed) + str(pushed)
