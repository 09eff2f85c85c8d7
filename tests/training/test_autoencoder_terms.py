"""The perceptual distance and the patch discriminator in the training of an autoencoder."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from test_processes import ON_TWO, flags, launch  # noqa: F401
from test_train_autoencoder import WEIGHTS, config, options, tiny_autoencoder  # noqa: F401
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from ddpm_hf.errors import InputError
from ddpm_hf.hub.push import push_folder
from ddpm_hf.reports.loss_curve import read_rows
from ddpm_hf.training.adversary import BETAS, DELTA, Adversary
from ddpm_hf.training.autoencoder_arguments import AutoencoderArguments
from ddpm_hf.training.autoencoder_objective import AutoencoderObjective
from ddpm_hf.training.patch_discriminator import PatchDiscriminator
from ddpm_hf.training.perceptual_distance import open_perceptual_distance
from ddpm_hf.training.train_autoencoder import train_autoencoder

MEAN, STD = [0.2, 0.4, 0.6], [0.3, 0.2, 0.1]
TERMS = ("perceptual_distance", "generator_loss", "adversarial_weight", "discriminator_loss")


@pytest.fixture
def classifier(tmp_path):
    """The folder of a classifier of colour images, in float32, with a processor of its own."""
    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 6], "depths": [1, 1], "layer_type": "basic"}
    folder = tmp_path / "see"
    ResNetForImageClassification(ResNetConfig(**sizes)).save_pretrained(folder)
    ViTImageProcessor(image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def adversary(make_accelerator):
    args = SimpleNamespace(
        discriminator_weight=0.5, discriminator_start=0, gradient_accumulation_steps=1, max_grad_norm=1e9
    )
    network = tiny_autoencoder()
    torch.manual_seed(2)
    return Adversary(args, make_accelerator(), network, (8, 8)), network


def test_the_distance_is_that_of_directions_of_features_over_all_stages(classifier):
    images, others = torch.rand(2, 3, 1, 16, 16) * 2 - 1
    distances = open_perceptual_distance(classifier, 1, (16, 16))(images, others)
    network = ResNetForImageClassification.from_pretrained(classifier).eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    seen = [network(((x + 1) / 2 - mean) / std, output_hidden_states=True).hidden_states for x in (images, others)]
    expected = [
        (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean((1, 2))
        for a, b in zip(*seen, strict=True)
    ]
    assert len(expected) == 3
    torch.testing.assert_close(distances, sum(expected) / 3, atol=1e-4, rtol=1e-4)


def test_it_is_zero_of_the_same_and_has_a_gradient_where_nothing_is_seen(classifier):
    see = open_perceptual_distance(classifier, 3, (8, 8))
    torch.nn.init.zeros_(see.network.embedder.embedder.normalization.weight)  # its features are all 0
    torch.nn.init.zeros_(see.network.embedder.embedder.normalization.bias)
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    distances = see(images.detach(), images)
    assert distances.tolist() == [0, 0]
    distances.sum().backward()
    assert images.grad.isfinite().all() and not any(p.requires_grad for p in see.parameters())


def test_images_of_other_channels_are_refused(tmp_path):
    ResNetForImageClassification(ResNetConfig(**SMALL, num_channels=1)).save_pretrained(tmp_path)
    assert open_perceptual_distance(str(tmp_path), 1, (8, 8)).image_mean.flatten().tolist() == [0.5]
    with pytest.raises(InputError, match=r"it takes images of 1 channel\(s\), and these have 3"):
        open_perceptual_distance(str(tmp_path), 3, (8, 8))


def test_images_are_enlarged_for_a_network_that_takes_no_smaller_ones(tmp_path):
    torch.manual_seed(0)
    stages = ConvNextConfig(hidden_sizes=[4, 4, 4], depths=[1, 1, 1], num_stages=3)  # sides of 16 at least
    ConvNextForImageClassification(stages).save_pretrained(tmp_path)
    small, large = (open_perceptual_distance(str(tmp_path), 3, (side, side)) for side in (8, 16))
    assert (small.enlargement, large.enlargement) == (2, 1)
    images, others = torch.rand(2, 2, 3, 8, 8)
    enlarged = (F.interpolate(each, scale_factor=2, mode="bilinear") for each in (images, others))
    torch.testing.assert_close(small(images, others), large(*enlarged))
    pixels = (torch.ones(1, 3, 16, 16) / 2 - torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1)) / large.image_std
    torch.testing.assert_close(large.network(pixels).feature_maps[0], _first_map(large, torch.zeros(1, 3, 16, 16)))


def _first_map(see, images):
    seen = []
    handle = see.network.register_forward_hook(lambda _, inputs, output: seen.append(output.feature_maps[0]))
    see(images, images)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(("side", "patch"), [(32, 16), (64, 34), (128, 70)])
def test_the_patches_grow_with_the_images(side, patch):
    network = PatchDiscriminator(1, side).eval()
    images = torch.rand(1, 1, side, side, requires_grad=True)
    # Norms see the whole image, and are left out.
    layers = [layer for layer in network if not isinstance(layer, torch.nn.GroupNorm)]
    said = torch.nn.Sequential(*layers)(images)
    said[0, 0, said.shape[2] // 2, said.shape[3] // 2].backward()
    assert (images.grad[0, 0].abs().sum(0) > 0).sum() == patch


def test_the_gradient_is_that_of_errors_and_the_adaptive_weight(adversary):
    """By gradients through the network to the weights of its last layer, as the paper writes it."""
    adversary, network = adversary
    images = torch.rand(3, 1, 8, 8) * 2 - 1
    objective = AutoencoderObjective("l1", 0.0, adversary=adversary)
    torch.manual_seed(1)
    losses = objective(network, images, None)
    losses.mean().backward()
    found = [p.grad.clone() for p in network.parameters()]
    learned = [p.grad.clone() for p in adversary.network.parameters()]
    network.zero_grad()
    adversary.network.zero_grad()
    torch.manual_seed(1)
    reconstructed = network(images)[0]
    errors, fooled = (reconstructed - images).abs().mean(), -adversary.network(reconstructed).mean()
    last = network.decoder.conv_out.weight
    norms = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (errors, fooled)]
    weight = 0.5 * norms[0] / (norms[1] + DELTA)
    torch.testing.assert_close(objective.terms["adversarial_weight"], weight, rtol=1e-4, atol=0)
    torch.testing.assert_close(objective.terms["generator_loss"], fooled)
    torch.testing.assert_close(losses.mean(), errors)  # the value is that of the reconstruction
    (errors + weight.detach() * fooled).backward()
    torch.testing.assert_close(found, [p.grad for p in network.parameters()], rtol=1e-4, atol=1e-6)
    adversary.network.zero_grad()
    hinge = F.relu(1 - adversary.network(images)).mean() + F.relu(1 + adversary.network(reconstructed.detach())).mean()
    (hinge / 2).backward()
    torch.testing.assert_close(learned, [p.grad for p in adversary.network.parameters()])
    torch.testing.assert_close(objective.terms["discriminator_loss"], hinge / 2)


def test_it_updates_as_adam_does_and_skips_what_is_not_finite(adversary):
    adversary, _ = adversary
    images, reconstructed = torch.rand(2, 3, 1, 8, 8)
    other = PatchDiscriminator(1, 8)
    other.load_state_dict(adversary.network.state_dict())
    adam = torch.optim.Adam(other.parameters(), lr=0.01, betas=BETAS)
    for _ in range(2):
        adversary._learn(images, reconstructed)
        ((F.relu(1 - other(images)).mean() + F.relu(1 + other(reconstructed)).mean()) / 2).backward()
        adversary.finish_update(0.01)
        adam.step()
        adam.zero_grad()
    torch.testing.assert_close(adversary.network.state_dict(), other.state_dict())
    before = copy.deepcopy(adversary.state_dict())
    adversary._learn(images, reconstructed * torch.nan)
    adversary.finish_update(0.01)
    torch.testing.assert_close(adversary.state_dict(), before | {"updates": 3}, rtol=0, atol=0)


def test_resumed_is_uninterrupted_with_all_terms(options, classifier, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    judged = {"perceptual_network": classifier, "discriminator_weight": 0.5, "discriminator_start": 1}
    of_run = options | judged | {"gradient_accumulation_steps": 2, "sample_every": 0}
    train_autoencoder(AutoencoderArguments(**of_run | {"max_train_steps": 2}))
    resumed = train_autoencoder(AutoencoderArguments(**of_run))
    whole = train_autoencoder(AutoencoderArguments(**of_run | {"output_dir": str(tmp_path / "whole")}))
    assert (resumed / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    state = "checkpoints/step-000004/training_state.safetensors"
    ended, expected = (load_file(folder / state) for folder in (resumed, whole))
    assert any(name.startswith("discriminator.optimizer.state.0") for name in expected)
    assert all(torch.equal(ended[name], value) for name, value in expected.items())
    rows = [read_rows(folder / "loss.csv")[-1] for folder in (resumed, whole)]
    assert all(rows[0][name] == rows[1][name] for name in TERMS)
    assert {WEIGHTS, "config.json", "README.md"} <= set(push_folder(whole, "someone/autoencoder", dry_run=True).sizes)
    assert set(load_file(whole / WEIGHTS)) == set(tiny_autoencoder().state_dict())
    assert str(tmp_path) not in (whole / "README.md").read_text(encoding="utf-8")


def test_bf16_says_what_float32_says_to_its_rounding(options, classifier):  # noqa: F811
    judged = {"perceptual_network": classifier, "discriminator_weight": 0.5, "discriminator_start": 0}
    few = options | judged | {"max_train_steps": 2, "checkpoint_every": 0, "sample_every": 0, "log_every": 1}
    single = read_rows(train_autoencoder(AutoencoderArguments(**few)) / "loss.csv")
    AcceleratorState._reset_state()  # two runs of two precisions are of two processes elsewhere
    few |= {"mixed_precision": "bf16", "output_dir": few["output_dir"] + "_bf16"}
    half = read_rows(train_autoencoder(AutoencoderArguments(**few)) / "loss.csv")
    assert half[-1]["skipped_updates"] == 0
    for name in ("perceptual_distance", "generator_loss", "discriminator_loss"):
        # of the first update, for Adam makes steps of one size from the smallest differences
        assert half[0][name] == pytest.approx(single[0][name], rel=0.05, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["multi_cpu", "fsdp2"])
def test_two_processes_learn_what_one_does_in_two_batches(options, classifier, tmp_path, launch, engine):  # noqa: F811
    judged = {"perceptual_network": classifier, "discriminator_weight": 0.5, "discriminator_start": 1}
    of_run = options | judged | {"batch_size": 2, "checkpoint_every": 0, "sample_every": 0}
    one = train_autoencoder(AutoencoderArguments(**of_run | {"gradient_accumulation_steps": 2}))
    two = of_run | {"output_dir": str(tmp_path / "two")}
    launch(engine, *ON_TWO, "-m", "ddpm_hf.training.train_autoencoder", *flags(two))
    state = "checkpoints/step-000004/training_state.safetensors"
    first, second = (load_file(folder / state) for folder in (one, tmp_path / "two"))
    for name, value in first.items():
        if name.startswith("discriminator."):
            torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-5)
    rows = [read_rows(folder / "loss.csv")[-1] for folder in (one, tmp_path / "two")]
    for name in TERMS:
        assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"perceptual_weight": 2.0}, "perceptual_weight=2.0 has no effect without --perceptual_network"),
        (
            {"perceptual_network": "x/y", "perceptual_weight": -1.0},
            "perceptual_weight=-1.0 is not allowed: .* greater",
        ),
        ({"discriminator_weight": -0.5}, "discriminator_weight=-0.5 is not allowed: it must be at least 0"),
        ({"discriminator_weight": 0.5}, "discriminator_weight=0.5 needs --discriminator_start"),
        ({"discriminator_start": 2}, "discriminator_start=2 has no effect without --discriminator_weight"),
        (
            {"discriminator_weight": 0.5, "discriminator_start": 4},
            "discriminator_start=4 is not before the end of the training, which has 4 updates: .* 2",
        ),
        (
            {"discriminator_weight": 0.5, "discriminator_start": 1, "resolution": "4"},
            "discriminator_weight=0.5 needs images with sides of 6 at least",
        ),
        ({"perceptual_network": "CLIP"}, "is a clip_vision_model, which is no backbone of transformers"),
        ({"perceptual_network": "PART"}, "lacks 1 of the weights of a ResNetBackbone, such as embedder"),
        ({"perceptual_network": "EMPTY"}, "Cannot see images by perceptual_network="),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(options, tmp_path, changes, message):  # noqa: F811
    name = changes.get("perceptual_network")
    if name in NETWORKS:
        (tmp_path / name).mkdir()
        NETWORKS[name](tmp_path / name)
        changes = changes | {"perceptual_network": str(tmp_path / name)}
    with pytest.raises(InputError, match=message):
        train_autoencoder(AutoencoderArguments(**options | changes))
    assert not (tmp_path / "run/training_args.yaml").exists()


SMALL = {"embedding_size": 2, "hidden_sizes": [2], "depths": [1], "layer_type": "basic"}


def _clip(folder):
    sizes = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=8, patch_size=4)).save_pretrained(folder)


def _part(folder):
    network = ResNetForImageClassification(ResNetConfig(**SMALL))
    weights = network.state_dict()
    weights.pop("resnet.embedder.embedder.convolution.weight")
    network.save_pretrained(folder, state_dict=weights)


NETWORKS = {"CLIP": _clip, "PART": _part, "EMPTY": lambda folder: None}
