import importlib.util
import sys

import datasets
import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import ResNetForImageClassification, ViTConfig, ViTForImageClassification, ViTImageProcessor

from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.distances import frechet_distance
from ddpm_hf.evaluation.feature_network import _moved, train_feature_network
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.evaluation.inception import without_init


@pytest.fixture
def images():
    return torch.randint(256, (12, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_a_network_learns_what_is_to_be_told_apart(tmp_path, dark_and_bright):
    data = DataArguments(dataset=dark_and_bright)
    accuracy = train_feature_network(tmp_path / "new", data, epochs=10, batch_size=16, max_shift=1, device="cpu")
    assert accuracy > 0.9


def test_a_network_of_colour_images_sees_all_their_channels(tmp_path, dark_and_bright):
    rows = datasets.load_from_disk(dark_and_bright)
    rows.map(lambda row: {"image": row["image"].convert("RGB")}).save_to_disk(tmp_path / "colours")
    data = DataArguments(dataset=str(tmp_path / "colours"))
    train_feature_network(tmp_path / "new", data, epochs=1, device="cpu")
    images = torch.randint(256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    network = ResNetForImageClassification.from_pretrained(tmp_path / "new").eval()
    with torch.no_grad():
        pooled = network.resnet(images / 127.5 - 1).pooler_output.flatten(1)
    assert_close(load_features(tmp_path / "new")(images), pooled, rtol=1e-4, atol=1e-5)


def test_features_are_the_pooled_output_before_the_last_layer(feature_network, images):
    features = load_features(feature_network)(images)
    network = ResNetForImageClassification.from_pretrained(feature_network).eval()
    with torch.no_grad():
        pooled = network.resnet(images / 127.5 - 1).pooler_output.flatten(1)
    assert features.shape == (12, 128)
    assert_close(features, pooled, rtol=1e-4, atol=1e-5)


def test_other_images_are_farther(feature_network):
    see, generator = load_features(feature_network), np.random.default_rng(0)
    dark, dark_too = (torch.from_numpy(generator.integers(0, 100, (60, 1, 8, 8), dtype=np.uint8)) for _ in range(2))
    assert frechet_distance(see(dark), see(dark_too)) < 0.3 * frechet_distance(see(dark), see(dark_too + 120))


def test_a_vision_transformer_of_colours_takes_grey_images_of_another_size(tmp_path, images):
    """Its features are those of the class token; its processor enlarges the images."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    network = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **sizes)).eval()
    network.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    features = load_features(tmp_path)(images)
    assert features.shape == (12, 16) and features.std(0).min() > 0
    assert_close(load_features(tmp_path)(images.expand(-1, 3, -1, -1)), features)


def test_images_are_moved_by_whole_pixels():
    torch.manual_seed(0)
    image = torch.zeros(200, 1, 5, 5)
    image[:, :, 2, 2] = 1
    places = _moved(image, 1).flatten(1).argmax(1).unique().tolist()
    assert places == [6, 7, 8, 11, 12, 13, 16, 17, 18]


def test_what_is_no_network(tmp_path, feature_network, images):
    with pytest.raises(InputError, match=r"no config.json: .*python -m ddpm_hf.evaluation.feature_network FOLDER"):
        load_features(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read as an image classifier"):
        load_features(tmp_path)
    with pytest.raises(InputError, match="Images of 3 channels do not fit a feature network for 1"):
        load_features(feature_network)(images.expand(-1, 3, -1, -1))
    with pytest.raises(InputError, match="is not empty"):
        train_feature_network(feature_network)


@pytest.mark.skipif(importlib.util.find_spec("torch_fidelity") is not None, reason="torch-fidelity is installed")
def test_inception_names_what_to_install():
    with pytest.raises(InputError, match="pip install --no-deps torch-fidelity"):
        load_features("inception")


@pytest.fixture
def package_that_does_not_import(tmp_path, monkeypatch):
    """A package like torch-fidelity with a torchvision for another torch: `__init__` fails, one file does not need it."""
    package = tmp_path / "fails_to_import"
    package.mkdir()
    (package / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')", encoding="utf-8"
    )
    (package / "numbers.py").write_text("ANSWER = 42", encoding="utf-8")
    (package / "network.py").write_text("from fails_to_import.numbers import ANSWER", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return package.name


def test_a_file_of_a_package_is_imported_without_its_init(package_that_does_not_import):
    package = package_that_does_not_import
    with without_init(package):
        assert importlib.import_module(f"{package}.network").ANSWER == 42
    assert not [name for name in sys.modules if name.startswith(package)]
    with pytest.raises(RuntimeError, match="nms"):  # the package itself is what it was
        importlib.import_module(package)


@pytest.mark.skipif(importlib.util.find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")
def test_inception_needs_no_torchvision(monkeypatch):
    """The weights are random, because those of Inception are a download."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *args, **options: {})
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *args: None)
    features = load_features("inception")(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert features.shape == (2, 2048) and features.isfinite().all()
