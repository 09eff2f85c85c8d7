import json

import pytest
import torch
from diffusers import UNet2DModel
from torch.testing import assert_close

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionScheduler
from ddpm_hf.models.presets import UNET_PRESETS
from ddpm_hf.schedulers.choices import COVARIANCE_HEADS, VARIANCE_HEADS


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(3, 1, 8, 8)


def test_is_the_stock_network(stock_unet, tiny_unet, images):
    ours = tiny_unet()
    ours.load_state_dict(stock_unet.state_dict())
    assert_close(ours(images, 500).sample, stock_unet(images, 500).sample, rtol=0, atol=0)
    assert_close(ours(images, 500, return_dict=False)[0], ours(images, 500).sample)


def test_missing_labels_are_the_null_label(tiny_unet, images):
    unet = tiny_unet(num_classes=4)
    assert unet.config.num_class_embeds == 5
    null = unet(images, 5, torch.full((3,), 4)).sample
    assert_close(unet(images, 5).sample, null, rtol=0, atol=0)
    assert (unet(images, 5, torch.tensor([0, 1, 2])).sample - null).abs().max() > 1e-3


@pytest.mark.parametrize("head", VARIANCE_HEADS)
def test_variance_head_doubles_the_channels(tiny_unet, images, head):
    assert tiny_unet(variance_head=head)(images, 5).sample.shape == (3, 2, 8, 8)


@pytest.mark.parametrize(
    "options", [{}, {"num_classes": 4}, *({"variance_head": head, "num_classes": 2} for head in VARIANCE_HEADS)]
)
def test_saved_loads_as_stock_and_comes_back(tmp_path, diffusers_log, tiny_unet, images, options):
    unet = tiny_unet(**options)
    unet.save_pretrained(tmp_path / "ours")
    stock = UNet2DModel.from_pretrained(tmp_path / "ours")
    assert type(stock) is UNet2DModel and "not expected" not in diffusers_log.text
    labels = torch.tensor([0, 1, 1]) if "num_classes" in options else None
    assert_close(stock(images, 5, labels).sample, unet(images, 5, labels).sample, rtol=0, atol=0)

    stock.save_pretrained(tmp_path / "stock")
    for folder in ("ours", "stock"):
        loaded = DDPMUNet2DModel.from_pretrained(tmp_path / folder)
        assert loaded.config.num_classes == unet.config.num_classes
        assert loaded.config.variance_head == unet.config.variance_head
        assert_close(loaded(images, 5).sample, unet(images, 5).sample, rtol=0, atol=0)
    saved = json.loads((tmp_path / "ours" / "config.json").read_text(encoding="utf-8"))
    assert "num_classes" not in saved and "variance_head" not in saved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head", VARIANCE_HEADS)
def test_a_head_on_a_trained_network_leaves_its_output(stock_unet, images, dtype, head):
    stock_unet, images = stock_unet.to(dtype), images.to(dtype)
    before = {name: weight.clone() for name, weight in stock_unet.state_dict().items()}
    unet = DDPMUNet2DModel.from_unet(stock_unet, variance_head=head)
    output = unet(images, 500).sample
    assert output.dtype == dtype and unet.config.variance_head == head
    assert_close(output[:, :1], stock_unet(images, 500).sample, rtol=0, atol=0)
    assert (output[:, 1:] == 0).all()
    with torch.no_grad():
        unet.conv_in.weight.zero_()  # a copy: the network it came from is not touched
    assert all(torch.equal(weight, before[name]) for name, weight in stock_unet.state_dict().items())


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("head", COVARIANCE_HEADS)
def test_an_untrained_head_samples_as_fixed_small(stock_unet, images, head, eta):
    unet = DDPMUNet2DModel.from_unet(stock_unet, variance_head=head)
    variances = []
    for variance_type in (head, "fixed_small"):
        scheduler = GaussianDiffusionScheduler(variance_type=variance_type, eta=eta)
        scheduler.set_timesteps(10)
        variances.append(scheduler.p_mean_variance(unet(images, 500).sample, 500, images).variance)
    assert torch.equal(*variances)


def test_no_second_head(tiny_unet):
    with pytest.raises(ValueError, match="2 output channels for 1 input channels.*Has it a head already"):
        DDPMUNet2DModel.from_unet(tiny_unet(variance_head="learned_range"), variance_head="learned_range")


def test_classes_are_added_to_a_trained_network_which_predicts_as_before_for_none(stock_unet, images):
    unet = DDPMUNet2DModel.from_unet(stock_unet, num_classes=3, variance_head="npr")
    assert unet.config.num_classes == 3 and unet.config.num_class_embeds == 4
    expected = stock_unet(images, 500).sample
    assert torch.equal(unet(images, 500).sample[:, :1], expected)
    of_classes = [unet(images, 500, torch.full((len(images),), label)).sample[:, :1] for label in (0, 2)]
    assert not torch.allclose(of_classes[0], expected) and not torch.allclose(*of_classes)
    with pytest.raises(ValueError, match="has classes already .4 labels.; num_classes=5"):
        DDPMUNet2DModel.from_unet(unet, num_classes=5)


def test_gradient_checkpointing_changes_nothing(tiny_unet, images):
    unet = tiny_unet(num_classes=2)
    gradients = []
    for enabled in (False, True):
        if enabled:
            unet.enable_gradient_checkpointing()
        unet.zero_grad()
        unet(images, 5).sample.square().mean().backward()
        gradients.append(unet.conv_in.weight.grad.clone())
    assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    "name, channels, millions",
    [
        ("fashion_mnist", 1, 0.7),
        ("small_32", 3, 2.7),
        ("small_64", 3, 3.7),
        ("small_128", 3, 5.3),
        ("medium_32", 3, 10.7),
        ("medium_64", 3, 22.1),
        ("cifar10", 3, 35.7),
        ("cifar10_iddpm", 3, 52.5),
        ("images_64", 3, 121.1),
        ("images_256", 3, 113.7),
    ],
)
def test_presets_have_the_sizes_they_say(name, channels, millions):
    with torch.device("meta"):
        unet = DDPMUNet2DModel(**UNET_PRESETS[name])
    assert unet.config.in_channels == unet.config.out_channels == channels
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize(
    "options, message",
    [
        ({"variance_head": "other"}, r"variance_head='other' is not one of \('learned_range', 'npr', 'sn', 'ocm'\)"),
        ({"num_classes": 0}, "num_classes=0 must be at least 1"),
        ({"num_classes": 3, "num_class_embeds": 3}, r"num_class_embeds=3 contradicts.*must be 4 \(num_classes \+ 1"),
        ({"variance_head": "learned_range", "out_channels": 1}, "out_channels=1 contradicts.*must be 2"),
        ({"sample_size": 9}, "9x9 do not suit a network of 2 levels.*divisible by 2.*8 or 10.*at most 1 levels"),
    ],
)
def test_bad_options(tiny_unet, options, message):
    with pytest.raises(ValueError, match=message):
        tiny_unet(**options)


def test_images_that_do_not_suit_the_levels(tiny_unet):
    with pytest.raises(ValueError, match="8x7 do not suit"):
        tiny_unet()(torch.randn(1, 1, 8, 7), 5)
