import datasets
import numpy as np
import pytest
from accelerate.state import AcceleratorState, GradientState
from PIL import Image

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.evaluation.feature_network import train_feature_network


@pytest.fixture(autouse=True)
def fresh_accelerate_state():
    """Accelerate keeps one state for each process; a run of a user is a process, a run of a test is not."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def dark_and_bright(tmp_path_factory):
    """Grey images of 8x8 in two classes that a small network tells apart: `dataset` and `split` of data arguments."""
    folder = tmp_path_factory.mktemp("data")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "bright"])})
    splits = {}
    for split, count in (("train", 64), ("test", 40)):
        labels = np.arange(count) % 2
        low = 120 * labels[:, None, None]
        pixels = np.random.default_rng(count).integers(low, low + 100, (count, 8, 8), dtype=np.uint8)
        rows = {"image": [Image.fromarray(p) for p in pixels], "label": labels}
        splits[split] = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(splits).save_to_disk(folder)
    return str(folder)


@pytest.fixture(scope="session")
def feature_network(tmp_path_factory, dark_and_bright):
    """The folder of a network trained on them."""
    folder = tmp_path_factory.mktemp("features")
    data = DataArguments(dataset=dark_and_bright)
    train_feature_network(folder, data, epochs=10, batch_size=16, max_shift=1, device="cpu")
    return str(folder)
