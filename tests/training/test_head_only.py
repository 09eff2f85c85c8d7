"""A variance head is added to a trained network and trained, while the rest of the network stays."""

import pytest
import torch
from diffusers import UNet2DModel

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.errors import InputError
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.head_only import freeze_all_but_head
from ddpm_hf.training.train import train


@pytest.fixture
def options(tmp_path, image_folder, tiny_pipeline):
    return {
        **{"dataset": image_folder, "init_from": tiny_pipeline, "output_dir": str(tmp_path / "run"), "seed": 3},
        **{"max_train_steps": 6, "batch_size": 4, "learning_rate": 1e-2, "num_samples": 1, "sample_steps": 1},
        **{"variance_head": "learned_range", "train_head_only": True, "ema_power": 0.5, "checkpoint_every": 4},
    }


HEADS_AND_OBJECTIVES = [("learned_range", "hybrid"), ("learned_range", "vlb"), *((h, h) for h in ("npr", "sn", "ocm"))]


@pytest.mark.parametrize(("head", "objective"), HEADS_AND_OBJECTIVES)
def test_the_prediction_is_bit_for_bit_what_it_was(options, tiny_pipeline, head, objective):
    folder = train(TrainingArguments(**options | {"variance_head": head}, objective=objective))
    before = GaussianDiffusionPipeline.from_pretrained(tiny_pipeline).unet.eval()
    after = GaussianDiffusionPipeline.from_pretrained(folder).unet.eval()
    trained, averaged = after.state_dict(), before.state_dict()
    for name, weight in averaged.items():
        assert torch.equal(trained[name][: len(weight)], weight), name
    assert trained["conv_out.weight"][1:].abs().min() > 0  # the head began at zero
    assert (trained["conv_out.bias"][1:] != 0).all()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(after(x, 5).sample[:, :1], before(x, 5).sample)
    assert after(x, 5).sample[:, 1:].abs().max() > 0
    stock = UNet2DModel.from_pretrained(folder, subfolder="unet").eval()
    assert type(stock) is UNet2DModel and stock.config.out_channels == 2
    assert torch.equal(stock(x, 5).sample, after(x, 5).sample)


@pytest.mark.parametrize(
    ("head", "prediction_type"), [("npr", "epsilon"), ("sn", "sample"), ("ocm", "v_prediction"), ("ocm", "epsilon")]
)
def test_the_result_samples_with_its_head(options, tiny_pipeline, head, prediction_type):
    trained = GaussianDiffusionScheduler(prediction_type=prediction_type)
    trained.save_pretrained(f"{tiny_pipeline}/scheduler")
    options |= {"variance_head": head, "prediction_type": prediction_type}
    pipeline = GaussianDiffusionPipeline.from_pretrained(train(TrainingArguments(**options)))
    assert pipeline.scheduler.config.variance_type == head
    assert pipeline.unet.config.out_channels == 2
    for eta in (0.0, 1.0):
        assert pipeline(batch_size=2, num_inference_steps=3, eta=eta).images[0].size == (8, 8)


def test_what_is_known_of_the_process_stays_with_the_model(options, tiny_pipeline):
    measured = [1 - (t + 1) / 2000 for t in range(1000)]
    known = {"clip_sample_range": 1.5, "clip_variance_pixels": 2.0, "timestep_plans": {"2": [999, 10]}}
    trained = GaussianDiffusionScheduler(variance_type="analytic", mean_square_epsilon=measured, **known)
    trained.save_pretrained(f"{tiny_pipeline}/scheduler")
    config = GaussianDiffusionPipeline.from_pretrained(train(TrainingArguments(**options))).scheduler.config
    assert config.variance_type == "learned_range"
    for name, value in (known | {"mean_square_epsilon": measured}).items():
        assert config[name] == value, name


def test_the_trained_weights_beside_the_average_too(tiny_unet):
    """The average is saved; its frozen weights do not change either."""
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


@pytest.mark.parametrize("head", ["learned_range", "npr", "sn", "ocm"])
def test_resumed_is_uninterrupted(options, tmp_path, head):
    options |= {"variance_head": head}
    train(TrainingArguments(**options | {"max_train_steps": 3}))
    resumed = train(TrainingArguments(**options))
    straight = train(TrainingArguments(**options | {"output_dir": str(tmp_path / "straight")}))
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (resumed / name).read_bytes() == (straight / name).read_bytes()


def test_another_head_is_not_taught_on(options, tmp_path):
    first = train(TrainingArguments(**options | {"variance_head": "npr"}))
    other = options | {"variance_head": "sn", "init_from": str(first), "output_dir": str(tmp_path / "2")}
    with pytest.raises(InputError, match="has variance_head=npr, but the data and options ask for sn"):
        train(TrainingArguments(**other))
    assert not (tmp_path / "2").exists()


def test_ocm_is_taught_in_mixed_precision(options):
    """Its derivative goes through autocast."""
    folder = train(TrainingArguments(**options | {"variance_head": "ocm", "mixed_precision": "bf16"}))
    head = GaussianDiffusionPipeline.from_pretrained(folder).unet.conv_out.weight[1:]
    assert head.isfinite().all() and head.abs().min() > 0


def test_the_process_must_be_the_model_s(options, tiny_pipeline):
    trained = GaussianDiffusionScheduler(prediction_type="v_prediction", num_train_timesteps=500, beta_end=0.04)
    trained.save_pretrained(f"{tiny_pipeline}/scheduler")
    message = (
        "trained with num_train_timesteps=500 instead of 1000; beta_end=0.04 instead of 0.02; "
        "prediction_type=v_prediction instead of epsilon"
    )
    with pytest.raises(InputError, match=message):
        train(TrainingArguments(**options, objective="hybrid"))
