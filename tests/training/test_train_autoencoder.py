"""Training of an autoencoder, from images to a folder that stock diffusers loads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Image
from diffusers import AutoencoderKL
from measured_precision import CHOSEN, check_measured_precision
from PIL import Image as PILImage
from torch.distributions import Normal, kl_divergence
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from ddpm_hf.data import ImagesInMemory, open_images
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.distances import FeatureStatistics, frechet_distance
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.hub.push import push_folder
from ddpm_hf.models.autoencoders import AUTOENCODER_PRESETS, autoencoder_config, chosen_preset
from ddpm_hf.reports.loss_curve import read_rows
from ddpm_hf.samples.latent_units import centred, decode_latents, drawn_from, factor_of, moments_of, scaled_moments
from ddpm_hf.training.argument_parsing import parse_arguments
from ddpm_hf.training.autoencoder_arguments import AutoencoderArguments
from ddpm_hf.training.autoencoder_measures import psnr, reconstructions, with_units
from ddpm_hf.training.autoencoder_objective import AutoencoderObjective, LearningAutoencoder
from ddpm_hf.training.train_autoencoder import main, train_autoencoder

TINY = {
    **{"block_out_channels": [4, 8], "latent_channels": 2, "norm_num_groups": 2, "layers_per_block": 1},
    **{"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2},
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def bright_squares(count, channels=1):
    """Images of 8x8 whose brightness varies: half of each is dark, half of it bright."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 40, (count, 8, 8, channels)) + rng.integers(0, 200, (count, 1, 1, 1))
    pixels[:, :4] //= 4
    stored = list(pixels.astype(np.uint8).squeeze(-1) if channels == 1 else pixels.astype(np.uint8))
    return Dataset.from_dict({"image": stored}, features=Features({"image": Image()}))


@pytest.fixture
def config(tmp_path):
    (tmp_path / "network").mkdir()
    (tmp_path / "network/config.json").write_text(
        json.dumps(TINY | {"_class_name": "AutoencoderKL", "scaling_factor": 9.0}), encoding="utf-8"
    )
    return str(tmp_path / "network")


@pytest.fixture
def options(tmp_path, config):
    DatasetDict(train=bright_squares(40), test=bright_squares(6)).save_to_disk(tmp_path / "data")
    return {
        **{"dataset": str(tmp_path / "data"), "eval_split": "test", "output_dir": str(tmp_path / "run")},
        **{"autoencoder": config, "max_train_steps": 4, "batch_size": 4, "log_every": 2, "checkpoint_every": 2},
        **{"sample_every": 2, "num_samples": 4, "seed": 3, "ema_power": 0.5, "learning_rate": 1e-2},
    }


def tiny_autoencoder(channels=1):
    torch.manual_seed(0)
    return LearningAutoencoder(**TINY, in_channels=channels, out_channels=channels, sample_size=8).eval()


@pytest.mark.parametrize(("name", "norm"), [("l1", torch.abs), ("mse", torch.square)])
def test_the_loss_is_the_error_and_the_divergence_per_dimension(name, norm):
    network, images = tiny_autoencoder(3), torch.rand(4, 3, 8, 8) * 2 - 1
    torch.manual_seed(1)
    losses = AutoencoderObjective(name, kl_weight=0.5)(network, images, None)
    torch.manual_seed(1)
    reconstructed, moments = network(images)
    mean, log_variance = moments.chunk(2, dim=1)
    kl = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0, 1)).sum((1, 2, 3))
    errors = norm(images - reconstructed).sum((1, 2, 3))
    torch.testing.assert_close(losses, (errors + 0.5 * kl) / (3 * 8 * 8))


def test_the_latents_are_centred_and_of_variance_one_and_the_reconstructions_stay():
    vae = tiny_autoencoder().stock()
    with torch.no_grad():
        vae.quant_conv.bias[:2] += torch.tensor([3.0, -1.0])
    images = torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8)
    before = reconstructions(vae, images.float() / 127.5 - 1, 16)
    with_units(vae, ImagesInMemory({"images": images}), batch_size=16)
    torch.testing.assert_close(reconstructions(vae, images.float() / 127.5 - 1, 16), before, atol=1e-5, rtol=0)
    assert vae.config.shift_factor == 0
    latents = drawn_from(scaled_moments(vae.config, moments_of(vae, images.float() / 127.5 - 1)))
    assert latents.mean((0, 2, 3)).abs().max() < 0.1
    assert latents.square().mean().item() == pytest.approx(1, abs=0.1)


