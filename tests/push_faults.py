"""Pushes with the real client to a loopback Hub with every fault, and reports two Markdown tables.

python tests/push_faults.py            # prints the tables of docs/sharing.md
python tests/push_faults.py FILE.json  # for the tests
"""

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.utils import logging as diffusers_logging
from hub_server import OTHER_TOKEN, READ_TOKEN, TOKEN, Fault, Hub, lead_client_to
from huggingface_hub import HfApi
from tiny_networks import TINY

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, NoisyImageClassifier
from ddpm_hf.errors import InputError
from ddpm_hf.hub.push import push_folder
from ddpm_hf.hub.retries import Patience

HUB = Hub()
threading.Thread(target=HUB.serve_forever, daemon=True).start()
TEMPORARY = tempfile.TemporaryDirectory()
FOLDER = Path(TEMPORARY.name)
lead_client_to(HUB, pytest.MonkeyPatch(), FOLDER / "cache")
diffusers_logging.disable_progress_bar()
PATIENCE = Patience(first_wait=0.1, silence=1.0)


class Said(logging.Handler):
    """The messages that the user sees during a push."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def make_version(seed):
    """A pipeline folder with two files of weights."""
    torch.manual_seed(seed)
    classifier = NoisyImageClassifier(
        **{"sample_size": 8, "in_channels": 1, "num_classes": 2, "norm_num_groups": 4},
        **{"block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "attention_head_dim": 8},
    )
    unet = UNet2DModel(**TINY, out_channels=1)
    folder = FOLDER / f"version_{seed}"
    GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler(), classifier).save_pretrained(folder)
    return folder


OLD, NEW = make_version(1), make_version(2)


def weights(pipeline):
    return pipeline.unet.conv_in.weight.detach()


def has_weights_of(folder, repository, revision):
    loaded = GaussianDiffusionPipeline.from_pretrained(HfApi().snapshot_download(repository, revision=revision))
    return torch.equal(weights(loaded), weights(GaussianDiffusionPipeline.from_pretrained(folder)))


# The faults ----------------------------------------------------------------------------------------------------------


def somebody_commits(repository):
    HUB.add(repository, OLD)


def faults(repository):
    """(what happens, the faults, options of the push), for a repository that has the old version."""
    to_branch, to_request = {"revision": "v2"}, {"create_pr": True}
    return [
        ("no fault", [], {}),
        ("500 to the check of the token", [Fault("whoami", 500)], {}),
        ("connection dropped at the check of the card", [Fault("validate_yaml", "drop")], {}),
        ("503 when it asks how to upload", [Fault("preupload", 503)], {}),
        ("503 at the list of large files", [Fault("lfs_batch", 503)], {}),
        ("500 to the weights", [Fault("lfs_upload", 500)], {}),
        ("connection dropped while the weights travel", [Fault("lfs_upload", "drop", nth=2)], {}),
        ("500 to the commit", [Fault("commit", 500)], {}),
        ("429 with Retry-After: 2 to the commit", [Fault("commit", 429, retry_after=2)], {}),
        ("connection dropped at the commit", [Fault("commit", "drop")], {}),
        ("commit done, its answer lost", [Fault("commit", "lost")], {}),
        ("commit done, its answer later than the longest silence", [Fault("commit", "slow", seconds=2)], {}),
        ("the Hub falls silent at the commit", [Fault("commit", "hang", seconds=2)], {}),
        ("somebody else commits in between", [Fault("commit", lambda: somebody_commits(repository))], {}),
        ("branch made, its answer lost", [Fault("create_branch", "lost")], to_branch),
        ("pull request made, its answer lost", [Fault("commit", "lost")], to_request),
        ("403 to the commit", [Fault("commit", 403)], {}),
        ("503 to every commit", [Fault("commit", 503, times=99)], {}),
        ("the process is killed while the weights travel", [Fault("lfs_upload", "hang", nth=2, seconds=2)], {}),
    ]


def run_all():
    rows = []
    for number in range(len(faults(""))):
        repository = f"someone/model-{number}"
        name, injected, options = faults(repository)[number]
        HUB.add(repository, OLD)
        HUB.large_files.clear()
        rows.append({"fault": name, **run_one(repository, injected, options, killed="killed" in name)})
    repository = "someone/new"
    HUB.large_files.clear()
    rows.append(
        {"fault": "a new repository made, its answer lost", **run_one(repository, [Fault("create_repo", "lost")], {})}
    )
    return rows


def run_one(repository, injected, options, killed=False):
    """A push with faults, and the same push without them where it failed."""
    HUB.faults[:], HUB.requests[:] = injected, []
    before = count_commits(repository)
    first = kill_while_uploading(repository) if killed else push(repository, options)
    visible = state_of(repository, before)
    sent = HUB.requests.count("lfs_upload")
    again = None
    if first["error"] is not None:
        HUB.faults[:], HUB.requests[:] = [], []
        again = push(repository, options) | {"weights_sent": HUB.requests.count("lfs_upload")}
    there, revision = HUB.repositories[repository], options.get("revision", "main")
    revision = "refs/pr/1" if "create_pr" in options else revision
    return first | {
        "weights_sent": sent,
        "then": visible,
        "again": again,
        "commits": count_commits(repository) - before,
        "only_whole": all(is_whole(commit) for history in there.refs.values() for commit in history[1:]),
        "loads_new": has_weights_of(NEW, repository, revision),
    }


def push(repository, options):
    said, started = Said(), time.monotonic()
    logger = logging.getLogger("ddpm_hf")
    logger.addHandler(said)
    try:
        push_folder(NEW, repository, patience=PATIENCE, **options)
        error = None
    except InputError as refused:
        error = str(refused)
    finally:
        logger.removeHandler(said)
    return {"error": error, "said": said.lines, "seconds": round(time.monotonic() - started, 1)}


def kill_while_uploading(repository):
    """A push in a process of its own, which gets SIGKILL when it has sent one of two files of weights."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        push_folder(NEW, repository, patience=PATIENCE)
        os._exit(0)
    while HUB.requests.count("lfs_upload") < 2 or len(HUB.large_files) < 1:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return {"error": "Killed", "said": [], "seconds": round(time.monotonic() - started, 1)}


