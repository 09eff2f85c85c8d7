import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, ScoreSDEScheduler
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation import bits_per_dim
from ddpm_hf.evaluation.compare import (
    CALLS,
    QUICK,
    QUICK_CALLS,
    QUICK_CALLS_OF_AN_SDE,
    Request,
    _set_up_network,
    _task,
    compare,
)
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.evaluation.run import load_data
from ddpm_hf.evaluation.sampler_measurements import Task, _sample, settings_of
from ddpm_hf.evaluation.samplers import default_samplers, make_sampler, pipeline_with


@pytest.fixture
def data(dark_and_bright):
    return DataArguments(dataset=dark_and_bright, split="test")


@pytest.fixture
def model(tmp_path, stock_unet):
    """A folder of stock classes."""
    DDPMPipeline(stock_unet, DDPMScheduler()).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_bits_per_dim_can_be_left_out(tmp_path, model, feature_network, data, capsys):
    (measured,) = compare(
        model,
        tmp_path / "new",
        feature_network,
        data,
        samplers=["ddpm"],
        steps=[2],
        num_images=4,
        seeds=[0],
        bound_images=0,
    )
    assert measured.bits_per_dim is None and "2 network calls of 4 images" in capsys.readouterr().out
    assert "bits per dimension: not measured" in (tmp_path / "new" / "compare.md").read_text(encoding="utf-8")


def test_a_model_in_continuous_time(tmp_path, feature_network, data, capsys):
    """Without names of samplers it gets those of its process; a step with a correction counts as two calls."""
    unet = UNet2DModel(
        *(8, 1, 1), block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, time_embedding_type="fourier",
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
    )  # fmt: skip
    scheduler = ScoreSDEScheduler(sde="ve", centered=False)
    GaussianDiffusionPipeline(unet, scheduler).save_pretrained(tmp_path / "model")
    amounts = {"num_images": 4, "seeds": [0]}
    measured = compare(tmp_path / "model", tmp_path / "new", feature_network, data, steps=[4], **amounts)
    assert [m.sampler for m in measured] == list(default_samplers(scheduler))
    lengths = {m.sampler: len(m.timesteps) for m in measured}
    assert lengths == dict.fromkeys(lengths, 4) | {"predictor-corrector": 2}
    assert all(m.bits_per_dim is None for m in measured)
    assert f"{4 * len(measured)} network calls of 4 images" in capsys.readouterr().out
    usual = compare(
        tmp_path / "model", tmp_path / "usual", feature_network, data, True, samplers=["flow-euler"], **amounts
    )
    assert [m.steps for m in usual] == list(QUICK_CALLS_OF_AN_SDE)


