"""`pipeline.push_to_hub` makes the same repository as `ddpm-hf push`, with its card."""

import pytest
from diffusers import DiffusionPipeline
from hub_server import TOKEN

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.hub.cards import is_generated
from ddpm_hf.hub.push import push_folder


@pytest.fixture
def pipeline(tiny_unet):
    return GaussianDiffusionPipeline(tiny_unet(), GaussianDiffusionScheduler())


def commits(hub, repository="someone/model"):
    return hub.repositories[repository].pushed


def test_it_pushes_what_the_command_pushes(hub, pipeline, tmp_path):
    url = pipeline.push_to_hub("model", commit_message="Mine", private=True)
    (commit,) = commits(hub)
    assert url == f"{hub.endpoint}/someone/model/commit/{commit.oid}" and commit.summary == "Mine"
    card = commit.files["README.md"].decode()
    assert is_generated(card) and "More Information Needed" not in card and "## How to load it" in card
    assert hub.repositories["someone/model"].private
    pipeline.save_pretrained(tmp_path / "model")
    assert not push_folder(tmp_path / "model", "someone/model").changes
    pipeline.push_to_hub("someone/model")
    assert len(commits(hub)) == 1


def test_saving_can_push_too(hub, pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    pipeline.save_pretrained(tmp_path / "mine", push_to_hub=True, token=TOKEN)
    (commit,) = commits(hub, "someone/mine")
    assert commit.summary == "Upload GaussianDiffusionPipeline" and is_generated(commit.files["README.md"].decode())
    pipeline.save_pretrained(tmp_path / "mine", push_to_hub=True, token=TOKEN, repo_id="someone/other", create_pr=True)
    assert set(hub.repositories["someone/other"].refs) == {"main", "refs/pr/1"}


def test_a_part_of_a_repository_is_refused(hub, pipeline):
    for options in ({"variant": "fp16"}, {"subfolder": "prior"}):
        with pytest.raises(ValueError, match="parts of a repository"):
            pipeline.push_to_hub("model", **options)
    with pytest.raises(ValueError, match="pickle"):
        pipeline.push_to_hub("model", safe_serialization=False)
    assert hub.repositories == {}


def test_without_the_package_the_code_of_a_repository_pushes_and_says_what_its_card_lacks(
    pipeline, tmp_path, hub, module_cache, hide_package, caplog
):
    pipeline.save_pretrained(tmp_path / "model")
    hub.add("someone/model", tmp_path / "model")
    hide_package()
    copy = DiffusionPipeline.from_pretrained("someone/model", custom_pipeline="someone/model", trust_remote_code=True)
    copy.push_to_hub("someone/copy")
    copy.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="someone/saved")
    for name in ("copy", "saved"):
        (commit,) = commits(hub, f"someone/{name}")
        assert commit.files["pipeline.py"] == (tmp_path / "model" / "pipeline.py").read_bytes()
        said = f"ddpm_hf is not installed, so that someone/{name} gets the model card of diffusers"
        assert said in caplog.text
