import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from PIL import Image

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler


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
