import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler

# The same weights read from a file lie elsewhere in memory, and convolutions may then round otherwise.
ROUNDING = {"rtol": 0, "atol": 1e-4}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(pipeline, *args, seed=0, **kwargs):
    kwargs = {"num_inference_steps": 4, "generator": seeded(seed), "output_type": "pt"} | kwargs
    return quiet(pipeline)(*args, **kwargs).images


def recorded_calls(unet):
    """A list that grows by (sample, timestep, labels) with every call of the network."""
    calls = []
    unet.register_forward_pre_hook(lambda module, args: calls.append(args))
    return calls


# Against the stock pipelines, which ours stands in for and whose place it takes ---------------------------------------


def test_same_images_as_the_stock_pipelines(stock_unet):
    ours = GaussianDiffusionPipeline(stock_unet, DDPMScheduler())
    theirs = DDPMPipeline(stock_unet, DDPMScheduler())
    images = [sample(pipeline, batch_size=2, num_inference_steps=20) for pipeline in (ours, theirs)]
    assert_close(images[0], images[1], rtol=0, atol=1e-4)
    ours = GaussianDiffusionPipeline(stock_unet, DDIMScheduler(clip_sample=False))
    theirs = DDIMPipeline(stock_unet, DDIMScheduler(clip_sample=False))
    assert_close(*(sample(p, batch_size=2, num_inference_steps=20) for p in (ours, theirs)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("stock_pipeline", [False, True])
@pytest.mark.parametrize("stock_scheduler", [False, True])
def test_every_pairing_runs_is_saved_and_loads_again(tmp_path, stock_unet, stock_pipeline, stock_scheduler):
    scheduler = DDPMScheduler() if stock_scheduler else GaussianDiffusionScheduler()
    pipeline_class = DDPMPipeline if stock_pipeline else GaussianDiffusionPipeline
    pipeline = pipeline_class(unet=stock_unet, scheduler=scheduler)
    images = sample(pipeline)
    pipeline.save_pretrained(tmp_path)
    for loader in (DiffusionPipeline, DDPMPipeline, GaussianDiffusionPipeline):
        loaded = loader.from_pretrained(tmp_path)
        assert type(loaded) is (DDPMPipeline if loader is DiffusionPipeline else loader)
        assert_close(sample(loaded), images, **ROUNDING)


def test_what_stock_classes_cannot_hold_comes_back(tmp_path, diffusers_log, tiny_unet):
    scheduler = GaussianDiffusionScheduler(variance_type="learned_range", eta=0.5, timestep_spacing="logsnr")
    pipeline = GaussianDiffusionPipeline(tiny_unet(num_classes=3, variance_head="learned_range"), scheduler)
    options = {"class_labels": [0, 2], "guidance_scale": 2.0}
    images = sample(pipeline, **options)
    pipeline.save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match="trust_remote_code=True"):  # DDPMPipeline would have no labels for it
        DiffusionPipeline.from_pretrained(tmp_path / "ours")
    parts = {"unet": UNet2DModel, "scheduler": DDPMScheduler}
    parts = {name: part.from_pretrained(tmp_path / "ours", subfolder=name) for name, part in parts.items()}
    stock = DDPMPipeline(**parts)
    assert "not expected" not in diffusers_log.text
    stock.save_pretrained(tmp_path / "stock")
    for folder in ("ours", "stock"):
        loaded = GaussianDiffusionPipeline.from_pretrained(tmp_path / folder)
        assert_close(sample(loaded, **options), images, **ROUNDING)
    assert_close(sample(GaussianDiffusionPipeline.from_pipe(stock), **options), images, **ROUNDING)


def test_our_components_in_a_stock_pipeline_load_again(tmp_path, tiny_unet):
    pipeline = DDPMPipeline(unet=tiny_unet(), scheduler=GaussianDiffusionScheduler(variance_type="fixed_large"))
    images = sample(pipeline)
    pipeline.save_pretrained(tmp_path)
    loaded = DDPMPipeline.from_pretrained(tmp_path)
    assert type(loaded.scheduler) is GaussianDiffusionScheduler
    assert_close(sample(loaded), images, **ROUNDING)


@pytest.mark.parametrize("scheduler_class", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_the_scheduler_may_be_exchanged(tmp_path, tiny_unet, scheduler_class):
    pipeline = GaussianDiffusionPipeline(tiny_unet(variance_head="learned_range"), DDPMScheduler())
    pipeline.scheduler = scheduler_class.from_config(pipeline.scheduler.config)
    images = sample(pipeline)
    assert images.isfinite().all()
    pipeline.save_pretrained(tmp_path)
    loaded = GaussianDiffusionPipeline.from_pretrained(tmp_path)
    assert type(loaded.scheduler) is scheduler_class
    assert_close(sample(loaded), images, **ROUNDING)


# The call -------------------------------------------------------------------------------------------------------------


def test_output_types(stock_unet):
    pipeline = GaussianDiffusionPipeline(stock_unet, DDPMScheduler())
    latent, pt, array, pil = (sample(pipeline, 2, output_type=kind) for kind in ("latent", "pt", "np", "pil"))
    assert_close(pt, (latent / 2 + 0.5).clamp(0, 1))
    assert_close(torch.from_numpy(array).permute(0, 3, 1, 2), pt)
    assert [image.mode for image in pil] == ["L", "L"] and pil[0].size == (8, 8)
    assert np.abs(np.array(pil[1]) - 255 * array[1, :, :, 0]).max() <= 0.51
    tuple_output = sample_tuple(pipeline)
    assert_close(tuple_output[0], sample(pipeline))


def sample_tuple(pipeline):
    return pipeline(num_inference_steps=4, generator=seeded(), output_type="pt", return_dict=False)


def test_colour_images(tiny_unet):
    pipeline = GaussianDiffusionPipeline(tiny_unet(in_channels=3), DDPMScheduler())
    assert sample(pipeline, output_type="pil")[0].mode == "RGB"


def test_images_that_are_not_square(tiny_unet):
    pipeline = GaussianDiffusionPipeline(tiny_unet(sample_size=(8, 4)), DDPMScheduler())
    assert sample(pipeline).shape == (1, 1, 8, 4)


def test_latents_timesteps_eta(stock_unet):
    pipeline = GaussianDiffusionPipeline(stock_unet, DDPMScheduler())
    latents = torch.randn(2, 1, 8, 8, generator=seeded())
    given = sample(pipeline, latents=latents, eta=0.0)
    assert_close(given, sample(pipeline, 2, eta=0.0))  # the same noise as drawn from the seed
    assert_close(sample(pipeline, 2, eta=0.0, num_inference_steps=None, timesteps=[750, 500, 250, 0]), given)
    assert (sample(pipeline, 2, eta=1.0) - given).abs().max() > 1e-3


def test_without_a_number_of_steps_the_whole_chain_is_walked(stock_unet):
    calls = recorded_calls(stock_unet)
    scheduler = GaussianDiffusionScheduler(12, beta_end=0.9, steps_offset=1)
    sample(GaussianDiffusionPipeline(stock_unet, scheduler), num_inference_steps=None)
    assert [int(t) for _, t, _ in calls] == list(range(11, -1, -1))


def test_each_image_has_its_own_seed(stock_unet):
    # A network in float64: in float32 a batch of another size is rounded otherwise, by as much as the processor likes.
    pipeline = GaussianDiffusionPipeline(stock_unet.double(), DDPMScheduler())
    together = sample(pipeline, generator=[seeded(i) for i in range(3)])
    for i in range(3):
        assert_close(together[i : i + 1], sample(pipeline, seed=i), rtol=0, atol=1e-6)


def test_callback_sees_and_changes_every_step(stock_unet):
    pipeline, seen = GaussianDiffusionPipeline(stock_unet, DDPMScheduler()), []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, int(timestep), tensors["model_output"].shape))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 3 else {}

    kwargs = {"callback_on_step_end_tensor_inputs": ("latents", "model_output")}
    images = sample(pipeline, callback_on_step_end=callback, **kwargs)
    assert seen == [(i, t, (1, 1, 8, 8)) for i, t in enumerate((750, 500, 250, 0))]
    assert (images == 0.5).all()


