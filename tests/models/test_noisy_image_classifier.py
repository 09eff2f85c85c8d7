import pytest
import torch
from diffusers import UNet2DModel

from ddpm_hf import NoisyImageClassifier

TINY = {
    "sample_size": 8,
    "in_channels": 1,
    "num_classes": 3,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "attention_head_dim": 8,
    "norm_num_groups": 4,
}


@pytest.fixture
def make_classifier():
    def make(**options):
        torch.manual_seed(0)
        return NoisyImageClassifier(**TINY | options).eval()

    return make


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(3, 1, 8, 8)


def test_one_logit_for_each_image_and_class(make_classifier, images):
    assert make_classifier()(images, 5).shape == (3, 3)
    assert NoisyImageClassifier()(torch.randn(2, 1, 28, 28), 5).shape == (2, 10)  # what one gets for the asking


@pytest.mark.parametrize("size", [7, 9, (6, 11)])
def test_any_size(make_classifier, size):
    height, width = (size, size) if isinstance(size, int) else size
    assert make_classifier(sample_size=size)(torch.randn(2, 1, height, width), 5).shape == (2, 3)


def test_its_encoder_is_that_of_the_unet(make_classifier, tiny_unet, images):
    """With the weights of a U-Net, the input of the pooling is the output of the middle of that U-Net."""
    options = {name: TINY[name] for name in ("block_out_channels", "down_block_types", "attention_head_dim")}
    unet = tiny_unet(**options, up_block_types=("AttnUpBlock2D", "UpBlock2D"), resnet_time_scale_shift="scale_shift")
    assert isinstance(unet, UNet2DModel)
    classifier = make_classifier()
    shared = {n: w for n, w in unet.state_dict().items() if n in classifier.state_dict() and "conv_norm" not in n}
    left = classifier.load_state_dict(shared, strict=False).missing_keys
    assert {name.split(".")[0] for name in left} == {"conv_norm_out", "pool"}
    seen = []
    for network in (unet, classifier):
        network.mid_block.register_forward_hook(lambda module, inputs, output: seen.append(output))
        network(images, torch.tensor([0, 5, 999]))
    assert torch.equal(*seen)


def test_timesteps_matter_and_may_be_one_for_all(make_classifier, images):
    classifier = make_classifier()
    for one in (700, torch.tensor(700)):
        assert torch.equal(classifier(images, one), classifier(images, torch.full((3,), 700)))
    assert (classifier(images, 700) - classifier(images, 10)).abs().max() > 1e-3


def test_images_do_not_see_each_other(make_classifier, images):
    classifier, timesteps = make_classifier(), torch.tensor([0, 5, 999])
    each = torch.cat([classifier(images[i : i + 1], timesteps[i]) for i in range(3)])
    torch.testing.assert_close(classifier(images, timesteps), each)


def test_the_gradient_with_respect_to_the_image_is_that_of_finite_differences(make_classifier, images):
    classifier, images = make_classifier().double(), images.double().requires_grad_()

    def log_probability(x):
        return classifier(x, 5).log_softmax(1)[:, 1].sum()

    (gradient,) = torch.autograd.grad(log_probability(images), images)
    direction = torch.randn_like(images)
    with torch.no_grad():
        h = 1e-5
        difference = (log_probability(images + h * direction) - log_probability(images - h * direction)) / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "options", [{}, {"sample_size": (8, 8), "resnet_time_scale_shift": "default", "dropout": 0.2}]
)
def test_saved_and_loaded_is_the_same_bit_for_bit(make_classifier, images, tmp_path, options):
    classifier = make_classifier(**options)
    classifier.save_pretrained(tmp_path / "classifier")
    loaded = NoisyImageClassifier.from_pretrained(tmp_path, subfolder="classifier")
    assert torch.equal(loaded(images, 5), classifier(images, 5))
    again = NoisyImageClassifier.from_config(loaded.config).eval()
    again.load_state_dict(classifier.state_dict())
    assert torch.equal(again(images, 5), classifier(images, 5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_in_other_precisions(make_classifier, images, dtype):
    classifier = make_classifier()
    expected = classifier(images, 700)
    logits = classifier.to(dtype)(images.to(dtype), 700)
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=0.05)


def test_gradient_checkpointing_changes_nothing(make_classifier, images):
    classifier, gradients = make_classifier().train(), []
    for enable in (classifier.disable_gradient_checkpointing, classifier.enable_gradient_checkpointing):
        enable()
        classifier.zero_grad()
        classifier(images, 5).square().mean().backward()
        gradients.append(classifier.conv_in.weight.grad.clone())
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes=1 must be at least 2"),
        ({"block_out_channels": (8,)}, "must have one entry for each level"),
        ({"block_out_channels": (), "down_block_types": ()}, "one level at least"),
        (
            {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")},
            "may have DownBlock2D and AttnDownBlock2D only",
        ),
        ({"block_out_channels": (6, 16)}, r"\(6, 16\) must be multiples of norm_num_groups=4"),
        ({"block_out_channels": (8, 12)}, r"\(8, 12\) must be multiples of attention_head_dim=8"),
        (
            {"resnet_time_scale_shift": "shift"},
            "resnet_time_scale_shift='shift' is not one of 'default', 'scale_shift'",
        ),
    ],
)
def test_bad_options(make_classifier, options, message):
    with pytest.raises(ValueError, match=message):
        make_classifier(**options)


@pytest.mark.parametrize("shape", [(2, 1, 9, 8), (2, 3, 8, 8), (1, 8, 8)])
def test_other_images_are_refused(make_classifier, shape):
    with pytest.raises(ValueError, match=r"are not for this classifier, which takes \(batch, 1, 8, 8\)"):
        make_classifier()(torch.randn(shape), 5)


def test_other_timesteps_are_refused(make_classifier, images):
    with pytest.raises(
        ValueError, match=r"timestep of shape \(2,\) must be one for all images, \(\), or one for each of 3"
    ):
        make_classifier()(images, torch.tensor([1, 2]))