def test_centring_moves_the_means_alone():
    vae, images = tiny_autoencoder().stock(), torch.rand(2, 1, 8, 8)
    before = moments_of(vae, images)
    after = moments_of(centred(vae, torch.tensor([0.5, -2.0])), images)
    expected = before - torch.tensor([0.5, -2.0, 0, 0])[:, None, None]
    torch.testing.assert_close(after, expected)


def test_units_of_latents_undo_each_other():
    vae, images = tiny_autoencoder().stock(), torch.rand(2, 1, 8, 8) * 2 - 1
    vae.register_to_config(scaling_factor=0.25, shift_factor=0.75)
    mean = moments_of(vae, images).chunk(2, dim=1)[0]
    certain = torch.cat([mean, torch.full_like(mean, -30.0)], dim=1)  # without noise
    x_0 = drawn_from(scaled_moments(vae.config, certain))
    torch.testing.assert_close(x_0, (mean - 0.75) * 0.25)
    torch.testing.assert_close(decode_latents(vae, x_0), vae(images).sample)


def test_psnr_of_a_known_error():
    images = torch.zeros(2, 1, 4, 4)
    off = images + torch.tensor([0.2, 0.02])[:, None, None, None]  # 0.1 and 0.01 of the range
    torch.testing.assert_close(psnr(images, off), torch.tensor([20.0, 40.0]))
    assert psnr(images, images).isfinite().all()


def test_the_result_loads_with_stock_diffusers(options, saved_averages, capsys):
    folder = train_autoencoder(AutoencoderArguments(**options | {"max_train_steps": 40, "reconstruction": "mse"}))
    vae = AutoencoderKL.from_pretrained(folder)
    assert vae.config.sample_size == 8 and vae.config.in_channels == 1 and vae.config.scaling_factor != 9.0
    report = json.loads((folder / "autoencoder.json").read_text(encoding="utf-8"))
    assert report["num_images"] == 6 and report["split"] == "test"
    assert report["scaling_factor"] == vae.config.scaling_factor
    assert f"PSNR {report['psnr']:.2f} dB" in capsys.readouterr().out
    averaged = saved_averages(folder / "checkpoints/step-000040")
    convolutions = ("quant_conv.bias", "post_quant_conv.bias")  # these hold the means of the latents too
    for (name, weight), average in zip(vae.named_parameters(), averaged, strict=True):
        assert name in convolutions or torch.equal(weight, average)
    rows = read_rows(folder / "loss.csv")
    assert rows[-1]["loss"] < rows[0]["loss"] / 2 and "loss_quartile_1" not in rows[0]
    for picture in ("autoencoder.png", "samples/step-000002.png"):
        assert PILImage.open(folder / picture).size == (2 * 2 * 64, 2 * 64)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"**{report['psnr']:.2f} dB" in card and "AutoencoderKL.from_pretrained(" in card


def test_reconstructions_have_a_distance_in_features(options, tmp_path):
    sizes = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}
    torch.manual_seed(0)
    ResNetForImageClassification(ResNetConfig(num_channels=1, num_labels=2, **sizes)).save_pretrained(tmp_path / "see")
    ViTImageProcessor(do_resize=False, image_mean=[0.5], image_std=[0.5]).save_pretrained(tmp_path / "see")
    folder = train_autoencoder(AutoencoderArguments(**options | {"eval_features": str(tmp_path / "see")}))
    report = json.loads((folder / "autoencoder.json").read_text(encoding="utf-8"))
    see = load_features(str(tmp_path / "see"), "cpu")
    levels = open_images(DataArguments(dataset=options["dataset"], split="test"), None).decode()["images"]
    vae = AutoencoderKL.from_pretrained(folder).eval()
    reconstructed = ((reconstructions(vae, levels / 127.5 - 1, 4) + 1) * 127.5).round().to(torch.uint8)
    statistics = [FeatureStatistics(), FeatureStatistics()]
    for each, images in zip(statistics, (reconstructed, levels), strict=True):
        each.update(see(images))
    assert report["frechet_distance"] == pytest.approx(frechet_distance(*statistics), rel=1e-3)
    assert "in the features of see." in (folder / "README.md").read_text(encoding="utf-8")
    with pytest.raises(InputError):
        train_autoencoder(
            AutoencoderArguments(**options | {"output_dir": f"{tmp_path}/b", "eval_features": "nothing"})
        )