def test_every_sampler_at_every_number_of_steps(tmp_path, model, feature_network, data, capsys):
    output, samplers = tmp_path / "new" / "compared", ["ddpm", "ddim", "unipc", "dpmpp-2m-karras"]
    options = {"samplers": samplers, "steps": [2, 4], "num_images": 20, "seeds": [0, 5], "batch_size": 8}
    measurements = compare(model, output, feature_network, data, **options)
    assert [(m.sampler, m.steps) for m in measurements] == [(name, k) for name in samplers for k in (2, 4)]
    for m in measurements:
        assert len(m.timesteps) == m.steps and m.seconds > 0
        assert len(set(m.distances)) == 2 and all(math.isfinite(d) and d > 0 for d in m.distances)
        assert (m.bits_per_dim is None) == (m.sampler != "ddpm")
    # 4 samplers, 2 seeds, 3 batches, 6 steps, and the bound: 6 steps of 3 batches
    printed = capsys.readouterr().out
    assert "162 network calls of 8 images in each process, about 0:" in printed

    pipeline = GaussianDiffusionPipeline.from_pretrained(model)
    images = load_data(data, pipeline.unet.config)[0]
    images = images[torch.randperm(40, generator=torch.Generator().manual_seed(0))[:20]]
    expected = bits_per_dim(pipeline.unet, make_sampler("ddpm", pipeline.scheduler), images, 4, batch_size=8)
    assert measurements[1].bits_per_dim == pytest.approx(expected.total, rel=1e-6)

    written = json.loads((output / "compare.json").read_text(encoding="utf-8"))
    assert [row["mean"] for row in written["measurements"]] == [m.mean for m in measurements]
    assert written["measurements"][0]["spread"] == measurements[0].spread > 0
    table = (output / "compare.md").read_text(encoding="utf-8")
    best = min((m for m in measurements if m.steps == 4), key=lambda m: m.mean)
    assert f"**{best.mean:.3g} ± {best.spread:.2g}**" in table and "| sampler | 2 | 4 |" in table
    assert "between two halves of the data" in written["settings"]["floor"]
    assert "## Bits per dimension" in table and f"| ddpm | {measurements[0].bits_per_dim:.3f} |" in table
    (line,) = [line for line in printed.splitlines() if line.startswith(best.sampler + " ")]
    assert f" {best.mean:.3g} ± {best.spread:.2g}* " in line
    assert printed.count("* ") == 2  # one sampler is the nearest at 2 steps, and one at 4
    assert Image.open(output / "compare.png").width > 1000
    # Two columns of 8 images of 88 pixels, and four rows of them with a caption each.
    table = Image.open(output / "compare_samples.png")
    assert 2 * 8 * 88 < table.width < 2 * 8 * 88 + 300 and 4 * 88 + 8 * 20 < table.height < 4 * 88 + 8 * 40
    assert sorted(path.name for path in output.glob("*.png")) == ["compare.png", "compare_samples.png"]


def test_quick_is_a_tenth_of_the_work_where_nothing_else_is_said(tmp_path, model, feature_network, data, capsys):
    """Of ten samplers two have a bound, which takes the calls of one seed more."""

    def images_called(request):
        return sum(QUICK_CALLS if request.quick else CALLS) * (
            10 * len(request.seeds) * request.num_images + 2 * request.bound_images
        )

    whole = Request(model, tmp_path, feature_network, data, bound_images=1000)
    assert 1 / 20 < images_called(whole._replace(**QUICK, quick=True)) / images_called(whole) < 1 / 8
    options = {"samplers": ["ddpm"], "num_images": 4, "steps": [2]}
    (measured,) = compare(model, tmp_path / "new", feature_network, data, quick=True, **options)
    assert measured.steps == 2 and len(measured.distances) == 1 and measured.bits_per_dim is None
    assert "1 samplers: 2 network calls of 4 images" in capsys.readouterr().out


def test_again_it_is_the_same_and_nothing_is_overwritten(tmp_path, model, feature_network, data):
    options = {"samplers": ["dpmpp-2m-sde"], "steps": [3], "num_images": 10, "seeds": [1]}
    first = compare(model, tmp_path / "a", feature_network, data, **options, batch_size=10)
    again = compare(model, tmp_path / "b", feature_network, data, **options, batch_size=3)
    assert again[0].distances == pytest.approx(first[0].distances, rel=1e-3)  # images are rounded to 8 bits
    assert first[0].spread is None
    assert f"| **{first[0].mean:.3g}** |" in (tmp_path / "a" / "compare.md").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="a is not empty"):
        compare(model, tmp_path / "a", feature_network, data, **options)


def test_noise_and_labels_of_an_image_are_its_own(tiny_unet):
    """Whatever the sampler and the batch: the first image of a set of 5 is that of a set of 1, seed by seed."""
    unet = tiny_unet(num_classes=3).eval()
    labels, bar = torch.tensor([2, 0, 1, 2, 1]), SimpleNamespace(update=lambda calls: None)
    task = Task(
        GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler()),
        labels,
        None,
        None,
        None,
        None,
        5,
        2,
        [0],
        Accelerator(),
    )
    places = range(5)
    for name in ("ddpm", "diffusers-ddpm", "dpmpp-2m"):
        sampler = make_sampler(name, task.pipeline.scheduler)
        images, _ = _sample(task, sampler, 3, 0, places, bar)
        one_by_one, seconds = _sample(task._replace(batch_size=1), sampler, 3, 0, places, bar)
        assert len(seconds) == 5 and min(seconds) > 0
        assert (images.int() - one_by_one.int()).abs().max() <= 1  # rounding to 8 bits
        assert (images.int() - _sample(task, sampler, 3, 1, places, bar)[0].int()).abs().max() > 30
        others, _ = _sample(task._replace(labels=labels.flip(0)), sampler, 3, 0, places, bar)
        assert torch.equal(others[2], images[2]) and not torch.equal(others[0], images[0])


