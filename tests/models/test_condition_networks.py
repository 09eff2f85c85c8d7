"""Networks that are told condition images and augmentation levels."""

import pytest
import torch
from diffusers import UNet2DModel
from torch.testing import assert_close

from ddpm_hf import DDPMUNet2DModel

UPSCALER = {"in_channels": 2, "condition_channels": 1, "low_resolution": 4}
LEVELS = {"max_augmentation_level": 0.5}


@pytest.fixture
def x():
    return torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options, told",
    [
        (UPSCALER, None),
        (UPSCALER | {"variance_head": "npr"}, None),
        (UPSCALER | {"num_classes": 3}, torch.tensor([0, 2])),
        (UPSCALER | LEVELS, torch.tensor([0.0, 400.0])),
        ({"in_channels": 4, "condition_channels": 3, "condition_dropout": True}, None),
    ],
)
def test_a_stock_network_holds_it(tmp_path, tiny_unet, options, told):
    unet = tiny_unet(**options).eval()
    unet.save_pretrained(tmp_path)
    x = torch.randn(2, options["in_channels"], 8, 8)
    with torch.no_grad():
        ours = unet(x, 7, told).sample
        assert ours.shape[1] == (2 if "variance_head" in options else 1)
        assert_close(UNet2DModel.from_pretrained(tmp_path)(x, 7, told).sample, ours)
    again = DDPMUNet2DModel.from_pretrained(tmp_path)
    assert {name: again.config[name] for name in options} == options


@torch.no_grad()
def test_labels_and_levels_together(tmp_path, tiny_unet, x):
    """Each moves the output, and they are told apart; after saving and loading too."""
    unet = tiny_unet(**UPSCALER, **LEVELS, num_classes=3).eval()
    said = [[0, 0.0], [0, 400.0], [2, 0.0], [3, 0.0]]
    outputs = [unet(x, 7, torch.tensor([told, told])).sample for told in said]
    for i, one in enumerate(outputs):
        assert all((one - other).abs().max() > 1e-3 for other in outputs[:i])
    assert_close(unet(x, 7).sample, outputs[3])  # the null label, without noise
    assert_close(unet(x, 7, torch.tensor([2, 2])).sample, outputs[2])
    unet.save_pretrained(tmp_path)
    assert_close(DDPMUNet2DModel.from_pretrained(tmp_path)(x, 7, torch.tensor([[2, 0.0]] * 2)).sample, outputs[2])


@torch.no_grad()
def test_a_network_without_labels_is_told_no_noise_by_default(tiny_unet, x):
    unet = tiny_unet(**UPSCALER, **LEVELS).eval()
    assert_close(unet(x, 7).sample, unet(x, 7, torch.zeros(2)).sample)
    assert (unet(x, 7).sample - unet(x, 7, torch.full((2,), 300.0)).sample).abs().max() > 1e-3


@pytest.mark.parametrize(
    "options, message",
    [
        (UPSCALER | {"low_resolution": 3}, "low_resolution=3 must divide the sides of the images, 8x8"),
        (UPSCALER | {"condition_channels": 2}, "condition_channels=2 must be at least 1 and fewer than in_channels=2"),
        (UPSCALER | {"sample_size": None}, "needs a sample_size"),
        (UPSCALER | {"in_channels": 3}, "a condition image of the sample's own channels"),
        (UPSCALER | {"max_augmentation_level": 1.5}, r"max_augmentation_level=1.5 must be in \(0, 1\]"),
        (UPSCALER | {"downsampling": "nearest"}, "downsampling='nearest' is not one of"),
        (UPSCALER | {"num_classes": 3, "condition_dropout": True}, "guidance is by the classes then"),
        ({"low_resolution": 4}, "are of a condition image: give its condition_channels"),
        (UPSCALER | LEVELS | {"class_embed_type": "identity"}, "class_embed_type=identity contradicts"),
    ],
)
def test_configs_that_contradict_themselves(tiny_unet, options, message):
    with pytest.raises(ValueError, match=message):
        tiny_unet(**options)