def test_half_precision_network_has_float32_samples(stock_unet):
    """The samples are not rounded between steps; only the network computes in half precision."""
    calls, dtypes = recorded_calls(stock_unet.to(torch.bfloat16)), []
    pipeline = GaussianDiffusionPipeline(stock_unet, DDPMScheduler())
    images = sample(pipeline, callback_on_step_end=lambda p, i, t, tensors: dtypes.append(tensors["latents"].dtype))
    assert {x.dtype for x, _, _ in calls} == {torch.bfloat16} and set(dtypes) == {torch.float32}
    assert images.isfinite().all()


# Classes and guidance -------------------------------------------------------------------------------------------------


def test_guidance_is_one_call_of_twice_the_batch_and_none_is_one_of_once(tiny_unet):
    unet = tiny_unet(num_classes=3)
    calls = recorded_calls(unet)
    pipeline = GaussianDiffusionPipeline(unet, DDPMScheduler())
    sample(pipeline, class_labels=[0, 2], guidance_scale=3.0)
    assert [len(x) for x, _, _ in calls] == [4] * 4
    assert calls[0][2].tolist() == [0, 2, 3, 3]
    calls.clear()
    sample(pipeline, class_labels=[0, 2])
    assert [len(x) for x, _, _ in calls] == [2] * 4
    assert calls[0][2].tolist() == [0, 2]


