"""The self-check of a conversion notices options that are wrong, on a network that was trained here."""

import pytest
import torch
from foreign_names import in_improved_names

from ddpm_hf import (
    ADMUNet2DModel,
    ExactDenoiser,
    GaussianDiffusionPipeline,
    GaussianDiffusionScheduler,
    ScoreSDEScheduler,
)
from ddpm_hf.converters.convert import open_checkpoint
from ddpm_hf.converters.processes import sampled
from ddpm_hf.converters.self_check import (
    DATA_RANGE,
    Reading,
    SelfCheck,
    check_on_images,
    check_on_samples,
    errors_at_half_noise,
    half_noise,
    predicted_noise,
)
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.source import open_images

UPDATES = 300


def fashion(resolution=8):
    """The embedded images, small, in [-1, 1]."""
    images = open_images(DataArguments(resolution=resolution), None).select(range(2000)).decode()["images"]
    return images.float() / 127.5 - 1


def trained(data):
    """A network with two heads and attention at one level after some updates on data."""
    torch.manual_seed(0)
    unet = ADMUNet2DModel(
        sample_size=8,
        in_channels=1,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
        attn_norm_num_groups=32,
    )
    scheduler, optimizer = GaussianDiffusionScheduler(), torch.optim.AdamW(unet.parameters(), 2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, UPDATES)
    for _ in range(UPDATES):
        x0, t = data[torch.randint(len(data), (32,))], torch.randint(1000, (32,))
        noise = torch.randn_like(x0)
        loss = (unet(scheduler.add_noise(x0, noise, t), t).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        decay.step()
    return unet.eval()


@pytest.fixture(scope="module")
def images():
    return fashion()


@pytest.fixture(scope="module")
def checkpoint(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "ema.pt"
    torch.save(in_improved_names(trained(images)), path)
    return path


OPTIONS = {
    "image_size": 8,
    "use_new_attention_order": False,
    "num_heads": 4,
    "noise_schedule": "linear",
    "diffusion_steps": 1000,
}


def checked(checkpoint, images, **wrong):
    opened = open_checkpoint(checkpoint, OPTIONS | wrong)
    conversion = opened.read()
    return check_on_images(sampled(conversion), conversion, lambda changes: sampled(opened.read(changes)), images)


@pytest.mark.slow
def test_right_options_are_not_doubted(checkpoint, images):
    check = checked(checkpoint, images[:64])
    assert not check.is_doubtful and check.noise_error < 0.2, check.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "wrong"),
    [("use_new_attention_order", True), ("num_heads", 2), ("noise_schedule", "cosine"), ("predict_xstart", True)],
)
def test_wrong_options_are_doubted_by_name(checkpoint, images, option, wrong):
    check = checked(checkpoint, images[:64], **{option: wrong})
    assert check.better[0].option == option, check.text
    assert f"doubt {option}" in check.text


@pytest.mark.slow
def test_a_wrong_range_of_the_data_is_doubted(images, tmp_path):
    torch.save(in_improved_names(trained((images + 1) / 2)), tmp_path / "ema.pt")
    check = checked(tmp_path / "ema.pt", images[:64])
    assert check.better[0].option == DATA_RANGE, check.text


@pytest.mark.slow
def test_samples_show_a_wrong_prediction_type(checkpoint):
    for wrong, is_doubtful in (({}, False), ({"predict_xstart": True}, True)):
        conversion = open_checkpoint(checkpoint, OPTIONS | wrong).read()
        check = check_on_samples(conversion, SelfCheck().samples_of(sampled(conversion)))
        assert check.is_doubtful == is_doubtful, check.text


def test_a_network_without_training_is_doubted(improved):
    path, flags = improved(num_heads=2)
    check = checked(path, torch.rand(8, 1, 8, 8), **flags)
    assert check.is_doubtful and check.noise_error > 0.5


