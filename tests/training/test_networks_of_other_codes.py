"""Training on from networks of other codes."""

import pytest
import torch

from ddpm_hf import (
    ADMUNet2DModel,
    GaussianDiffusionPipeline,
    GaussianDiffusionScheduler,
    LinearAttentionUNet2DModel,
    NCSNpp2DModel,
)
from ddpm_hf.errors import InputError
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.train import train

SIZES = {"sample_size": 8, "in_channels": 1}
HEADS = {"full_attention": (False, True), "attention_heads": (2, 2), "attention_head_dim": (4, 4)}
NETWORKS = {
    "adm": lambda: ADMUNet2DModel(
        **SIZES,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        num_attention_heads=2,
        timestep_scale=0.5,
    ),
    "ncsnpp": lambda: NCSNpp2DModel(**SIZES, out_channels=1, block_out_channels=(8, 16), layers_per_block=1),
    "linear attention": lambda: LinearAttentionUNet2DModel(
        **SIZES,
        **HEADS,
        out_channels=1,
        first_channels=8,
        block_out_channels=(8, 16),
        memory_size=(2, 2),
        time_embedding_channels=8,
    ),
}


@pytest.fixture(params=NETWORKS)
def start(request, tmp_path):
    """A pipeline folder with a network."""
    torch.manual_seed(0)
    network = NETWORKS[request.param]()
    GaussianDiffusionPipeline(network, GaussianDiffusionScheduler()).save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def arguments(start, images, tmp_path, **options):
    return TrainingArguments(
        dataset=images,
        init_from=str(start),
        output_dir=str(tmp_path / "run"),
        max_train_steps=2,
        batch_size=4,
        num_samples=1,
        sample_steps=2,
        mixed_precision="no",
        **options,
    )


def test_the_class_of_the_network_stays(start, image_folder, tmp_path):
    before = GaussianDiffusionPipeline.from_pretrained(start).unet
    train(arguments(start, image_folder, tmp_path))
    after = GaussianDiffusionPipeline.from_pretrained(tmp_path / "run").unet
    assert type(after) is type(before)
    assert {k: v for k, v in after.config.items() if k[0] != "_"} == {
        k: v for k, v in before.config.items() if k[0] != "_"
    }
    assert any(not torch.equal(a, b) for a, b in zip(after.parameters(), before.parameters(), strict=True))


def test_a_head_is_for_networks_that_take_one(start, image_folder, tmp_path):
    options = {"variance_head": "learned_range", "objective": "hybrid"}
    if "ADMUNet2DModel" in (start / "unet" / "config.json").read_text(encoding="utf-8"):
        train(arguments(start, image_folder, tmp_path, **options))
        after = GaussianDiffusionPipeline.from_pretrained(tmp_path / "run").unet
        assert after.config.variance_head == "learned_range" and after.config.num_attention_heads == 2
    else:
        with pytest.raises(InputError, match="which takes no variance_head: train it without"):
            train(arguments(start, image_folder, tmp_path, **options))
