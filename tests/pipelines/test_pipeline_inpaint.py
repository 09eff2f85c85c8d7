import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.pipelines.image_inputs import prepare_images
from ddpm_hf.pipelines.pipeline_inpaint import GaussianDiffusionInpaintPipeline, resampled

RIGHT_HALF = np.arange(8)[None].repeat(8, 0) >= 4


@pytest.fixture
def inpaint(tiny_unet):
    def make(unet=None, **config):
        pipeline = GaussianDiffusionPipeline(unet or tiny_unet(num_classes=3), GaussianDiffusionScheduler(**config))
        edit = GaussianDiffusionInpaintPipeline.from_pipe(pipeline)
        assert edit.unet is pipeline.unet and edit.scheduler is pipeline.scheduler
        edit.set_progress_bar_config(disable=True)
        return edit

    return make


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# The order of the steps -----------------------------------------------------------------------------------------------


def test_each_stretch_is_walked_so_often():
    """The schedule of the paper's appendix jumps up at the states 0, j, 2j, .. below the top, counted from below."""
    assert resampled([60, 50, 40, 30, 20, 10, 0], 2, 2) == [60, 50, 60, 50, 40, 30, 40, 30, 20, 10, 20, 10, 0]
    assert resampled([50, 40, 30, 20, 10, 0], 2, 3) == [50, *[40, 30] * 3, *[20, 10] * 3, 0]
    assert resampled([30, 20, 10, 0], 10, 2) == [30, 20, 10, 30, 20, 10, 0]
    assert resampled([30, 20, 10, 0], 1, 1) == [30, 20, 10, 0]
    assert resampled([0], 10, 10) == [0]


def test_number_of_network_calls_of_the_paper():
    """250 steps, jumps of 10, 10 times: 24 stretches of ten are walked ten times, and ten steps once."""
    assert len(resampled(list(range(249, -1, -1)), 10, 10)) == 24 * 10 * 10 + 10


# What comes out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["leading", "linspace", "karras"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_known_pixels_come_out_as_given(inpaint, picture, spacing, eta, steps):
    edit, image = inpaint(timestep_spacing=spacing), picture()
    kwargs = {"jump_length": 2, "jump_n_sample": 2, "num_inference_steps": steps, "eta": eta}
    painted = np.array(edit(image, RIGHT_HALF, generator=seeded(), **kwargs).images[0])
    assert np.array_equal(painted[:, :4], np.array(image)[:, :4])
    assert not np.array_equal(painted[:, 4:], np.array(image)[:, 4:])
    latents = edit(image, RIGHT_HALF, generator=seeded(), output_type="latent", **kwargs).images
    assert torch.equal(latents[..., :4], prepare_images(edit, image)[..., :4])


@pytest.mark.parametrize("variance_type", ["learned_range", "npr"])
def test_with_a_variance_head(inpaint, tiny_unet, picture, variance_type):
    edit = inpaint(tiny_unet(variance_head=variance_type), variance_type=variance_type)
    painted = edit(picture(), RIGHT_HALF, 2, 2, num_inference_steps=5, generator=seeded()).images[0]
    assert np.array_equal(np.array(painted)[:, :4], np.array(picture())[:, :4])


def test_all_to_be_painted_is_sampling(inpaint, picture):
    """Without known pixels and jumps it is the main pipeline's walk."""
    edit, latents = inpaint(), torch.randn(2, 1, 8, 8, generator=seeded())
    whole = GaussianDiffusionPipeline.from_pipe(edit)
    whole.set_progress_bar_config(disable=True)
    kwargs = {"latents": latents, "num_inference_steps": 4, "eta": 0.0, "output_type": "pt"}
    kwargs |= {"class_labels": [0, 2], "guidance_scale": 2.0}
    painted = edit(picture(), np.ones((8, 8)), jump_n_sample=1, **kwargs).images
    assert_close(painted, whole(**kwargs).images, rtol=0, atol=1e-6)


def test_nothing_to_be_painted_is_the_image(inpaint, picture):
    image = inpaint()(picture(), np.zeros((8, 8)), num_inference_steps=3).images[0]
    assert np.array_equal(np.array(image), np.array(picture()))


def test_noise_level_after_steps_and_jumps(inpaint):
    """The known pixels of an image of zeros have the variance 1 - abar of their timestep, jumps included."""
    edit, seen = inpaint(unet=None), []
    edit.unet.register_forward_pre_hook(lambda module, args: seen.append((int(args[1]), args[0].var().item())))
    image = torch.full((400, 1, 8, 8), 0.5)
    edit(image, np.zeros((8, 8)), 2, 2, num_inference_steps=5, generator=seeded(), output_type="pt")
    assert [t for t, _ in seen] == [800, 600, 800, 600, 400, 200, 400, 200, 0]
    for t, variance in seen:
        assert abs(variance / (1 - edit.scheduler.alpha_bar(t).item()) - 1) < 0.03


