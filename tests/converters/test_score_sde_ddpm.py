"""DDPM's network in score_sde's layout, against its architecture written out with the numbered weights."""

import pytest
import torch
from diffusers import UNet2DModel
from numbered_ddpm import NumberedDDPM, Weights

from ddpm_hf.converters import convert_checkpoint
from ddpm_hf.errors import InputError

WIDTH, MULTIPLES, LAYERS, ATTENTION = 32, (1, 2, 2), 2, (4,)
OPTIONS = {
    "training": {"sde": "vpsde", "continuous": False},
    "data": {"image_size": 8, "centered": True},
    "model": {
        "name": "ddpm",
        "nf": WIDTH,
        "ch_mult": MULTIPLES,
        "num_res_blocks": LAYERS,
        "attn_resolutions": ATTENTION,
    }
    | {"scale_by_sigma": False, "num_scales": 1000},
}


@pytest.fixture
def written(tmp_path):
    """A checkpoint with random weights, inputs, and the outputs in float64."""
    torch.manual_seed(0)
    weights, x, t = Weights(), torch.randn(2, 3, 8, 8), torch.tensor([3, 700])
    network = NumberedDDPM(weights, tuple(WIDTH * m for m in MULTIPLES), LAYERS, ATTENTION, torch.float64)
    expected = network(x.double(), t)
    torch.save({"model": weights.named(), "step": 1}, tmp_path / "checkpoint.pth")
    return tmp_path / "checkpoint.pth", (x, t), expected


def test_the_output_is_that_of_the_architecture(written):
    checkpoint, (x, t), expected = written
    pipeline = convert_checkpoint(checkpoint, OPTIONS)
    assert pipeline.unet.config.up_block_types == ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    assert pipeline.scheduler.config.beta_end == pytest.approx(0.02)
    with torch.no_grad():
        error = (pipeline.unet(x, t).sample - expected).abs().max()
        in_double = (pipeline.unet.double()(x.double(), t).sample - expected).abs().max()
    assert error < 2e-5 * expected.abs().max()
    assert in_double < 5e-6 * expected.abs().max()  # frequencies of the sines are rounded in another order


def test_after_saving_it_is_a_stock_network(written, tmp_path):
    checkpoint, (x, t), expected = written
    convert_checkpoint(checkpoint, OPTIONS, tmp_path / "new")
    with torch.no_grad():
        output = UNet2DModel.from_pretrained(tmp_path / "new", subfolder="unet")(x, t).sample
    assert (output - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"scale_by_sigma": True}}, "model.scale_by_sigma=True with model.name='ddpm' is not held"),
        ({"data": {"centered": False}}, "data.centered=False with model.name='ddpm' is not held"),
        ({"model": {"resamp_with_conv": False}}, "model.resamp_with_conv=False of score_sde is not held"),
        ({"model": {"nf": 64}}, "model.nf"),
        ({"model": {"num_res_blocks": 1}}, "The checkpoint has no|has weights that|does not hold"),
        ({"model": {"attn_resolutions": [8]}}, "The checkpoint has no|has weights that|does not hold"),
    ],
)
def test_options_of_another_model_are_refused(written, changes, said):
    options = {section: values | changes.get(section, {}) for section, values in OPTIONS.items()}
    with pytest.raises(InputError, match=said):
        convert_checkpoint(written[0], options)
