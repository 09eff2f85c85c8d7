"""Large files through Xet, which the client of huggingface_hub uses if hf_xet is installed."""

import time

import pytest
import torch
from hub_server import TOKEN, Fault, lead_client_to, running_hub
from huggingface_hub import constants

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.errors import InputError
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.hub.push import push_folder
from ddpm_hf.hub.retries import Patience

pytest.importorskip("hf_xet", reason="huggingface_hub uploads without Xet where hf_xet is not installed")

from xet_storage import XetStorage


@pytest.fixture
def xet_hub(monkeypatch, tmp_path):
    """A Hub on loopback with Xet storage, and the client as it is by default: with Xet."""
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet_cache"))
    with running_hub() as hub:
        lead_client_to(hub, monkeypatch, tmp_path / "cache")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        hub.xet = XetStorage(tmp_path / "storage")
        yield hub


@pytest.fixture
def folder(tmp_path, tiny_unet):
    GaussianDiffusionPipeline(tiny_unet(), GaussianDiffusionScheduler()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


AT_ONCE = Patience(attempts=3, first_wait=0.01, silence=5.0)


def push(folder, patience=AT_ONCE):
    return push_folder(folder, "someone/model", patience=patience)


def test_what_is_pushed_by_xet_is_what_loads(xet_hub, folder):
    push(folder)
    (commit,) = xet_hub.repositories["someone/model"].pushed
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert commit.files[weights] == (folder / weights).read_bytes()
    assert "xet_token" in xet_hub.requests and "lfs_upload" not in xet_hub.requests
    assert not push(folder).changes and len(xet_hub.repositories["someone/model"].pushed) == 1

    xet_hub.requests.clear()
    loaded, here = load_pipeline("someone/model"), GaussianDiffusionPipeline.from_pretrained(folder)
    assert "xet_token" in xet_hub.requests
    assert all(torch.equal(a, b) for a, b in zip(loaded.unet.parameters(), here.unet.parameters(), strict=True))


def test_a_push_by_xet_is_tried_again(xet_hub, folder, caplog):
    xet_hub.faults += [Fault("commit", 503), Fault("commit", "lost", nth=2)]
    push(folder)
    assert len(xet_hub.repositories["someone/model"].pushed) == 1 and "attempt 2 of 3" in caplog.text
    assert TOKEN not in caplog.text


def test_refusals_of_xet_are_not_tried_again(xet_hub, folder, caplog):
    xet_hub.faults.append(Fault("xet_token", 403, times=99))
    started = time.monotonic()
    with pytest.raises(
        InputError, match=r"could not be uploaded to someone/model \(.*403.*goes on where it stopped"
    ) as no:
        push(folder, Patience(attempts=6, first_wait=20.0))
    assert time.monotonic() - started < 15 and xet_hub.requests.count("xet_token") == 1 and caplog.records == []
    assert "\n" not in str(no.value) and xet_hub.repositories["someone/model"].pushed == []
    xet_hub.faults.clear()
    push(folder)
    assert len(xet_hub.repositories["someone/model"].pushed) == 1
