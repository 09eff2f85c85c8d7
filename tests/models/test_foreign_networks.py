"""The networks of other codes: what they have in common with stock ones, and what they refuse."""

import math

import pytest
import torch
from diffusers import UNet2DModel

from ddpm_hf import ADMUNet2DModel, DDPMUNet2DModel, LinearAttentionUNet2DModel, NCSNpp2DModel

SMALL = {
    "sample_size": 8,
    "in_channels": 1,
    "block_out_channels": (16, 16),
    "layers_per_block": 1,
    "down_block_types": ("AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D"),
    "norm_num_groups": 8,
}


@pytest.fixture
def images():
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def with_weights(network, other):
    network.load_state_dict(other.state_dict())
    return network.eval()


def test_with_its_defaults_it_is_the_network_that_it_extends(images):
    torch.manual_seed(0)
    plain = DDPMUNet2DModel(**SMALL, attention_head_dim=4).eval()
    ours = with_weights(ADMUNet2DModel(**SMALL, attention_head_dim=4), plain)
    counted = with_weights(ADMUNet2DModel(**SMALL, attention_head_dim=16, num_attention_heads=4), plain)
    with torch.no_grad():
        expected = plain(images, 500).sample
        assert torch.equal(ours(images, 500).sample, expected)
        assert torch.equal(counted(images, 500).sample, expected)


def test_the_time_width_is_apart_from_the_first_level(images):
    network = ADMUNet2DModel(**SMALL, time_embedding_channels=32, time_embedding_dim=64)
    assert network.time_embedding.linear_1.weight.shape == (64, 32)
    assert network(images, 5).sample.shape == images.shape


def test_timesteps_are_scaled(images):
    torch.manual_seed(0)
    plain = ADMUNet2DModel(**SMALL).eval()
    scaled = with_weights(ADMUNet2DModel(**SMALL, timestep_scale=0.25), plain)
    with torch.no_grad():
        for t in (400, torch.tensor(400), torch.tensor([400, 400])):
            assert torch.equal(scaled(images, t).sample, plain(images, 100).sample)


def test_heads_that_do_not_divide_a_width():
    with pytest.raises(ValueError, match="num_attention_heads=3 must divide the width of each attention; one has 16"):
        ADMUNet2DModel(**SMALL, num_attention_heads=3)


@pytest.mark.parametrize("network_class", [ADMUNet2DModel, NCSNpp2DModel, LinearAttentionUNet2DModel])
def test_what_is_saved_is_loaded(network_class, images, tmp_path):
    torch.manual_seed(0)
    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (16, 32)}
    options = {
        ADMUNet2DModel: SMALL | {"num_attention_heads": 4, "num_classes": 3, "timestep_scale": 0.5},
        NCSNpp2DModel: sizes | {"layers_per_block": 1, "progressive_input": "residual", "fir": True},
        LinearAttentionUNet2DModel: sizes
        | {"first_channels": 16, "full_attention": (False, True), "attention_heads": (2, 2)}
        | {"attention_head_dim": (4, 4), "memory_size": (2, 2), "time_embedding_channels": 16},
    }
    network = network_class(**options[network_class]).eval()
    network.save_pretrained(tmp_path)
    loaded = network_class.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(images, 5).sample, network(images, 5).sample)
        each = torch.cat([network(images[i : i + 1], t).sample for i, t in enumerate((3, 800))])
        torch.testing.assert_close(network(images, torch.tensor([3, 800])).sample, each)


def test_a_head_and_classes_are_added_and_the_prediction_stays(images):
    network = ADMUNet2DModel(**SMALL, num_attention_heads=4, timestep_scale=0.5).eval()
    with_head = ADMUNet2DModel.from_unet(network, variance_head="learned_range", num_classes=3)
    assert with_head.config.num_attention_heads == 4 and with_head.config.timestep_scale == 0.5
    with torch.no_grad():
        torch.testing.assert_close(with_head(images, 5).sample[:, :1], network(images, 5).sample)


def test_a_stock_network_with_skip_blocks_computes_the_same_at_128_channels():
    shared = {"sample_size": 16, "block_out_channels": (128, 128), "layers_per_block": 1}
    shared |= {"center_input_sample": True, "time_embedding_type": "fourier"}
    torch.manual_seed(0)
    ours = NCSNpp2DModel(
        **shared,
        attention_levels=(1,),
        fir=True,
        progressive="output_skip",
        progressive_input="input_skip",
        scale_by_sigma=True,
    )
    stock = UNet2DModel(
        **shared,
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        norm_num_groups=None,
        norm_eps=1e-6,
        mid_block_scale_factor=math.sqrt(2),
        attention_head_dim=None,
    )
    stock.load_state_dict(ours.state_dict())
    x, sigma = torch.rand(2, 3, 16, 16, dtype=torch.float64), torch.tensor([0.3, 20.0], dtype=torch.float64)
    with torch.no_grad():
        outputs = [network.eval().double()(x, sigma).sample for network in (ours, stock)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12 * outputs[0].abs().max().item())


def test_a_positional_network_is_divided_by_the_noise_level_of_its_timestep():
    options = {"sample_size": 8, "block_out_channels": (16, 16), "layers_per_block": 1}
    torch.manual_seed(0)
    plain = NCSNpp2DModel(**options).eval()
    scaled = with_weights(
        NCSNpp2DModel(**options, scale_by_sigma=True, sigma_min=0.5, sigma_max=8.0, num_scales=5), plain
    )
    x = torch.rand(3, 3, 8, 8)
    t = torch.tensor([0, 2, 4])
    with torch.no_grad():
        ratio = plain(x, t).sample / scaled(x, t).sample
    torch.testing.assert_close(ratio.flatten(1).mean(1), torch.tensor([8.0, 2.0, 0.5]))


@pytest.mark.parametrize("network_class", [NCSNpp2DModel, LinearAttentionUNet2DModel])
def test_images_and_labels_that_do_not_suit(network_class):
    network = network_class()
    with pytest.raises(
        ValueError, match="Images of 9x8 do not suit a network of 4 levels, which needs sides divisible by 8"
    ):
        network(torch.zeros(1, 3, 9, 8), 5)
    with pytest.raises(ValueError, match="has no classes"):
        network(torch.zeros(1, 3, 8, 8), 5, torch.tensor([1]))


@pytest.mark.parametrize("name", ["progressive", "progressive_input", "time_embedding_type"])
def test_choices_that_there_are_not(name):
    with pytest.raises(ValueError, match=f"{name}='other' is not one of"):
        NCSNpp2DModel(**{name: "other"})
