import pytest
import torch

from ddpm_hf import GaussianDiffusionScheduler
from ddpm_hf.training.objectives import drop_labels, prediction_target, simple_loss


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 1, 8, 8, generator=generator) * 2 - 1
    noise = torch.randn(4, 1, 8, 8, generator=generator)
    return images, noise, torch.tensor([0, 10, 500, 999])


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_target_recovers_the_image(batch, prediction_type):
    """Each target, put into the formula for x_0 that belongs to it, gives x_0 back."""
    images, noise, timesteps = batch
    scheduler = GaussianDiffusionScheduler(prediction_type=prediction_type)
    target = prediction_target(scheduler, images, noise, timesteps)
    alpha = scheduler.alphas_cumprod[timesteps].float().sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    x_t = alpha * images + sigma * noise
    recovered = {
        "epsilon": (x_t - sigma * target) / alpha,
        "sample": target,
        "v_prediction": alpha * x_t - sigma * target,
    }[prediction_type]
    # At t = 999 alpha is 0.006, and eps tells x_0 with as many digits less.
    torch.testing.assert_close(recovered, images, rtol=1e-3, atol=1e-3)


def test_loss_is_the_mean_square_error(batch, tiny_unet):
    images, noise, timesteps = batch
    scheduler, unet = GaussianDiffusionScheduler(), tiny_unet()
    loss = simple_loss(unet, scheduler, images, timesteps=timesteps, noise=noise)
    prediction = unet(scheduler.add_noise(images, noise, timesteps), timesteps).sample
    torch.testing.assert_close(loss, ((prediction - noise) ** 2).mean())


def test_variance_head_gets_no_gradient_from_the_simple_loss(batch, tiny_unet):
    images, noise, timesteps = batch
    unet = tiny_unet(variance_head="learned_range")
    simple_loss(unet, GaussianDiffusionScheduler(), images, timesteps=timesteps, noise=noise).backward()
    assert unet.conv_out.weight.grad[:1].abs().sum() > 0
    assert unet.conv_out.weight.grad[1:].abs().sum() == 0


def test_labels_reach_the_network(batch, tiny_unet):
    images, noise, timesteps = batch
    unet = tiny_unet(num_classes=2)

    def loss(labels):
        return simple_loss(unet, GaussianDiffusionScheduler(), images, labels, timesteps, noise)

    assert loss(torch.tensor([0, 0, 0, 0])) != loss(torch.tensor([1, 1, 1, 1]))


def test_timesteps_are_uniform(tiny_unet):
    seen = []
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=4)

    def unet(noisy, timesteps, class_labels, return_dict):
        seen.append(timesteps)
        return (noisy,)

    torch.manual_seed(0)
    simple_loss(unet, scheduler, torch.zeros(4000, 1, 1, 1))
    counts = torch.bincount(seen[0], minlength=4)
    assert len(counts) == 4
    assert (counts - 1000).abs().max() < 5 * (4000 * 0.25 * 0.75) ** 0.5


def test_label_dropout():
    torch.manual_seed(0)
    labels = torch.arange(10).repeat(1000)
    dropped = drop_labels(labels, 0.2, null_label=10)
    kept = dropped != 10
    assert torch.equal(dropped[kept], labels[kept])
    assert abs((~kept).float().mean() - 0.2) < 5 * (0.2 * 0.8 / 10_000) ** 0.5
    assert torch.equal(drop_labels(labels, 0.0, 10), labels)
    assert (drop_labels(labels, 1.0, 10) == 10).all()
