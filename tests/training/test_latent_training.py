"""Training in the latents of an autoencoder, from images to a pipeline that decodes."""

import json
import logging

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DModel, VQModel

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.calibration.run import calibrate
from ddpm_hf.calibration.solver_run import SolverOptions, calibrate_solvers
from ddpm_hf.data import open_images, to_model_range
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.data.latents import open_latents
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation import bits_per_dim
from ddpm_hf.evaluation.drawn_samples import draw_levels
from ddpm_hf.evaluation.samplers import make_sampler, pipeline_with
from ddpm_hf.hub.model_folder import load_pipeline
from ddpm_hf.hub.push import push_folder
from ddpm_hf.pipelines.pipeline_img2img import GaussianDiffusionImg2ImgPipeline
from ddpm_hf.pipelines.pipeline_inpaint import GaussianDiffusionInpaintPipeline
from ddpm_hf.pipelines.probability_flow import sample_by_flow
from ddpm_hf.pipelines.trajectory_pictures import TrajectoryRecorder
from ddpm_hf.samples import kind_of
from ddpm_hf.samples.latent_units import decode_latents
from ddpm_hf.schedulers.data_moments import moments_from_config
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.train import train

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
TINY_UNET = {
    **{"_class_name": "UNet2DModel", "sample_size": 4, "block_out_channels": [8, 8], "layers_per_block": 1},
    **{"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "norm_num_groups": 4},
}
LATENTS = {"sample_size": 4, "in_channels": 2, "autoencoder_factor": 2, "image_channels": 1}


def tiny_vae(channels=1, scaling_factor=2.0, **options):
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    sizes = {"block_out_channels": [4, 8], "latent_channels": 2, "norm_num_groups": 2, "sample_size": 8}
    vae = AutoencoderKL(in_channels=channels, out_channels=channels, **blocks, **sizes | options)
    vae.register_to_config(scaling_factor=scaling_factor)
    return vae.eval()


def gradients(count):
    """Grey images of 8x8 and of two classes, brighter to the right, or darker."""
    rng, ramp = np.random.default_rng(0), np.linspace(0, 200, 8)
    pixels = [np.tile(ramp[:: 1 - 2 * (i % 2)], (8, 1)) + rng.integers(0, 50) for i in range(count)]
    features = Features({"image": Image(), "label": ClassLabel(names=["right", "left"])})
    labels = [i % 2 for i in range(count)]
    return Dataset.from_dict({"image": [each.astype(np.uint8) for each in pixels], "label": labels}, features=features)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "ddpm_hf"


@pytest.fixture
def options(tmp_path, cache):
    DatasetDict(train=gradients(30), test=gradients(6)).save_to_disk(tmp_path / "data")
    tiny_vae().save_pretrained(tmp_path / "vae")
    (tmp_path / "network.json").write_text(json.dumps(TINY_UNET), encoding="utf-8")
    return {
        **{"dataset": str(tmp_path / "data"), "vae": str(tmp_path / "vae"), "output_dir": str(tmp_path / "run")},
        **{"unet": str(tmp_path / "network.json"), "max_train_steps": 4, "batch_size": 4, "checkpoint_every": 2},
        **{"sample_every": 0, "num_samples": 4, "sample_steps": 2, "log_every": 2, "seed": 3, "ema_power": 0.5},
        **{"class_conditional": True},
    }


def source_of(options, vae, flips=False):
    return open_latents(open_images(DataArguments.among(TrainingArguments(**options)), None), vae, "vae", flips)


def test_moments_are_those_of_the_encoder_in_units_and_drawn_anew(options):
    vae, source = tiny_vae(), source_of(options, tiny_vae())
    loaded, rows = source.load(1.0), np.array([3, 0, 7])
    batch = loaded.__getitems__(rows)
    images = to_model_range(source.images.decode()["images"])
    posterior = vae.encode(images[rows]).latent_dist
    mean, log_variance = batch["images"].chunk(2, dim=1)
    torch.testing.assert_close(mean, posterior.mean * 2.0)
    torch.testing.assert_close((log_variance / 2).exp(), posterior.std * 2.0)
    assert batch["labels"].tolist() == [1, 0, 1] and len(loaded) == 30
    kind = kind_of(source.network_options)
    draws = torch.stack([kind.drawn(batch["images"]) for _ in range(4000)])
    assert not torch.equal(draws[0], draws[1])
    spread = (log_variance / 2).exp()
    assert ((draws.mean(0) - mean).abs() < 6 * spread / 4000**0.5).all()
    torch.testing.assert_close(draws.std(0), spread, rtol=0.1, atol=0)


def test_mirrored_images_are_encoded_and_not_mirrored_latents(options):
    vae = tiny_vae()
    source = source_of(options, vae, flips=True)
    moments = source.load(1.0).__getitems__(np.arange(30))["images"]
    images = to_model_range(source.images.decode()["images"])
    mirrored = vae.encode(images.flip(-1)).latent_dist.mean * 2.0
    torch.testing.assert_close(moments[:, 1, :2], mirrored)
    assert not torch.allclose(mirrored, moments[:, 0, :2].flip(-1), atol=1e-3)
    certain = torch.cat([moments[:, :, :2], torch.full_like(moments[:, :, 2:], -30)], dim=2)  # without noise
    drawn = kind_of(source.network_options).drawn(certain)
    taken = [torch.isclose(drawn, moments[:, i, :2], atol=1e-4).flatten(1).all(1) for i in (0, 1)]
    assert (taken[0] ^ taken[1]).all() and 5 < taken[0].sum() < 25


def test_latents_are_encoded_once_and_anew_for_another_autoencoder(options, cache, monkeypatch):
    source_of(options, tiny_vae()).load(1.0)
    assert len(list(cache.glob("latents-*[0-9a-f]"))) == 1
    encodings = []
    monkeypatch.setattr(AutoencoderKL, "encode", lambda self, x: encodings.append(len(x)))
    again = source_of(options, tiny_vae()).load(1.0)
    assert len(again) == 30 and not encodings
    monkeypatch.undo()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache.parent)
    other = tiny_vae()
    other.encoder.conv_in.weight.data[0, 0, 0, 0] += 1
    assert source_of(options, other).fingerprint != source_of(options, tiny_vae()).fingerprint
    source_of(options, other).load(1.0)
    source_of(options, tiny_vae(scaling_factor=1.0)).load(1.0)
    assert len(list(cache.glob("latents-*[0-9a-f]"))) == 3


