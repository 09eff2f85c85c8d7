import importlib.util
import shutil
import sys

import datasets
import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import interpolate
from torch.testing import assert_close
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

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
    with pytest.raises(InputError, match="The feature network .* cannot be read"):
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


HAS_FIDELITY = importlib.util.find_spec("torch_fidelity") is not None
NEEDS_FIDELITY = pytest.mark.skipif(not HAS_FIDELITY, reason="torch-fidelity is not installed")


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory):
    """A folder for torch.hub, and in it a file of the name and the shapes of Inception's weights, with random values."""
    with without_init("torch_fidelity"):
        module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    folder = tmp_path_factory.mktemp("hub")
    (folder / "checkpoints").mkdir()
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *args, **options: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *args: None)
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    file = folder / "checkpoints" / module.URL_INCEPTION_V3.split("/")[-1]
    torch.save(network.state_dict(), file)
    return file


@NEEDS_FIDELITY
def test_inception_with_its_weights_needs_no_torchvision(monkeypatch, inception_weights):
    """The weights are random, because those of Inception are a download."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(inception_weights.parent.parent))
    network = load_features("inception")
    features, logits = network.see(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert features.shape == (2, 2048) and features.isfinite().all()
    assert logits.shape == (2, 1008) and network.has_classes
    assert network.library.startswith("torch-fidelity") and "299x299" in network.preprocessing


@NEEDS_FIDELITY
def test_inception_without_its_weights_says_where_they_belong(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def no_network(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    with pytest.raises(InputError, match=r"fetch https://.*weights-inception.*pth .* copy it to .*checkpoints"):
        load_features("inception")


@NEEDS_FIDELITY
def test_unreadable_weights_of_inception(monkeypatch, tmp_path, inception_weights):
    (tmp_path / "checkpoints").mkdir()
    cut = tmp_path / "checkpoints" / inception_weights.name
    cut.write_bytes(inception_weights.read_bytes()[:5000])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match="cannot be read .*: remove the file"):
        load_features("inception")


@pytest.fixture(scope="session")
def tiny_dinov2(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    folder = tmp_path_factory.mktemp("dinov2")
    Dinov2Model(Dinov2Config(image_size=56, patch_size=14, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    folder = tmp_path_factory.mktemp("clip")
    config = CLIPVisionConfig(image_size=32, patch_size=16, projection_dim=12, **sizes)
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def test_dinov2_is_seen_by_its_class_token(tiny_dinov2, images):
    """As in EDM2's code: bicubic to 224x224, the statistics of ImageNet, and the class token after the last norm."""
    network = load_features(str(tiny_dinov2))
    pixels = interpolate(images.expand(-1, 3, -1, -1).float(), (224, 224), mode="bicubic", antialias=True) / 255
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(tiny_dinov2).eval()(pixels).last_hidden_state[:, 0]
    assert_close(network(images), expected, rtol=1e-4, atol=1e-5)
    assert not network.has_classes and "224x224" in network.preprocessing


def test_clip_is_seen_by_its_image_embedding(tiny_clip, images):
    network = load_features(str(tiny_clip))
    features, logits = network.see(images)
    assert features.shape == (12, 12) and logits is None and features.std(0).min() > 0
    whole = CLIPModel(
        CLIPConfig(vision_config=CLIPVisionConfig.from_pretrained(tiny_clip).to_dict(), projection_dim=12)
    )
    state = CLIPVisionModelWithProjection.from_pretrained(tiny_clip).state_dict()
    whole.load_state_dict(state, strict=False)
    pixels = interpolate(images.expand(-1, 3, -1, -1).float(), (32, 32), mode="bicubic", antialias=True) / 255
    mean, std = CLIPImageProcessor().image_mean, CLIPImageProcessor().image_std
    pixels = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        expected = whole.eval().get_image_features(pixels)
    expected = getattr(expected, "pooler_output", expected)
    assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_a_classifier_has_classes(feature_network, images):
    network = load_features(feature_network)
    features, logits = network.see(images)
    assert features.shape == (12, 128) and logits.shape == (12, 2) and network.has_classes
    assert network.conditions == {
        "network": feature_network,
        "library": f"transformers {transformers.__version__}, {feature_network}",
        "preprocessing": "not resized",
    }


def test_unreadable_weights_of_a_folder(tiny_dinov2, tmp_path):
    shutil.copytree(tiny_dinov2, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="The feature network .*cut' cannot be read"):
        load_features(tmp_path / "cut")


@pytest.mark.parametrize("name, repository", [("dinov2", "facebook/dinov2-large"), ("clip", "openai/clip-vit-base")])
def test_a_network_of_the_hub_without_the_hub(name, repository, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=f"{repository}.* cannot be read .*`hf download {repository}"):
        load_features(name)