SCHEDULERS = {
    "epsilon": GaussianDiffusionScheduler(),
    "sample": GaussianDiffusionScheduler(prediction_type="sample"),
    "v_prediction": GaussianDiffusionScheduler(prediction_type="v_prediction"),
    "score": ScoreSDEScheduler(sde="ve", prediction_type="score", centered=False),
    "epsilon of sub-VP": ScoreSDEScheduler(sde="sub_vp"),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_noise_in_the_right_output_of_each_prediction_type(kind):
    scheduler = SCHEDULERS[kind]
    t, ratio = half_noise(scheduler)
    assert ratio == pytest.approx(0.5 if kind == "score" else 1.0, rel=0.01)
    x0, noise = torch.rand(2, 1, 8, 8, dtype=torch.float64), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    x_t = scheduler.add_noise(x0, noise, t)
    sigma = ((x_t - scheduler.add_noise(x0, 0 * noise, t)) / noise).mean()
    signal = sigma / ratio
    right = {"sample": x0, "v_prediction": signal * noise - sigma * x0, "score": -noise / sigma}.get(kind, noise)
    torch.testing.assert_close(predicted_noise(scheduler, right, t, x_t), noise, rtol=1e-5, atol=1e-5)


def test_the_exact_denoiser_of_an_image_has_no_error():
    image, scheduler = torch.rand(1, 1, 4, 4), GaussianDiffusionScheduler()
    pipeline = GaussianDiffusionPipeline(ExactDenoiser.from_points(image, scheduler), scheduler)
    errors, factor = errors_at_half_noise(pipeline, image.expand(3, -1, -1, -1))
    assert errors.shape == (3,) and errors.max() < 1e-6
    assert factor == pytest.approx(1 / image.expand(3, -1, -1, -1).var().item(), rel=0.02)


def test_chance_does_not_make_a_reading_better():
    errors = torch.tensor([1.0, 1.1, 0.9, 1.0])
    given = Reading("a", 1, errors, 1.0)
    assert not Reading("a", 2, errors + torch.tensor([0.1, -0.2, 0.1, -0.1]), 1.0).is_better_than(given)
    assert Reading("a", 2, errors - 0.1, 1.0).is_better_than(given)
    assert not Reading("a", 2, errors / 2, 4.0).is_better_than(given)


def test_noise_does_not_look_like_images(improved, images):
    conversion = open_checkpoint(*improved()).read()
    noise = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert check_on_samples(conversion, noise).is_doubtful
    assert not check_on_samples(conversion, images[:16]).is_doubtful


@pytest.mark.parametrize(
    ("name", "reason"),
    [("guided_sr", "the network is told a small image"), ("guided_classifier", "a classifier predicts no noise")],
)
def test_what_cannot_be_checked(foreign, name, reason):
    model, said = foreign(name), []
    opened = open_checkpoint(model.checkpoint, model.options)
    conversion = opened.read()
    assert SelfCheck(tell=said.append)(opened, conversion, sampled(conversion)) is None
    assert said[0].startswith(f"The reading is not checked, for {reason}")


def test_a_network_of_continuous_time_is_checked_too(foreign):
    model, said = foreign("ncsnpp_residual"), []
    opened = open_checkpoint(model.checkpoint, model.options)
    conversion = opened.read()
    pipeline, images = sampled(conversion), torch.rand(8, 3, 8, 8) * 2 - 1
    check = check_on_images(pipeline, conversion, lambda changes: pipeline, images)
    assert check.is_doubtful and check.noise_error > 0.5  # its weights are random
    assert SelfCheck(steps=3, number=2, tell=said.append)(opened, conversion, pipeline).number == 2


def test_images_are_read_in_the_size_of_the_network(improved):
    said, opened = [], open_checkpoint(*improved())
    conversion = opened.read()
    check = SelfCheck(DataArguments(split="test"), number=4, tell=said.append)(opened, conversion, sampled(conversion))
    assert check.number == 4 and said == [check.text]