def test_a_scale_far_from_one_is_warned_of_with_the_right_one(options, caplog):
    with caplog.at_level(logging.WARNING):
        moments = source_of(options, tiny_vae(scaling_factor=50.0)).load(1.0).moments
    std = (moments[:, :2].var() + np.exp(moments[:, 2:]).mean()) ** 0.5
    assert f"The latents have a standard deviation of {std:.3g}" in caplog.text
    assert f"should be {50 / std:.4g} for these data" in caplog.text


def test_the_result_decodes_and_loads_everywhere(options):
    folder = train(TrainingArguments(**options))
    pipeline = load_pipeline(folder)
    assert type(pipeline.vae) is AutoencoderKL and not pipeline.scheduler.config.clip_sample
    drawn = {"batch_size": 2, "num_inference_steps": 3, "class_labels": ["right", "left"], "eta": 0.0}
    generators = lambda: [torch.Generator().manual_seed(i) for i in range(2)]  # noqa: E731
    images = pipeline(**drawn, generator=generators(), output_type="pt").images
    assert images.shape == (2, 1, 8, 8) and images.min() >= 0 and images.max() <= 1
    x_0 = pipeline(**drawn, generator=generators(), output_type="latent").images
    assert x_0.shape == (2, 2, 4, 4)
    torch.testing.assert_close(images, (decode_latents(pipeline.vae, x_0) / 2 + 0.5).clamp(0, 1))
    assert pipeline(**drawn).images[0].size == (8, 8)
    portable = DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(folder), trust_remote_code=True)
    assert type(portable).__module__ != GaussianDiffusionPipeline.__module__
    torch.testing.assert_close(portable(**drawn, generator=generators(), output_type="pt").images, images)
    assert UNet2DModel.from_pretrained(folder, subfolder="unet").config.in_channels == 2
    assert AutoencoderKL.from_pretrained(folder, subfolder="vae").config.scaling_factor == 2.0
    assert (folder / "samples" / "step-000004.png").exists()