@pytest.mark.parametrize("variance_head", [None, "learned_range"])
def test_guided_output(tiny_unet, variance_head):
    """Only the mean is guided; the variance is that of the class."""
    unet, model_outputs = tiny_unet(num_classes=3, variance_head=variance_head), []
    scheduler = GaussianDiffusionScheduler(variance_type="learned_range" if variance_head else "fixed_small")
    pipeline = GaussianDiffusionPipeline(unet, scheduler)
    x_t = torch.randn(2, 1, 8, 8, generator=seeded())

    def callback(pipe, step, timestep, tensors):
        model_outputs.append(tensors["model_output"])

    kwargs = {"timesteps": [500], "num_inference_steps": None, "callback_on_step_end_tensor_inputs": ("model_output",)}
    sample(pipeline, latents=x_t, class_labels=1, guidance_scale=2.5, callback_on_step_end=callback, **kwargs)
    with torch.no_grad():
        of_class, null = unet(x_t, 500, torch.tensor([1, 1])).sample, unet(x_t, 500).sample
    guided = null[:, :1] + 2.5 * (of_class[:, :1] - null[:, :1])
    assert_close(model_outputs[0], torch.cat([guided, of_class[:, 1:]], dim=1), rtol=1e-4, atol=1e-5)


def test_labels_as_a_number_a_list_or_a_tensor(tiny_unet):
    pipeline = GaussianDiffusionPipeline(tiny_unet(num_classes=3), DDPMScheduler())
    images = sample(pipeline, class_labels=[1, 1])
    assert_close(sample(pipeline, 2, class_labels=1), images)
    assert_close(sample(pipeline, class_labels=torch.tensor([1, 1])), images)
    assert (sample(pipeline, 2) - images).abs().max() > 1e-3  # none: the null label
    assert_close(sample(pipeline, 2, class_labels=3), sample(pipeline, 2))


@pytest.mark.parametrize(
    "labels", [np.array([0, 2]), torch.tensor([0, 2], dtype=torch.uint8), (0, 2), [np.int64(0), 2]]
)
def test_labels_of_any_whole_numbers_are_the_same(tiny_unet, labels):
    pipeline = GaussianDiffusionPipeline(tiny_unet(num_classes=3), DDPMScheduler())
    images = sample(pipeline, class_labels=labels, guidance_scale=2.0)
    assert_close(images, sample(pipeline, class_labels=[0, 2], guidance_scale=2.0), rtol=0, atol=0)


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_samples_that_are_not_finite_are_no_pictures(tiny_unet, output_type):
    unet = tiny_unet()
    torch.nn.init.constant_(unet.conv_out.bias, torch.nan)
    pipeline = GaussianDiffusionPipeline(unet, DDPMScheduler())
    with pytest.raises(ValueError, match=r"2 of 2 samples are not finite \(the first is number 0\)"):
        sample(pipeline, batch_size=2, output_type=output_type)
    assert sample(pipeline, output_type="latent").isnan().all()


