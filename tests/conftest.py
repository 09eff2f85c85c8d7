import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from diffusers import UNet2DModel
from hub_server import lead_client_to, running_hub
from PIL import Image
from safetensors.torch import load_file
from tiny_networks import TINY

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionPipeline, GaussianDiffusionScheduler

# A home folder may be read-only, and what another user's tests left is. Other processes inherit these places.
CACHE = tempfile.TemporaryDirectory(prefix="datasets-", ignore_cleanup_errors=True)
for variable in ("HF_HOME", "HF_DATASETS_CACHE", "GRADIO_TEMP_DIR"):
    os.environ.setdefault(variable, CACHE.name)
# As `accelerate launch` says it, so that no test's numbers depend on what is faster on the machine.
os.environ["ACCELERATE_MIXED_PRECISION"] = "no"


def pytest_collection_finish():
    """Takes what was imported out of the search for garbage, which takes a quarter of a second each time otherwise."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def updates_timed_in_a_moment():
    """Runs that look how long an update takes look for less than a user's seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddpm_hf.training.run_length.TIMED_SECONDS", 0.2)
        yield


class Reference:
    """One file of reference arrays, as torch tensors in float64 or int64."""

    def __init__(self, name):
        self.arrays = np.load(Path(__file__).parent / "reference" / f"{name}.npz")
        self.keys = list(self.arrays)

    def __getitem__(self, key):
        return torch.from_numpy(np.asarray(self.arrays[key]))


@pytest.fixture(scope="session")
def reference():
    files = {}
    return lambda name: files.setdefault(name, Reference(name))


@pytest.fixture
def stock_unet():
    torch.manual_seed(0)
    return UNet2DModel(**TINY, out_channels=1)


@pytest.fixture(scope="session")
def tiny_unet():
    """A function that makes a tiny network of ours: `tiny_unet(num_classes=3)`."""

    def make(**kwargs):
        torch.manual_seed(0)
        return DDPMUNet2DModel(**(TINY | kwargs))

    return make


@pytest.fixture
def tiny_network(tmp_path):
    """A function that writes the config of a new tiny network, for `unet`: `tiny_network([8, 12])` for images of 8x12."""

    def write(sample_size=8):
        file = tmp_path / "tiny_network.json"
        file.write_text(
            json.dumps({"_class_name": "UNet2DModel", **TINY, "sample_size": sample_size}), encoding="utf-8"
        )
        return str(file)

    return write


@pytest.fixture
def on_two_processes():
    """A function that runs Python on two processes: `on_two_processes("-m", "a.module", "--option")`."""

    def run(*arguments):
        # `accelerate launch --cpu --num_processes 2` starts one process, unless an MPI is installed.
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture
def measured_on_two_processes(tmp_path, on_two_processes):
    """A function that measures a pipeline on two processes: what each of them says in JSON.

    `measured_on_two_processes(pipeline, images, code)`: the code makes `result` of `unet`, `scheduler`, `images`, and
    `accelerator`.
    """

    def measure(pipeline, images, code):
        pipeline.save_pretrained(tmp_path / "model")
        torch.save(images, tmp_path / "images.pt")
        (tmp_path / "measure.py").write_text(
            f"""
import torch
from accelerate import Accelerator
from ddpm_hf import GaussianDiffusionPipeline
torch.set_num_threads(1)
accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
pipeline = GaussianDiffusionPipeline.from_pretrained("{tmp_path / "model"}")
unet, scheduler = accelerator.prepare(pipeline.unet), pipeline.scheduler
images = torch.load("{tmp_path / "images.pt"}")
{code}
open(f"{tmp_path}/{{accelerator.process_index}}.json", "w").write(result.to_json())
""",
            encoding="utf-8",
        )
        on_two_processes(str(tmp_path / "measure.py"))
        return [json.loads((tmp_path / f"{process}.json").read_text(encoding="utf-8")) for process in (0, 1)]

    return measure


@pytest.fixture
def hide_package(monkeypatch):
    """A function after which a test cannot import the package, as where nothing of it is installed."""

    def hide():
        for name in [name for name in sys.modules if name.split(".")[0] == "ddpm_hf"]:
            monkeypatch.setitem(sys.modules, name, None)

    return hide


@pytest.fixture
def diffusers_log(caplog):
    """The messages of diffusers' loggers and ours during a test (they do not propagate by themselves)."""
    root = logging.getLogger("diffusers")
    root.addHandler(caplog.handler)
    yield caplog
    root.removeHandler(caplog.handler)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors are slower on many threads, most of all when test runs share the cores."""
    torch.set_num_threads(1)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on loopback, which the client of this process talks to with the token of "someone"."""
    with running_hub() as hub:
        lead_client_to(hub, monkeypatch, tmp_path / "cache")
        yield hub


@pytest.fixture(autouse=True)
def fresh_accelerate_state():
    """Accelerate keeps one state for each process; a run of a user is a process, a run of a test is not."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def make_accelerator():
    def make(**options):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        return Accelerator(cpu=True, **options)

    return make


@pytest.fixture
def tiny_pipeline(tmp_path, tiny_unet):
    """A pipeline folder with a network that trains in milliseconds: for `init_from`."""
    folder = tmp_path / "tiny_pipeline"
    GaussianDiffusionPipeline(unet=tiny_unet(), scheduler=GaussianDiffusionScheduler()).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def saved_averages():
    """A function that gives the averaged weights of a checkpoint, in their order."""

    def read(checkpoint):
        state = load_file(checkpoint / "training_state.safetensors")
        names = [name for name in state if name.startswith("average.shadow_params.")]
        return [state[f"average.shadow_params.{number}"] for number in range(len(names))]

    return read


@pytest.fixture
def pixels():
    """16 grey images of 8x8."""
    return np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)


@pytest.fixture
def image_folder(tmp_path, pixels):
    """The same as PNG files, eight of each of two classes."""
    folder = tmp_path / "images"
    for i, image in enumerate(pixels):
        path = folder / ("cat" if i < 8 else "dog") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return str(folder)