def test_samples_that_are_not_finite(tiny_unet):
    """Converted to levels, they would be black images with a distance."""
    unet = tiny_unet().eval()
    unet.conv_out.bias.data.fill_(math.nan)
    pipeline, bar = (
        GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler()),
        SimpleNamespace(update=lambda calls: None),
    )
    task = Task(pipeline, None, None, None, None, None, 5, 2, [0], Accelerator())
    with pytest.raises(ValueError, match="Sample 3 is nan, and 128 of 128 .* not finite"):
        _sample(task, make_sampler("dpmpp-2m", pipeline.scheduler), 2, 0, range(3, 5), bar)


def test_half_precision_draws_and_bounds_stay_in_float32(tmp_path, tiny_unet, feature_network, data):
    pipeline = GaussianDiffusionPipeline(tiny_unet().eval(), GaussianDiffusionScheduler())
    request = Request("model", tmp_path, "features", data, num_images=5, bound_images=2, steps=[2], precision="bf16")
    single = _task(request, pipeline, load_features(feature_network), Accelerator())
    samplers, bar = {"ddpm": make_sampler("ddpm", pipeline.scheduler)}, SimpleNamespace(update=lambda calls: None)
    half = _set_up_network(single, request, samplers)
    exact, rounded = (_sample(task, samplers["ddpm"], 2, 0, range(5), bar)[0].int() for task in (single, half))
    assert half.drawing.dtype == torch.bfloat16 and pipeline.unet.dtype == torch.float32
    assert 0 < (exact - rounded).abs().float().mean() < 5
    bound = SimpleNamespace(bits_per_dim=1.0)
    settings = settings_of(half, [bound], "model", "features", data)
    assert settings["precision"] == "bf16 weights, bits per dimension in float32"


def test_a_conditional_model_is_asked_for_the_classes_of_the_data(tmp_path, tiny_unet, feature_network, data):
    pipeline = GaussianDiffusionPipeline(tiny_unet(num_classes=2), GaussianDiffusionScheduler())
    see = load_features(feature_network)
    request = Request("model", tmp_path, "features", data, num_images=50, batch_size=10, bound_images=50)
    task = _task(request, pipeline, see, Accelerator())
    brightness = task.held_out.float().mean((1, 2, 3))
    assert len(task.held_out) == 40 and len(task.labels) == 50
    assert torch.equal(task.labels[:40] == 1, brightness > 110) and torch.equal(task.labels[40:], task.labels[:10])
    pipeline.save_pretrained(tmp_path / "model")
    options = {"samplers": ["ddpm", "diffusers-ddim"], "steps": [2], "num_images": 12, "seeds": [0]}
    measurements = compare(tmp_path / "model", tmp_path / "out", feature_network, data, **options)
    assert measurements[0].bits_per_dim > 0 and measurements[1].bits_per_dim is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"samplers": ["ddpm", "best"]}, "sampler 'best' is not known"),
        ({"samplers": []}, r"samplers=\[\] must name at least one"),
        ({"samplers": ["ddim", "ddim"]}, "each once"),
        ({"samplers": ["ddim", "analytic-ddpm"]}, "'analytic-ddpm': .*ddpm-hf calibrate"),
        ({"samplers": ["ddim", "npr-ddim"]}, "this one has no variance head"),
        ({"steps": [2, 1001]}, "cannot take 1001 steps"),
        ({"steps": [0]}, "must be at least 1"),
        ({"num_images": 1}, "num_images=1 at least 2"),
        (
            {"num_images": 10**14},
            "the samples take .* GiB of memory, and .*: lower --num_images, which is 100000000000000",
        ),
        (
            {"seeds": [0, 2**62]},
            r"seeds=\[0, 4611686018427387904\] must be in 0 .. 2305843009213693950 for num_images=4",
        ),
        ({"features": "nowhere"}, "holds no config.json"),
        ({"data": DataArguments(dataset=str(Path(__file__).parent))}, "Cannot read split"),
    ],
)
def test_what_is_refused_before_the_work(tmp_path, model, feature_network, data, change, message):
    arguments = {"features": feature_network, "data": data, "samplers": ["ddim"], "steps": [2], "num_images": 4}
    with pytest.raises(InputError, match=message):
        compare(model, tmp_path / "out", **(arguments | change))
    assert not (tmp_path / "out").exists()