def test_stock_class_conditional_network(tiny_unet):
    """DDPMPipeline cannot pass labels; a stock network has no label for 'no class'."""
    stock = UNet2DModel.from_config(tiny_unet().config, num_class_embeds=3)
    pipeline = GaussianDiffusionPipeline(stock, DDPMScheduler())
    assert sample(pipeline, class_labels=[0, 2]).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"needs class_labels in 0 \.\. 2; it has no label for 'no class'"):
        sample(pipeline)
    with pytest.raises(ValueError, match="guidance_scale=2.0 needs a model trained with a null label"):
        sample(pipeline, class_labels=0, guidance_scale=2.0)
    with pytest.raises(ValueError, match=r"class_labels=3 must be whole numbers in 0 \.\. 2\."):
        sample(pipeline, class_labels=3)


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"class_labels": 4}, r"class_labels=4 must be whole numbers in 0 \.\. 2, or 3 for no class"),
        ({"class_labels": [-1, 0]}, r"class_labels=\[-1, 0\] must be"),
        ({"class_labels": [0.5]}, "must be whole numbers"),
        (
            {"class_labels": [0, 1, 2], "batch_size": 2},
            "agree on one whole number of images.*class_labels: 3, batch_size: 2",
        ),
        ({"class_labels": [0, 1], "generator": [seeded()] * 3}, "class_labels: 2, generator: 3"),
        ({"batch_size": 0}, "at least 1; got batch_size: 0"),
        ({"latents": torch.zeros(1, 3, 8, 8)}, r"\(1, 3, 8, 8\) must be \(batch, 1, height, width\)"),
        ({"output_type": "png"}, "output_type='png' is not one of 'pil'"),
        ({"callback_on_step_end_tensor_inputs": ("images",)}, r"\('images',\) may name"),
        ({"eta": 2.0}, "eta=2.0 must be in"),
        ({"eta": float("nan")}, "eta=nan must be in"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan must be a finite number"),
        ({"guidance_scale": float("inf")}, "guidance_scale=inf must be a finite number"),
        ({"classifier_guidance_scale": float("nan")}, "classifier_guidance_scale=nan must be a finite number"),
        ({"guidance_interval": (float("nan"), 1.0)}, r"guidance_interval=\(nan, 1.0\) must be \(low, high\)"),
        ({"guidance_rescale": float("nan")}, r"guidance_rescale=nan must be in \[0, 1\]"),
        ({"class_labels": torch.tensor([True])}, "must be whole numbers"),
        ({"class_labels": np.array([7])}, r"class_labels=\[7\] must be whole numbers in 0 \.\. 2"),
        ({"batch_size": 2.5}, "whole number of images, at least 1; got batch_size: 2.5"),
        ({"latents": torch.zeros(1, 1, 8, 8, dtype=torch.complex64)}, "dtype torch.complex64 must be finite floating"),
        ({"latents": torch.zeros(1, 1, 8, 8, dtype=torch.int64)}, "dtype torch.int64 must be finite floating"),
        ({"latents": torch.full((1, 1, 8, 8), torch.nan)}, "dtype torch.float32 must be finite floating"),
        ({"num_inference_steps": 2.5}, r"num_inference_steps=2.5 must be in 1 \.\. 1000"),
        ({"num_inference_steps": 5000}, r"num_inference_steps=5000 must be in 1 \.\. 1000"),
        ({"timesteps": [1, 2], "num_inference_steps": None}, "must descend"),
    ],
)
def test_bad_arguments(tiny_unet, arguments, message):
    pipeline = GaussianDiffusionPipeline(tiny_unet(num_classes=3), DDPMScheduler())
    with pytest.raises(ValueError, match=message):
        sample(pipeline, **arguments)


@pytest.mark.parametrize("arguments", [{"class_labels": 1}, {"guidance_scale": 2.0}])
def test_classes_without_a_class_conditional_model(stock_unet, arguments):
    with pytest.raises(ValueError, match="need a class-conditional model"):
        sample(GaussianDiffusionPipeline(stock_unet, DDPMScheduler()), **arguments)


def test_no_size_to_sample(tiny_unet):
    pipeline = GaussianDiffusionPipeline(tiny_unet(sample_size=None), DDPMScheduler())
    with pytest.raises(ValueError, match="no sample_size: pass `latents`"):
        sample(pipeline)
    assert sample(pipeline, latents=torch.zeros(1, 1, 4, 4)).shape == (1, 1, 4, 4)
