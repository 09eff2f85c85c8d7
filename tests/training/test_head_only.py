"""A variance head is put on a trained network and taught, and nothing else of the network moves."""

import pytest
import torch

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.errors import InputError
from ddpm_hf.training.head_only import freeze_all_but_head
from ddpm_hf.training.train import train


@pytest.fixture
def options(tmp_path, image_folder, tiny_pipeline):
    return {
        **{"dataset": image_folder, "init_from": tiny_pipeline, "output_dir": str(tmp_path / "run"), "seed": 3},
        **{"max_train_steps": 6, "batch_size": 4, "learning_rate": 1e-2, "num_samples": 1, "sample_steps": 1},
        **{"variance_head": "learned_range", "train_head_only": True, "ema_power": 0.5, "checkpoint_every": 4},
    }


@pytest.mark.parametrize("objective", ["hybrid", "vlb"])
def test_the_prediction_is_bit_for_bit_what_it_was(options, tiny_pipeline, objective):
    folder = train(TrainingArguments(**options, objective=objective))
    before = GaussianDiffusionPipeline.from_pretrained(tiny_pipeline).unet.eval()
    after = GaussianDiffusionPipeline.from_pretrained(folder).unet.eval()
    trained, averaged = after.state_dict(), before.state_dict()
    for name, weight in averaged.items():
        assert torch.equal(trained[name][: len(weight)], weight), name
    assert trained["conv_out.weight"][1:].abs().min() > 0  # the head began at zero
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(after(x, 5).sample[:, :1], before(x, 5).sample)
    assert after(x, 5).sample[:, 1:].abs().max() > 0


def test_the_trained_weights_beside_the_average_too(tiny_unet):
    """What is saved is the average; the weights that it is taken of do not move either."""
    unet = freeze_all_but_head(tiny_unet(variance_head="learned_range"))
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in unet.parameters() if p.requires_grad], lr=0.1, weight_decay=0)
    for _ in range(5):
        unet(torch.randn(2, 1, 8, 8), 5).sample.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, weight in unet.state_dict().items():
        rows = slice(1) if name.startswith("conv_out") else slice(None)
        assert torch.equal(weight[rows], before[name][rows]), name
    assert not torch.equal(unet.conv_out.weight[1:], before["conv_out.weight"][1:])


def test_a_head_that_is_there_already_is_taught_on(options, tmp_path):
    first = train(TrainingArguments(**options, objective="hybrid"))
    second = train(
        TrainingArguments(**options | {"init_from": str(first), "output_dir": str(tmp_path / "2")}, objective="hybrid")
    )
    weights = [GaussianDiffusionPipeline.from_pretrained(f).unet.conv_out.weight for f in (first, second)]
    assert torch.equal(weights[0][:1], weights[1][:1])
    assert not torch.equal(weights[0][1:], weights[1][1:])


def test_resumed_is_uninterrupted(options, tmp_path):
    train(TrainingArguments(**options | {"max_train_steps": 3}, objective="hybrid"))
    resumed = train(TrainingArguments(**options, objective="hybrid"))
    straight = train(TrainingArguments(**options | {"output_dir": str(tmp_path / "straight")}, objective="hybrid"))
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (resumed / name).read_bytes() == (straight / name).read_bytes()


def test_the_process_must_be_the_model_s(options, tiny_pipeline):
    trained = GaussianDiffusionScheduler(prediction_type="v_prediction", num_train_timesteps=500, beta_end=0.04)
    trained.save_pretrained(f"{tiny_pipeline}/scheduler")
    message = (
        "trained with num_train_timesteps=500 instead of 1000; beta_end=0.04 instead of 0.02; "
        "prediction_type=v_prediction instead of epsilon"
    )
    with pytest.raises(InputError, match=message):
        train(TrainingArguments(**options, objective="hybrid"))
