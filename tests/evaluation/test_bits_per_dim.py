"""The bound over a set of images equals the published implementation's, however it is computed."""

import json
import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.evaluation import bits_per_dim
from ddpm_hf.evaluation.seeded_noise import image_generators, noise_of_steps
from ddpm_hf.evaluation.variational_bound import bound_term, prior_term


@pytest.fixture
def images():
    """Ten images of 8x8, both ends of the range among the levels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (10, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = 0, 255
    return images


def score(unet, images, scheduler=None, num_inference_steps=5, **options):
    scheduler = scheduler or GaussianDiffusionScheduler()
    return bits_per_dim(
        unet, scheduler, images, num_inference_steps=num_inference_steps, progress_bar=False, **options
    )


# What it is ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"num_inference_steps": 20}, {"num_inference_steps": None, "timesteps": [700, 31, 4]}]
)
def test_it_is_the_sum_of_the_terms(stock_unet, images, options):
    result = score(stock_unet, images, **options)
    scheduler = GaussianDiffusionScheduler()
    scheduler.set_timesteps(**options)
    x0 = images / 127.5 - 1
    noise = noise_of_steps(image_generators(0, 0, x0), len(scheduler.timesteps), x0)
    stock_unet.eval()
    terms = [prior_term(scheduler, x0)]
    for t, eps in zip(scheduler.timesteps.tolist(), noise, strict=True):
        x_t = scheduler.add_noise(x0, eps, t)
        with torch.no_grad():
            terms.append(bound_term(scheduler, stock_unet(x_t, t).sample, t, x0, x_t))
    terms = torch.stack(terms).double() / (64 * math.log(2))
    assert result.timesteps == scheduler.timesteps.tolist()
    assert result.prior == pytest.approx(terms[0].mean().item(), rel=1e-5)
    assert result.terms == pytest.approx(terms[1:].mean(1).tolist(), rel=1e-4)
    assert result.per_image == pytest.approx(terms.sum(0).tolist(), rel=1e-4)
    assert result.total == pytest.approx(result.prior + sum(result.terms), rel=1e-6)
    assert result.standard_error == pytest.approx(terms.sum(0).std().item() / 10**0.5, rel=1e-4)


class KnowsNothing(torch.nn.Module):
    """Predicts x0 = 0, and a variance of its own for x0: log v."""

    def __init__(self, unet, log_variance):
        super().__init__()
        self.unet, self.log_variance = unet, log_variance
        self.config, self.dtype, self.device = unet.config, unet.dtype, unet.device

    def forward(self, sample, timestep, class_labels, return_dict):
        return (torch.cat([torch.zeros_like(sample), torch.full_like(sample, self.log_variance)], dim=1),)


def test_units(tiny_unet, images):
    """A decoder N(0, v) alone: the bits of each level are -log2 of the normal density times its bin of 2/255."""
    unet = KnowsNothing(tiny_unet(), math.log(0.5))
    scheduler = GaussianDiffusionScheduler(variance_type="learned", prediction_type="sample", clip_sample=False)
    images = images.clamp(1, 254)  # the bins at the ends are open
    result = score(unet, images, scheduler, None, timesteps=[0])
    x0 = images.double() / 127.5 - 1
    nats = x0**2 / (2 * 0.5) + 0.5 * math.log(2 * math.pi * 0.5) - math.log(2 / 255)
    assert result.terms == [pytest.approx(nats.mean().item() / math.log(2), rel=1e-4)]
    assert result.prior > 5  # x_0 is far from N(0, I)


# What must not matter ------------------------------------------------------------------------------------------------


def test_the_batches_do_not_matter(tiny_unet, images):
    unet = tiny_unet(variance_head="learned_range")
    scheduler = GaussianDiffusionScheduler(variance_type="learned_range")
    whole = score(unet, images, scheduler)
    for same in (score(unet, images, scheduler, batch_size=3), score(unet, list(images.split(4)), scheduler)):
        assert_close(torch.tensor(same.per_image), torch.tensor(whole.per_image), rtol=1e-5, atol=0)
        assert_close(torch.tensor(same.terms), torch.tensor(whole.terms), rtol=1e-5, atol=0)
    first = score(unet, images[:4], scheduler)
    assert_close(torch.tensor(first.per_image), torch.tensor(whole.per_image[:4]), rtol=1e-5, atol=0)
    assert score(unet, images, scheduler, seed=1).total != whole.total


def test_integers_and_floats_are_the_same_images(stock_unet, images):
    assert score(stock_unet, images).per_image == score(stock_unet, images / 127.5 - 1).per_image


def test_dropout_is_off_and_the_network_is_left_as_it_was(tiny_unet, images):
    unet = tiny_unet(dropout=0.5).train()
    assert score(unet, images).total == score(unet, images).total
    assert unet.training


def test_the_trajectory_of_the_scheduler_is_left_alone(stock_unet, images):
    scheduler = GaussianDiffusionScheduler()
    scheduler.set_timesteps(7)
    before = scheduler.timesteps.clone()
    assert len(score(stock_unet, images, scheduler).timesteps) == 5
    assert torch.equal(scheduler.timesteps, before)


@pytest.mark.parametrize("stock", [DDPMScheduler, DDIMScheduler])
def test_stock_schedulers_stand_for_the_ddpm_of_their_config(stock_unet, images, stock):
    """DDIM's config has eta 0 in ours, which has no bound; the chain that it was trained on has one."""
    ours = score(stock_unet, images, GaussianDiffusionScheduler(beta_schedule="squaredcos_cap_v2"))
    assert score(stock_unet, images, stock(beta_schedule="squaredcos_cap_v2")).terms == ours.terms