def test_samples_are_told_the_images_of_the_data(tmp_path, tiny_unet, feature_network):
    """Pairs and upscalers: each sample the condition of its image, whatever the batch; the column must be named."""
    (tmp_path / "data" / "told").mkdir(parents=True)
    pictures = torch.randint(256, (20, 2, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    lines = ["file_name,told_file_name"]
    for number, (image, told) in enumerate(pictures.numpy()):
        Image.fromarray(image).save(tmp_path / "data" / f"{number:02d}.png")
        Image.fromarray(told).save(tmp_path / "data" / "told" / f"{number:02d}.png")
        lines.append(f"{number:02d}.png,told/{number:02d}.png")
    (tmp_path / "data" / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    plain = DataArguments(dataset=str(tmp_path / "data"), image_column="image")
    pairs = DataArguments(dataset=str(tmp_path / "data"), condition_column="told")
    see, pair = load_features(feature_network), {"in_channels": 2, "condition_channels": 1}
    for data, options in ((pairs, {}), (plain, {"low_resolution": 4})):
        pipeline = GaussianDiffusionPipeline(tiny_unet(**pair, **options), GaussianDiffusionScheduler())
        request = Request("model", tmp_path, "features", data, num_images=6, batch_size=4, bound_images=2, seeds=[3])
        task = _task(request, pipeline, see, Accelerator())
        condition = pipeline.samples.condition
        images = load_data(data, pipeline.unet.config)[0].float() / 127.5 - 1
        order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(task.told, condition.split(images[order[:6]])[1] / 2 + 0.5, atol=1e-6)
        sampler, bar = make_sampler("ddim", pipeline.scheduler), SimpleNamespace(update=lambda calls: None)
        drawn = _sample(task, sampler, 2, 3, range(6), bar)[0]
        alone = pipeline_with(sampler, pipeline.unet)(
            generator=[torch.Generator().manual_seed(3 * 6 + 5)], condition_image=task.told[5:], num_inference_steps=2
        ).images[0]
        assert np.abs(drawn[5, 0].numpy().astype(int) - np.asarray(alone)).max() <= 1
    pipeline.save_pretrained(tmp_path / "upscaler")
    few = {"samplers": ["ddpm", "unipc"], "steps": [2], "num_images": 4, "seeds": [0]}
    measured = compare(str(tmp_path / "upscaler"), tmp_path / "compared", feature_network, plain, **few)
    assert measured[0].bits_per_dim > 0
    GaussianDiffusionPipeline(tiny_unet(**pair), GaussianDiffusionScheduler()).save_pretrained(tmp_path / "pairs")
    with pytest.raises(InputError, match="told the images of pairs: name the column"):
        compare(str(tmp_path / "pairs"), tmp_path / "other", feature_network, plain, **few)


def test_images_that_are_not_of_8_bits_are_refused(tmp_path, tiny_unet, feature_network, data):
    unet = tiny_unet(value_range=(0, 65535), levels=65536)
    GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler()).save_pretrained(tmp_path / "deep")
    with pytest.raises(InputError, match=r"values in \(0, 65535\), and features are of pictures of 8 bits"):
        compare(str(tmp_path / "deep"), tmp_path / "new", feature_network, data)
