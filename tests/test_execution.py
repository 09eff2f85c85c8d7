"""The fastest way to call a network is measured, kept, and changes nothing but rounding."""

import copy
import json
import time

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from ddpm_hf import (
    DDPMUNet2DModel,
    ExactDenoiser,
    GaussianDiffusionPipeline,
    GaussianDiffusionScheduler,
    MLPDenoiser,
)
from ddpm_hf.commands.options import DrawingExecutionOptions
from ddpm_hf.errors import InputError
from ddpm_hf.execution import Execution, can_change, can_compile, check_precision, fastest_execution
from ddpm_hf.execution_cache import cache_file, remembered
from ddpm_hf.pipelines.network_speed import one_call, set_up_network
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.model_setup import set_up_model
from ddpm_hf.training.text_encoders import open_text_parts

CPU = torch.device("cpu")


@pytest.fixture
def network():
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return DDPMUNet2DModel(sample_size=8, in_channels=1, out_channels=1, **sizes, **blocks).eval()


def call(network):
    with torch.no_grad():
        return network(torch.ones(2, 1, 8, 8, dtype=network.dtype), 3).sample


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_another_execution_computes_the_same_to_rounding(network, precision, channels_last, caplog):
    expected = call(network)
    Execution(precision, channels_last).apply(network)
    output = call(network)
    assert output.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    tolerance = 1e-5 if precision == "fp32" else 0.05
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=tolerance * expected.abs().max().item())
    assert not caplog.records


class Slow(nn.Module):
    """A network that takes longer in the precisions of `slow`."""

    def __init__(self, slow):
        super().__init__()
        self.layer, self.slow = nn.Conv2d(1, 1, 1), slow


def call_slowly(network):
    time.sleep(0.05 if network.layer.weight.dtype in network.slow else 0.005)


def test_the_fastest_is_taken_and_the_network_stays_as_it_is():
    network = Slow([torch.float32])
    chosen, calls = fastest_execution(network, call_slowly, CPU, precision="auto", channels_last="no")
    assert network.layer.weight.dtype == torch.float32
    if len(calls) == 2:  # where the processor computes in bf16
        assert chosen == Execution("bf16") and calls[chosen] > calls[Execution()]
    else:
        assert chosen == Execution()


def test_a_small_gain_is_not_taken():
    network = Slow([torch.float32, torch.bfloat16])
    assert fastest_execution(network, call_slowly, CPU)[0] == Execution()


def test_what_is_chosen_by_the_user_is_not_measured(network):
    def never(network):
        raise AssertionError("it was called")

    assert fastest_execution(network, never, CPU, "bf16", "yes") == (Execution("bf16", True), {})


def test_networks_without_convolutions_and_exact_ones_stay_in_their_precision(network):
    assert can_change(network)
    assert not can_change(network.double())
    assert not can_change(MLPDenoiser())


def test_what_was_measured_is_kept_for_the_network_and_the_batch(network, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    measured = []

    def measure():
        measured.append(1)
        return Execution("bf16", True)

    assert [remembered(network, 4, CPU, measure) for _ in range(2)] == [Execution("bf16", True)] * 2
    assert len(measured) == 1 and len(json.loads(cache_file().read_text())) == 1
    remembered(network, 5, CPU, measure)
    assert len(measured) == 2
    cache_file().write_text("{")
    remembered(network, 4, CPU, measure)
    assert len(measured) == 3


def test_a_home_that_cannot_be_written_costs_only_the_measurement(network, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "file"))
    assert remembered(network, 4, CPU, Execution) == Execution()


def test_a_precision_that_a_device_does_not_compute_is_refused():
    check_precision("bf16", CPU)
    with pytest.raises(InputError, match="precision='bf16' cannot be computed on meta with torch .*: take "):
        check_precision("bf16", torch.device("meta"))


# The command line ----------------------------------------------------------------------------------------------------


@pytest.fixture
def pipeline(network):
    return GaussianDiffusionPipeline(network, GaussianDiffusionScheduler())