def test_labels(tiny_unet, images):
    unet, labels = tiny_unet(num_classes=3), torch.arange(10) % 3
    by_image = score(unet, images, class_labels=labels, batch_size=4).per_image
    for label in range(3):
        same = score(unet, images, class_labels=label).per_image
        assert torch.tensor(same)[labels == label].tolist() == pytest.approx(
            torch.tensor(by_image)[labels == label].tolist(), rel=1e-6
        )
        assert score(unet, images).per_image != pytest.approx(same, rel=1e-4)  # the null label


@pytest.mark.parametrize("levels", [2, 32])
def test_other_quantisation(stock_unet, levels):
    codes = torch.randint(levels, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    result = score(stock_unet, codes, levels=levels)
    assert result.levels == levels
    assert result.per_image == score(stock_unet, codes * (2 / (levels - 1)) - 1, levels=levels).per_image


def test_json(stock_unet, images):
    result = score(stock_unet, images)
    values = json.loads(result.to_json())
    assert values["unit"] == "bits per dimension" and values["num_images"] == 10
    assert values["total"] == result.total and values["terms"] == result.terms
    assert score(stock_unet, images[:1]).standard_error is None


@pytest.mark.slow
def test_two_processes_have_the_result_of_one(tiny_unet, images, measured_on_two_processes):
    pipeline = GaussianDiffusionPipeline(tiny_unet(), GaussianDiffusionScheduler())
    code = """
from ddpm_hf.evaluation import bits_per_dim
result = bits_per_dim(unet, scheduler, images, 5, batch_size=3, accelerator=accelerator)
"""
    alone = score(pipeline.unet, images)
    for shared in measured_on_two_processes(pipeline, images, code):
        assert shared["per_image"] == pytest.approx(alone.per_image, rel=1e-5)
        assert shared["terms"] == pytest.approx(alone.terms, rel=1e-5)


# What cannot be scored -----------------------------------------------------------------------------------------------


def with_value(images, image, value):
    images = images / 127.5 - 1
    images[image, 0, 2, 3] = value
    return images


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x.float(), r"Image 0 has the value \S+: images must be in \[-1, 1\], on the grid of levels=256"),
        (lambda x: with_value(x, 7, 1.5), "Image 7 has the value 1.5: images must be in"),
        (lambda x: with_value(x, 9, 0.0), "Image 9 has the value 0: .* Pass uint8 images, or the `levels`"),
        (lambda x: with_value(x, 8, math.nan), "Image 8 has the value nan"),
        (lambda x: x.int() + 3, r"Image 0 has the level 2\d\d: levels=256 are 0 .. 255"),
        (lambda x: x[0], r"Images of shape \(1, 8, 8\) must be \(N, 1, height, width\)"),
        (lambda x: x.repeat(1, 3, 1, 1), r"Images of shape \(4, 3, 8, 8\) must be \(N, 1, height, width\)"),
        (lambda x: x[:0], "There are no images"),
    ],
)
def test_images_that_are_not_data(stock_unet, images, change, message):
    calls = []
    stock_unet.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=message):
        score(stock_unet, change(images), batch_size=4)
    assert not calls  # a mistake in the last image is found before the work on the first


@pytest.mark.parametrize(
    "scheduler, message",
    [
        (
            FlowMatchEulerDiscreteScheduler(),
            "FlowMatchEulerDiscreteScheduler cannot be scored in bits per dimension",
        ),
        (GaussianDiffusionScheduler(eta=0.0), "eta > 0"),
        (DDPMScheduler(variance_type="learned_range"), "The model output has 1 channels .* needs 2"),
    ],
)
def test_schedulers_without_a_bound(stock_unet, images, scheduler, message):
    with pytest.raises(ValueError, match=message):
        score(stock_unet, images, scheduler)


def test_a_stock_scheduler_whose_variance_type_is_unknown(stock_unet, images):
    scheduler = DDPMScheduler.from_config(DDPMScheduler().config, variance_type="mine")
    with pytest.raises(ValueError, match="This DDPMScheduler cannot be scored .* variance_type='mine' is not one of"):
        score(stock_unet, images, scheduler)


def test_a_chain_of_another_length(tiny_unet, images):
    unet = tiny_unet(num_train_timesteps=500)
    with pytest.raises(ValueError, match="made for num_train_timesteps=500, the scheduler has 1000"):
        score(unet, images)


def test_terms_that_are_not_finite(stock_unet, images):
    class Spoilt(torch.nn.Module):
        config, dtype, device = stock_unet.config, stock_unet.dtype, stock_unet.device

        def forward(self, sample, timestep, class_labels, return_dict):
            output = stock_unet(sample, timestep).sample
            output[-1] = torch.where(timestep == 400, torch.nan, output[-1])
            return (output,)

    with pytest.raises(ValueError, match="term of timestep 400 of image 7 is nan, and 1 of"):
        score(Spoilt(), images, batch_size=8)


@pytest.mark.parametrize("labels, message", [([0, 1], "2 class_labels for 10 images"), (3, "class_labels=3 must be")])
def test_labels_that_do_not_fit(tiny_unet, images, labels, message):
    with pytest.raises(ValueError, match=message):
        score(tiny_unet(num_classes=2), images, class_labels=labels)
