"""The network of points: its size, its inputs, its copies, and saving and loading."""

import pytest
import torch
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, MLPDenoiser
from ddpm_hf.schedulers.choices import VARIANCE_HEADS

ROUNDING = {"rtol": 1e-5, "atol": 1e-6}  # the same weights elsewhere in memory may round otherwise


def small(**options):
    torch.manual_seed(0)
    return MLPDenoiser(width=16, time_embedding_dim=8, **options)


def points(count=5, dimensions=2):
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(1))


def test_its_layers_are_those_of_the_study():
    network = MLPDenoiser()
    linear = [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, torch.nn.Linear)]
    assert linear == [(2, 256), (64, 256), (512, 512), (512, 256), (256, 2)]
    assert network.num_parameters() == 414_466
    assert sum(isinstance(m, torch.nn.LayerNorm) for m in network.modules()) == 4


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("labels", [None, [0, 2, 1, 3, 0]])
def test_one_timestep_for_all_is_the_same_as_one_for_each(labels, gradients):
    network = small(num_classes=3)
    labels = None if labels is None else torch.tensor(labels)
    with torch.set_grad_enabled(gradients):
        for t in (0, 7, 999):
            each = network(points(), torch.full((5,), t), labels).sample
            for one in (t, torch.tensor(t), torch.tensor([t])):
                assert_close(network(points(), one, labels).sample, each, **ROUNDING)


def test_time_and_class_matter_and_no_class_is_the_null_label():
    network = small(num_classes=3)
    null = network(points(), 5).sample
    assert torch.equal(network(points(), 5, return_dict=False)[0], null)
    assert_close(network(points(), 5, torch.full((5,), 3)).sample, null, **ROUNDING)
    assert (network(points(), 5, torch.zeros(5, dtype=torch.int64)).sample - null).abs().max() > 1e-3
    assert (network(points(), 6).sample - null).abs().max() > 1e-4


def test_half_precision_tells_neighbouring_timesteps_apart():
    """In bfloat16 998 and 999 are one number, and sin(t) of a rounded t is another's."""
    network, t = small(), torch.tensor([997, 998, 999])
    heard = []
    network.time_block.register_forward_pre_hook(lambda block, inputs: heard.append(inputs[0]))
    for dtype in (torch.float32, torch.bfloat16):
        network.to(dtype)(points(3).to(dtype), t)
    assert_close(heard[1].float(), heard[0], rtol=0, atol=2**-8)
    assert len(heard[1].unique(dim=0)) == 3


def test_sampling_does_not_write_over_what_it_is_given():
    network, given = small(), points()
    with torch.no_grad():
        network(given, 3)
    assert torch.equal(given, points())


@pytest.mark.parametrize("head", VARIANCE_HEADS)
def test_heads_double_the_channels(head):
    network = small(variance_head=head, in_channels=3)
    assert network.config.out_channels == 6 and network(points(4, 3), 5).sample.shape == (4, 6)


@pytest.mark.parametrize(
    "added", [{"variance_head": "npr"}, {"num_classes": 4}, {"variance_head": "sn", "num_classes": 2}]
)
def test_copies_with_a_head_or_classes_predict_the_same(added):
    network = small(data_mean=[1.0, 2.0], data_std=[3.0, 4.0])
    copy = MLPDenoiser.from_unet(network, **added)
    assert copy.config.data_mean == [1.0, 2.0] and copy.config.width == 16
    output, expected = copy(points(), 5).sample, network(points(), 5).sample
    assert_close(output[:, :2], expected, **ROUNDING)
    assert not output[:, 2:].any()
    assert all(weight.data_ptr() != copy.get_parameter(name).data_ptr() for name, weight in network.named_parameters())
    with pytest.raises(ValueError, match="already; it takes no other"):
        MLPDenoiser.from_unet(copy, **added)


def test_what_is_saved_is_what_is_loaded(tmp_path, diffusers_log):
    network = small(num_classes=2, variance_head="ocm", data_mean=[1.0, 2.0], data_std=[3.0, 4.0])
    network.save_pretrained(tmp_path)
    loaded = MLPDenoiser.from_pretrained(tmp_path)
    labels = torch.tensor([0, 1, 2, 0, 1])
    assert_close(loaded(points(), 9, labels).sample, network(points(), 9, labels).sample, **ROUNDING)
    assert {k: v for k, v in loaded.config.items() if k[0] != "_"} == {
        k: v for k, v in network.config.items() if k[0] != "_"
    }
    assert not diffusers_log.records


@pytest.mark.parametrize(
    "options, message",
    [
        ({"in_channels": 0}, "in_channels=0 must be at least 1"),
        ({"time_embedding_dim": 7}, "time_embedding_dim=7 must be even"),
        ({"num_classes": 0}, "num_classes=0 must be at least 1"),
        ({"variance_head": "psn"}, "variance_head='psn' is not one of"),
        ({"out_channels": 2, "variance_head": "npr"}, "out_channels=2 contradicts .* it is 4"),
        ({"data_mean": [0.0, 0.0]}, "must be given both, or neither"),
        ({"data_mean": [0.0], "data_std": [1.0]}, "a number for each of in_channels=2"),
        ({"data_mean": [0.0, 0.0], "data_std": [1.0, 0.0]}, "must be greater than 0"),
    ],
)
def test_arguments_that_contradict(options, message):
    with pytest.raises(ValueError, match=message):
        MLPDenoiser(**options)


@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 1, 1), (2,)])
def test_samples_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"are not for this network, which takes \(B, 2\)"):
        small()(torch.zeros(shape), 5)


# In the pipeline ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pipeline():
    network = small(num_classes=3, data_mean=[10.0, -10.0], data_std=[2.0, 0.5])
    pipeline = GaussianDiffusionPipeline(network.eval(), GaussianDiffusionScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, **options):
    generator = torch.Generator().manual_seed(0)
    return pipeline(batch_size=6, num_inference_steps=4, generator=generator, **options).images


def test_points_come_in_the_units_of_the_data(pipeline):
    standardised, tensor, array = (draw(pipeline, output_type=kind) for kind in ("latent", "pt", "np"))
    expected = standardised * torch.tensor([2.0, 0.5]) + torch.tensor([10.0, -10.0])
    assert_close(tensor, expected)
    assert array.shape == (6, 2) and torch.equal(torch.from_numpy(array), tensor)
    assert (draw(pipeline) == array).all()  # the default


def test_classes_and_guidance_are_those_of_images(pipeline):
    guided = draw(pipeline, class_labels=[0, 1, 2, 0, 1, 2], guidance_scale=2.0, output_type="latent")
    assert guided.shape == (6, 2) and not torch.equal(guided, draw(pipeline, class_labels=1, output_type="latent"))


def test_what_is_of_images_alone(pipeline):
    with pytest.raises(ValueError, match=r"output_type='pil' is for images; this model makes points: take 'np'"):
        draw(pipeline, output_type="pil")
    with pytest.raises(ValueError, match=r"latents of shape \(6, 3\) must be \(batch, 2\)"):
        pipeline(latents=torch.zeros(6, 3))