def test_little_work_stays_in_float32_and_much_is_measured(pipeline, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    set_up_network(pipeline, DrawingExecutionOptions(), batch_size=2, calls=10)
    assert pipeline.unet.dtype == torch.float32 and not cache_file().exists()
    set_up_network(pipeline, DrawingExecutionOptions(compile="no"), batch_size=2, calls=10**6)
    (kept,) = json.loads(cache_file().read_text(encoding="utf-8")).values()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[kept["precision"]]
    assert pipeline.unet.dtype == dtype
    assert (kept == Execution()._asdict()) == ("Faster here" not in capsys.readouterr().out)


def test_a_measurement_that_fails_falls_back_and_says_so(pipeline, capsys):
    def full(module, inputs):
        raise RuntimeError("out of memory")

    pipeline.unet.register_forward_pre_hook(full)
    set_up_network(pipeline, DrawingExecutionOptions(), batch_size=2, calls=10**6)
    assert pipeline.unet.dtype == torch.float32
    assert "could not be measured (out of memory): fp32 weights it is." in capsys.readouterr().out


def test_without_a_compiler_nothing_is_compiled_and_that_is_said_once(pipeline, monkeypatch, caplog):
    def no_compiler(function):
        raise RuntimeError("g++ is not there")

    monkeypatch.setattr(torch, "compile", no_compiler)
    can_compile.cache_clear()
    for _ in range(2):
        set_up_network(pipeline, DrawingExecutionOptions(compile="yes"), batch_size=2, calls=10)
    set_up_model(pipeline.unet, TrainingArguments(max_train_steps=1, compile="yes"), CPU)
    assert pipeline.unet._compiled_call_impl is None
    (said,) = caplog.messages
    assert said.startswith(
        "The network is not compiled, for torch.compile does not work on cpu here (g++ is not there)"
    )
    can_compile.cache_clear()


def test_what_was_begun_decides_what_is_open():
    begun = Execution("bf16", channels_last=True)
    assert begun.for_what_is_open_in(DrawingExecutionOptions()) == ("bf16", "yes", "no")
    assert begun.for_what_is_open_in(DrawingExecutionOptions(precision="fp32")) == ("fp32", "yes", "no")


def test_the_precision_of_the_options_is_that_of_the_network(pipeline, tmp_path):
    set_up_network(pipeline, DrawingExecutionOptions(precision="bf16", channels_last="yes"), batch_size=2, calls=10)
    assert pipeline.unet.dtype == torch.bfloat16
    assert pipeline.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert pipeline(batch_size=1, num_inference_steps=2, output_type="np").images.shape == (1, 8, 8, 1)


def test_an_exact_network_is_not_rounded():
    exact = GaussianDiffusionPipeline(
        ExactDenoiser.from_points(torch.randn(3, 1, 4, 4), GaussianDiffusionScheduler()), GaussianDiffusionScheduler()
    )
    set_up_network(exact, DrawingExecutionOptions(), batch_size=1, calls=10**6)
    with pytest.raises(InputError, match="--precision bf16 is for networks of convolutions in float32"):
        set_up_network(exact, DrawingExecutionOptions(precision="bf16"), batch_size=1, calls=1)


def test_a_network_that_is_told_a_text_is_called_in_both_precisions():
    parts = open_text_parts(None, ["a red shirt", "a bag"])
    sizes = {"block_out_channels": (8,), "norm_num_groups": 4, "layers_per_block": 1, "attention_head_dim": 2}
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    network = UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, cross_attention_dim=parts.width, **sizes, **blocks
    )
    told = {"text_encoder": parts.text_encoder, "tokenizer": parts.tokenizer}
    call = one_call(GaussianDiffusionPipeline(network, GaussianDiffusionScheduler(), **told), batch_size=2)
    single = call(network)
    half = copy.deepcopy(network)
    Execution("bf16").apply(half)
    assert call(half) == pytest.approx(single, rel=0.2, abs=0.5)


UPSCALER = {"in_channels": 2, "condition_channels": 1, "low_resolution": 4}


@pytest.mark.parametrize(
    "told",
    [
        UPSCALER,
        UPSCALER | {"num_classes": 3, "max_augmentation_level": 0.5},
        UPSCALER | {"max_augmentation_level": 0.5},
        {"condition_value_range": (0, 100)},
    ],
    ids=["image", "image_level_and_class", "image_and_level", "number"],
)
def test_what_networks_are_told_is_known_where_the_fastest_precision_is_looked_for(tiny_unet, told):
    network = tiny_unet(**told)
    pipeline = GaussianDiffusionPipeline(network, GaussianDiffusionScheduler())
    call, half = one_call(pipeline, batch_size=2), copy.deepcopy(network)
    Execution("bf16").apply(half)
    assert call(half) == pytest.approx(call(network), rel=0.2, abs=0.5)