def test_images_do_not_depend_on_the_batches(inpaint, tiny_unet, picture):
    # A network in float64: in float32 a batch of another size is rounded otherwise.
    edit, images = inpaint(tiny_unet(num_classes=3).double()), [picture(i) for i in range(3)]
    masks = [RIGHT_HALF, ~RIGHT_HALF, RIGHT_HALF.T]
    kwargs = {"jump_length": 2, "jump_n_sample": 2, "num_inference_steps": 4, "output_type": "pt"}
    kwargs |= {"guidance_scale": 1.5, "guidance_interval": (0.1, 5.0)}
    generators = [seeded(i) for i in range(3)]
    together = edit(images, masks, class_labels=[0, 1, 2], generator=generators, **kwargs).images
    for i in range(3):
        alone = edit(images[i], masks[i], class_labels=i, generator=seeded(i), **kwargs).images
        assert_close(alone, together[i : i + 1], rtol=0, atol=1e-5)


def test_the_callback_sees_known_pixels_and_changes_the_rest(inpaint, picture):
    edit, x_0, seen = inpaint(), None, []
    x_0 = prepare_images(edit, picture())

    def callback(pipeline, step, timestep, tensors):
        seen.append((int(timestep), sorted(tensors)))
        if step == 3:
            assert torch.equal(tensors["latents"][..., :4], x_0[..., :4])
            return {"latents": torch.zeros_like(tensors["latents"])}

    wanted = ("latents", "pred_original_sample")
    image = edit(
        picture(),
        RIGHT_HALF,
        jump_n_sample=1,
        num_inference_steps=4,
        output_type="latent",
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=wanted,
    ).images
    assert seen == [(t, sorted(wanted)) for t in (750, 500, 250, 0)] and (image == 0).all()


class OneGreyPredictor(torch.nn.Module):
    """E[eps | x_t] of images of one grey each, x0 = m (1, .., 1) with m ~ N(0, 0.25)."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, config, scheduler):
        super().__init__()
        self.config, self.scheduler = config, scheduler

    def forward(self, sample, timestep, class_labels=None, return_dict=False):
        alpha_bar = self.scheduler.alpha_bar(timestep).item()
        pixels = sample[0].numel()
        precision = pixels * alpha_bar / (1 - alpha_bar) + 1 / 0.25
        m = alpha_bar**0.5 / (1 - alpha_bar) * sample.sum((1, 2, 3), keepdim=True) / precision
        return ((sample - alpha_bar**0.5 * m) / (1 - alpha_bar) ** 0.5,)


def test_what_is_painted_fits_what_is_known(stock_unet):
    """With the exact prediction the painted half approaches the grey of the known one, more closely with jumps."""
    scheduler, errors = GaussianDiffusionScheduler(clip_sample=False), []
    edit = GaussianDiffusionInpaintPipeline(OneGreyPredictor(stock_unet.config, scheduler), scheduler)
    edit.set_progress_bar_config(disable=True)
    levels = torch.tensor([0.2, 0.5, 0.8]).reshape(3, 1, 1, 1).expand(3, 1, 8, 8)
    for jump_n_sample in (1, 10):
        kwargs = {"num_inference_steps": 50, "output_type": "pt", "generator": seeded()}
        images = edit(levels, RIGHT_HALF, 5, jump_n_sample, **kwargs).images
        errors.append((images - levels)[..., 4:].mean((1, 2, 3)).abs().max().item())
    assert errors[1] < 0.1 and errors[1] < errors[0]


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mask_image": np.zeros((4, 4))}, "8x8; got 4x4"),
        ({"mask_image": np.full((8, 8), 2.0)}, "mask_image has the value 2; it must be 0"),
        ({"jump_length": 0}, "jump_length=0 must be a whole number of at least 1"),
        ({"jump_n_sample": 1.5}, "jump_n_sample=1.5 must be"),
        ({"output_type": "png"}, "output_type='png' is not one of"),
        ({"generator": [seeded()] * 2, "class_labels": [0, 1, 2]}, "class_labels: 3, generator: 2"),
        ({"class_labels": 7}, "class_labels=7 must be"),
    ],
)
def test_bad_arguments(inpaint, picture, arguments, message):
    with pytest.raises(ValueError, match=message):
        inpaint()(**({"image": picture(), "mask_image": RIGHT_HALF, "num_inference_steps": 2} | arguments))


def test_second_order_walks_only_straight_down(inpaint, picture):
    edit = inpaint(solver_order=2)
    with pytest.raises(ValueError, match="solver_order=2 uses the step before"):
        edit(picture(), RIGHT_HALF, num_inference_steps=4)
    edit(picture(), RIGHT_HALF, jump_n_sample=1, num_inference_steps=4)
