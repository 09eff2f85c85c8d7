"""Pushing over real HTTP, with the client of huggingface_hub against a Hub on loopback."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import TOKEN, Fault

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.errors import InputError
from ddpm_hf.hub.push import push_folder
from ddpm_hf.hub.retries import Patience

AT_ONCE = Patience(first_wait=0.01, silence=5.0)


@pytest.fixture
def folder(tmp_path, tiny_unet):
    GaussianDiffusionPipeline(tiny_unet(), GaussianDiffusionScheduler()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def push(folder, repository="someone/model", **options):
    return push_folder(folder, repository, patience=AT_ONCE, **options)


def local_files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_commit_has_all_files_and_the_same_again_none(hub, folder):
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "state.pt").write_bytes(b"not shared")
    first = push(folder, "model", private=True)
    (commit,) = hub.repositories["someone/model"].pushed
    assert first.url == f"{hub.endpoint}/someone/model/commit/{commit.oid}"
    assert hub.repositories["someone/model"].private
    shared = {k: v for k, v in local_files(folder).items() if not k.startswith("checkpoints")}
    assert commit.files == shared | {"README.md": commit.files["README.md"]}
    hub.requests.clear()
    again = push(folder, "model", private=True)
    assert again.url == first.url and not again.changes
    assert len(hub.repositories["someone/model"].pushed) == 1
    assert not {"lfs_upload", "commit"} & set(hub.requests)


def test_an_answer_that_is_lost_makes_no_second_commit(hub, folder):
    hub.faults.append(Fault("commit", "lost"))
    pushed = push(folder)
    (commit,) = hub.repositories["someone/model"].pushed
    assert pushed.url.endswith(commit.oid) and "unet/config.json" in pushed.changes.new


def test_a_push_that_gave_up_goes_on_where_it_stopped(hub, folder):
    hub.faults.append(Fault("commit", 503, times=3))
    with pytest.raises(InputError, match=r"could not be uploaded to someone/model \(.*503.*goes on where it stopped"):
        push_folder(folder, "someone/model", patience=Patience(attempts=3, first_wait=0.01))
    assert hub.requests.count("commit") == 3 and hub.requests.count("lfs_upload") == 1
    assert hub.repositories["someone/model"].pushed == []
    hub.faults.clear()
    push(folder)
    assert hub.requests.count("lfs_upload") == 1 and len(hub.repositories["someone/model"].pushed) == 1


def test_it_waits_as_long_as_the_hub_asks(hub, folder, caplog):
    hub.faults.append(Fault("commit", 429, retry_after=1))
    started = time.monotonic()
    push(folder)
    assert time.monotonic() - started >= 1
    assert "trying again in 1 s, attempt 2 of 6" in caplog.text and TOKEN not in caplog.text


def test_what_may_not_be_is_not_tried_again(hub, folder):
    hub.faults.append(Fault("commit", 403, times=9))
    with pytest.raises(InputError, match="403 Forbidden"):
        push(folder)
    assert hub.requests.count("commit") == 1


def test_the_model_becomes_what_it_is_here_and_other_files_stay(hub, folder, tmp_path):
    there = tmp_path / "there"
    for name in ("notes.md", "unet/old.safetensors", "unet/config.json", "pipeline.py"):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text(name, encoding="utf-8")
    hub.add("someone/model", there)
    changes = push(folder).changes
    assert changes.removed == ["unet/old.safetensors"] and {"pipeline.py", "unet/config.json"} == set(changes.changed)
    files = hub.repositories["someone/model"].pushed[-1].files
    assert files["notes.md"] == b"notes.md" and "unet/old.safetensors" not in files
    assert files["pipeline.py"] == (folder / "pipeline.py").read_bytes()


def test_a_dry_run_changes_nothing(hub, folder):
    before = local_files(folder)
    dry = push(folder, dry_run=True)
    assert set(dry.changes.new) == set(dry.sizes) == set(before) | {"README.md"}
    assert dry.sizes["pipeline.py"] == len(before["pipeline.py"]) and dry.url is None
    assert hub.repositories == {} and local_files(folder) == before
    push(folder)
    (folder / "scheduler" / "scheduler_config.json").write_text(
        (folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8").replace("0.02", "0.03"),
        encoding="utf-8",
    )
    dry = push(folder, dry_run=True)
    assert dry.changes.changed == ["scheduler/scheduler_config.json"] and dry.changes.new == []
    assert len(hub.repositories["someone/model"].pushed) == 1


def test_a_dry_run_needs_no_token_and_says_what_each_file_is_for(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    (folder / "loss.csv").write_text("step,loss\n1,1.0\n", encoding="utf-8")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    listed = str(push(folder, dry_run=True))
    assert "loss.csv (the loss by update)" in listed and "README.md (the model card)" in listed
    assert "left out           notes.txt" in listed
    assert "To leave out the log of the training (loss.csv), give --no_log." in listed
    without = str(push(folder, dry_run=True, log=False))
    assert "loss.csv" not in without and "--no_log" not in without and hub.repositories == {}


def test_a_licence_once_given_stays(hub, folder):
    push(folder, license="mit")
    assert not push(folder).changes
    assert push(folder, license="apache-2.0").changes.changed == ["README.md"]


def test_a_card_that_was_edited_on_the_hub_stays_until_one_was_edited_here(hub, folder, tmp_path):
    push(folder)
    edited = tmp_path / "edited"
    for name, content in hub.repositories["someone/model"].pushed[-1].files.items():
        (edited / name).parent.mkdir(parents=True, exist_ok=True)
        (edited / name).write_bytes(content.replace(b"*To fill in", b"Filled in") if name == "README.md" else content)
    hub.add("someone/model", edited)
    kept = push(folder, license="mit")
    assert kept.changes.kept == ["README.md"] and not kept.changes
    assert b"Filled in" in hub.repositories["someone/model"].pushed[-1].files["README.md"]
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMine", encoding="utf-8")
    assert push(folder).changes.changed == ["README.md"]
    assert hub.repositories["someone/model"].pushed[-1].files["README.md"].endswith(b"Mine")


def test_branches_and_pull_requests_leave_main_alone(hub, folder):
    push(folder)
    main = hub.repositories["someone/model"].pushed
    push(folder, license="mit", revision="v2")
    offered = push(folder, license="mit", create_pr=True)
    assert (
        push(folder, license="mit", create_pr=True).url == offered.url == f"{hub.endpoint}/someone/model/discussions/1"
    )
    repository = hub.repositories["someone/model"]
    assert repository.pushed == main and set(repository.refs) == {"main", "v2", "refs/pr/1"}
    for revision in ("v2", "refs/pr/1"):
        assert b"license: mit" in repository.find(revision).files["README.md"]


@pytest.mark.parametrize(
    "options, token, message",
    [
        ({}, "", "no token .*hf auth login"),
        ({}, "hf_wrong", "does not accept the token"),
        ({"repository": "a/b/c"}, TOKEN, "'a/b/c' is not a name"),
        ({"repository": "other/model"}, TOKEN, "other/model is not yours .*--create_pr"),
        ({"create_pr": True, "revision": "v2"}, TOKEN, "leave out revision='v2'"),
    ],
)
def test_what_is_refused_before_anything_is_sent(hub, folder, monkeypatch, options, token, message):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match=message) as refused:
        push(folder, **options)
    assert "\n" not in str(refused.value) and "hf_wrong" not in str(refused.value)
    assert hub.repositories == {}


@pytest.mark.slow
def test_every_fault(tmp_path):
    """The tables of docs/sharing.md: nothing lost, nothing half-written."""
    command = [sys.executable, str(Path(__file__).parent.parent / "push_faults.py"), str(tmp_path / "rows.json")]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    for row in found["faults"]:
        assert row["only_whole"] and row["loads_new"], row
        assert row["commits"] == (2 if row["fault"] == "somebody else commits in between" else 1), row
        if row["again"] is not None:
            assert row["then"] == "the old version" and row["again"]["error"] is None, row
            assert row["again"]["weights_sent"] == (1 if row["error"] == "Killed" else 0), row
        else:
            assert row["then"] == "the new version" and row["error"] is None, row
    said = json.dumps(found).replace("hf_test_read", "")
    assert TOKEN not in said and "hf_bad" not in said
    assert all("\n" not in message for _, message in found["refusals"])
    assert [what for what, message in found["refusals"] if message == "pushed"] == ["a pull request to somebody else"]


@pytest.mark.slow
def test_a_push_that_is_killed_is_done_by_the_same_again():
    """Some rows of the other table of docs/sharing.md; any seed will do."""
    command = [sys.executable, str(Path(__file__).parent.parent / "kill_push.py"), "12", "1"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