def count_commits(repository):
    """The commits of all branches and pull requests, without the first of each."""
    there = HUB.repositories.get(repository)
    return 0 if there is None else len({c.oid for history in there.refs.values() for c in history[1:]})


def is_whole(commit):
    """Whether it has all files of one version, with the weights of just that one."""
    names = [p.relative_to(NEW).as_posix() for p in NEW.rglob("*") if p.is_file()]
    return any(all(commit.files.get(name) == (v / name).read_bytes() for name in names) for v in (OLD, NEW))


def state_of(repository, before):
    return "the new version" if count_commits(repository) > before else "the old version"


# Bad input -----------------------------------------------------------------------------------------------------------


def bad_input():
    """[(what is wrong, what it says)]"""
    rows = []

    def refused(what, folder=NEW, repository="someone/model", token=TOKEN, **options):
        os.environ["HF_TOKEN"] = token
        try:
            push_folder(folder, repository, patience=PATIENCE, **options)
            said = "pushed"
        except InputError as error:
            said = str(error).replace(str(FOLDER), "outputs")
        rows.append((what, said))

    def broken(name, file, content=b"x", size=None):
        folder = FOLDER / name
        DDPMPipeline(UNet2DModel(**TINY, out_channels=1), DDPMScheduler()).save_pretrained(folder)
        with open(folder / file, "wb") as f:
            f.write(content)
            f.truncate(size if size is not None else len(content))
        return folder

    refused("no token", token="")
    refused("a token that the Hub does not know", token="hf_wrong")
    refused("a token with a character that cannot be sent", token="hf_bad\x01")
    refused("a token that only reads", token=READ_TOKEN)
    refused("a name that is not allowed", repository="someone/my model")
    refused("a repository of somebody else", repository="other/model")
    HUB.add("someone/public", OLD)
    refused("--private for a public repository", repository="someone/public", private=True)
    (FOLDER / "text").mkdir()
    (FOLDER / "text" / "model.safetensors").write_bytes(b"x")
    HUB.add("someone/text", FOLDER / "text")
    refused("a repository of another kind of model", repository="someone/text")
    refused("--create_pr with --revision", revision="v2", create_pr=True)
    refused("no folder", folder=FOLDER / "nothing")
    refused("a folder that is no pipeline", folder=NEW / "unet")
    refused("weights cut off", folder=broken("cut", "unet/diffusion_pytorch_model.safetensors"))
    refused("a pickle", folder=broken("pickle", "unet/diffusion_pytorch_model.bin"))
    refused("a file over the limit", folder=broken("large", "unet/more.safetensors", size=60 * 10**9))
    refused("the token in a file", folder=broken("secret", "loss.csv", TOKEN.encode()))
    refused("a key of AWS in a file", folder=broken("key", "loss.csv", b"AKIA" + b"A" * 16))
    with_link = broken("link", "loss.csv")
    (with_link / "key").symlink_to(Path(__file__))
    refused("a link to a file outside", folder=with_link)
    refused("a config that cannot be read", folder=broken("config", "unet/config.json", b"{"))
    HUB.faults[:], HUB.requests[:] = [Fault("whoami", "drop", times=99)], []
    refused("a network that drops every connection")
    HUB.faults.clear()
    refused("a pull request to somebody else", repository="someone/public", token=OTHER_TOKEN, create_pr=True)
    return rows


# The tables ----------------------------------------------------------------------------------------------------------


def markdown(rows):
    lines = [
        "| fault | the repository then | what the user saw | requests that send weights | commits |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        saw = " ".join(row["said"][:1])
        if len(row["said"]) > 1:
            saw += f" (and {len(row['said']) - 1} more)"
        if row["error"] is not None:
            saw += f" {row['error'].replace(str(FOLDER), 'outputs')} *The same again: done.*"
        sent = str(row["weights_sent"]) + (f" + {row['again']['weights_sent']}" if row["again"] else "")
        lines.append(f"| {row['fault']} | {row['then']} | {saw.strip() or 'nothing'} | {sent} | {row['commits']} |")
    return "\n".join(lines)


def main():
    rows, refusals = run_all(), bad_input()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps({"faults": rows, "refusals": refusals}), encoding="utf-8")
        return
    print(markdown(rows).replace(HUB.endpoint, "https://huggingface.co"))
    print("\n| input | answer |\n|---|---|")
    for what, said in refusals:
        print(f"| {what} | {said} |".replace(HUB.endpoint, "https://huggingface.co"))


if __name__ == "__main__":
    main()