def test_it_is_shared_with_its_autoencoder(options, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = train(TrainingArguments(**options))
    names = set(push_folder(folder, "someone/latent", dry_run=True).sizes)
    assert {"vae/config.json", "vae/diffusion_pytorch_model.safetensors", WEIGHTS, "pipeline.py"} <= names


@pytest.mark.parametrize("changes", [{}, {"random_flip": True}])
def test_resumed_is_uninterrupted_and_read_from_the_cache(options, tmp_path, changes, capsys):
    options |= changes
    whole = train(TrainingArguments(**options | {"output_dir": str(tmp_path / "whole")}))
    assert "Encoding" in capsys.readouterr().err
    train(TrainingArguments(**options | {"max_train_steps": 2}))
    resumed = train(TrainingArguments(**options))
    assert "Encoding" not in capsys.readouterr().err
    assert (resumed / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def latent_pipeline():
    torch.manual_seed(0)
    network = {name: value for name, value in TINY_UNET.items() if not name.startswith("_")}
    unet = DDPMUNet2DModel(**network | LATENTS)
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=20, clip_sample=False, eta=0.0)
    return GaussianDiffusionPipeline(unet, scheduler, vae=tiny_vae())


def test_images_are_edited_in_latents():
    pipeline, image = latent_pipeline(), torch.rand(1, 1, 8, 8)
    encoded = pipeline.samples.encoded(2 * image - 1)
    torch.testing.assert_close(encoded, pipeline.vae.encode(2 * image - 1).latent_dist.mean * 2.0)
    painted = GaussianDiffusionImg2ImgPipeline.from_pipe(pipeline)(image, 0.5, num_inference_steps=4, output_type="pt")
    assert painted.images.shape == (1, 1, 8, 8)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    inpaint = GaussianDiffusionInpaintPipeline.from_pipe(pipeline)
    kept = inpaint(image, mask, num_inference_steps=4, jump_n_sample=1, output_type="latent").images
    torch.testing.assert_close(kept[..., :2], encoded[..., :2])
    assert not torch.allclose(kept[..., 2:], encoded[..., 2:])


def test_samplers_are_compared_by_decoded_images():
    pipeline = latent_pipeline()
    sampled = pipeline_with(make_sampler("diffusers-ddim", pipeline.scheduler), pipeline.unet, pipeline.vae)
    levels = draw_levels(sampled, [0, 1], 0, num_inference_steps=2)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    images = sampled(2, generator=generators, num_inference_steps=2, output_type="pt").images
    assert levels.shape == (2, 1, 8, 8) and torch.equal(levels, (images * 255).round().to(torch.uint8))


def test_solvers_are_fitted_with_the_latents_of_the_data(tmp_path, image_folder):
    pipeline, data = latent_pipeline(), DataArguments(dataset=image_folder)
    pipeline.save_pretrained(tmp_path / "model")
    made = calibrate_solvers(SolverOptions(str(tmp_path / "model"), [2], data, 16), tmp_path / "new")
    moments = moments_from_config(made.scheduler.config.fitted_solvers["moments"])
    images = open_images(data, 8).decode()["images"]
    latents = pipeline.samples.encoded(to_model_range(images))
    assert len(images) == 16
    torch.testing.assert_close(moments.mean.float(), latents.mean(0), rtol=1e-4, atol=1e-4)


def test_the_way_from_noise_is_shown_decoded():
    pipeline, recorder = latent_pipeline(), TrajectoryRecorder(2)
    images = pipeline(
        2, generator=torch.Generator().manual_seed(0), num_inference_steps=4, callback_on_step_end=recorder,
        callback_on_step_end_tensor_inputs=recorder.tensor_inputs,
    ).images  # fmt: skip
    assert [image.tobytes() for image in recorder.frames[0][0]] == [image.tobytes() for image in images]


def test_the_probability_flow_ends_in_decoded_images():
    images, _ = sample_by_flow(latent_pipeline(), 2, rtol=1e-2, atol=1e-2)
    assert [image.size for image in images] == [(8, 8)] * 2


def test_a_pipeline_needs_the_autoencoder_of_its_training(tiny_unet):
    pipeline = latent_pipeline()
    unet, scheduler = pipeline.unet, pipeline.scheduler
    with pytest.raises(ValueError, match="The network makes latents: the pipeline needs the vae that decodes them"):
        GaussianDiffusionPipeline(unet, scheduler)(num_inference_steps=1)
    with pytest.raises(
        ValueError, match="The vae has out_channels=3, and the network was trained in latents with out"
    ):
        GaussianDiffusionPipeline(unet, scheduler, vae=tiny_vae(3))
    with pytest.raises(ValueError, match="has a vae, and its network was not trained in the latents of one"):
        GaussianDiffusionPipeline(tiny_unet(), scheduler, vae=tiny_vae())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"random_crop": True}, "encodes each image once, before the training: leave out --random_crop"),
        ({"low_resolution": "4"}, "leave out --low_resolution and --condition_column"),
        ({"eval_every": 2, "eval_split": "test"}, "leave out --eval_every, whose bits per dimension are of images"),
        ({"resolution": 7}, "makes latents whose sides are 2 times smaller, and the images are of 7x7"),
        ({"resolution": 6}, "unet=.* does not suit the data"),
        ({"unet": "mlp"}, "give images and a network of images, for points are not encoded"),
        ({"vae": "data"}, "data holds no autoencoder, for it has no config.json"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(options, tmp_path, changes, message):
    if "vae" in changes:
        changes = {"vae": str(tmp_path / changes["vae"])}
    with pytest.raises(InputError, match=message):
        train(TrainingArguments(**options | changes))
    assert not (tmp_path / "run" / "training_args.yaml").exists()


def test_an_autoencoder_of_other_images_is_refused(options, tmp_path):
    tiny_vae(3).save_pretrained(tmp_path / "colour")
    with pytest.raises(InputError, match="encodes images of 3 channel.* and the data have 1: give an autoencoder"):
        train(TrainingArguments(**options | {"vae": str(tmp_path / "colour")}))


def test_other_autoencoders_are_refused(options, tmp_path):
    VQModel(1, 1, block_out_channels=(4,), latent_channels=2, norm_num_groups=2).save_pretrained(tmp_path / "vq")
    with pytest.raises(InputError, match="holds a VQModel, and latents are those of an AutoencoderKL"):
        train(TrainingArguments(**options | {"vae": str(tmp_path / "vq")}))
    scaled = tiny_vae()
    scaled.register_to_config(latents_mean=[0.0, 1.0], latents_std=[1.0, 2.0])
    scaled.save_pretrained(tmp_path / "scaled")
    with pytest.raises(InputError, match="scales each channel by its own latents_mean and latents_std"):
        train(TrainingArguments(**options | {"vae": str(tmp_path / "scaled")}))


def test_a_model_of_latents_is_trained_further_in_its_latents(options, tmp_path):
    folder = train(TrainingArguments(**options))
    further = {"unet": None, "init_from": str(folder), "output_dir": str(tmp_path / "further"), "max_train_steps": 1}
    with pytest.raises(InputError, match="was trained in latents: give --vae, the autoencoder of these"):
        train(TrainingArguments(**options | further | {"vae": None}))
    made = train(TrainingArguments(**options | further | {"vae": str(folder)}))
    assert load_pipeline(made).vae is not None


def test_a_model_of_latents_is_calibrated_and_has_no_bits_of_images(options, tmp_path):
    folder = train(TrainingArguments(**options | {"num_train_timesteps": 8, "eval_steps": 2}))
    data = DataArguments(dataset=options["dataset"], split="train")
    calibrated = calibrate(str(folder), str(tmp_path / "calibrated"), data, num_images=30)
    gamma = calibrated.scheduler.config.mean_square_epsilon
    assert len(gamma) == 8 and load_pipeline(tmp_path / "calibrated").scheduler.config.mean_square_epsilon == gamma
    images = open_images(data, None).decode()["images"]
    with pytest.raises(ValueError, match="This model makes latents, and data from number 0 on are images"):
        bits_per_dim(calibrated.unet, calibrated.scheduler, images)