def test_resumed_is_uninterrupted(options, tmp_path):
    train_autoencoder(AutoencoderArguments(**options | {"max_train_steps": 2}))
    resumed = train_autoencoder(AutoencoderArguments(**options))
    whole = train_autoencoder(AutoencoderArguments(**options | {"output_dir": str(tmp_path / "whole")}))
    assert (resumed / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert (resumed / "config.json").read_bytes() == (whole / "config.json").read_bytes()


def test_it_is_shared_with_its_measures(options, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = train_autoencoder(AutoencoderArguments(**options))
    push = push_folder(folder, "someone/autoencoder", dry_run=True)
    assert {"config.json", WEIGHTS, "README.md", "autoencoder.json", "autoencoder.png"} <= set(push.sizes)
    (folder / WEIGHTS).write_bytes(b"cut off")
    with pytest.raises(InputError, match=f"{WEIGHTS} is cut off or damaged"):
        push_folder(folder, "someone/autoencoder", dry_run=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_train_steps": None}, "How long should it train"),
        ({"dataset": "swiss_roll"}, "dataset='swiss_roll' has points or arrays, and an autoencoder is for images"),
        ({"ema": "power"}, "ema='power' keeps averages of other lengths"),
        ({"kl_weight": -1.0}, "kl_weight=-1.0 is not allowed: it must be at least 0"),
        ({"reconstruction": "l2"}, "reconstruction='l2' is not one of 'l1', 'mse'"),
        ({"autoencoder": "smal_f4"}, "autoencoder='smal_f4' is not one of .*did you mean 'small_f4'"),
        ({"resolution": 9}, "latents whose sides are 2 times smaller, and the images are of 9x9: .* such as 8"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(options, changes, message):
    with pytest.raises(InputError, match=message):
        train_autoencoder(AutoencoderArguments(**options | changes))
    assert not (Path(options["output_dir"]) / "training_args.yaml").exists()


def test_the_command_line_has_its_options(options, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--kl_weight" in capsys.readouterr().out
    args = parse_arguments(["--preset", "fashion_mnist", "--max_train_steps", "5"], AutoencoderArguments)
    assert args.autoencoder == "small_f4" and args.max_train_steps == 5 and args.eval_split == "test"


@pytest.mark.parametrize(
    ("sides", "name", "latents"),
    [((28, 28), "small_f2", 14), ((32, 32), "small_f4", 8), ((64, 64), "small_f4", 16), ((256, 256), "large_f8", 32)],
)
def test_the_chosen_network_has_latents_that_a_unet_halves(sides, name, latents):
    assert chosen_preset(sides) == name
    assert sides[0] // factor_of(AUTOENCODER_PRESETS[name]) == latents


@pytest.mark.parametrize("name", ["small_f2", "small_f4"])
def test_the_small_presets_are_networks_of_their_factor(name):
    vae = AutoencoderKL(**autoencoder_config(name), in_channels=1, out_channels=1)
    side = 8 * factor_of(vae.config)
    assert moments_of(vae, torch.zeros(1, 1, side, side)).shape[2:] == (8, 8)


@pytest.mark.parametrize(("worthwhile", "precision"), CHOSEN)
def test_a_measured_precision_trains_as_if_it_was_named(options, monkeypatch, capsys, worthwhile, precision):
    def trained(**given):
        return train_autoencoder(AutoencoderArguments(**given))

    check_measured_precision(trained, options, WEIGHTS, worthwhile, precision, monkeypatch, capsys)
