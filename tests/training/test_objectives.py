import math

import pytest
import torch

from ddpm_hf import GaussianDiffusionScheduler
from ddpm_hf.schedulers.choices import COVARIANCE_HEADS
from ddpm_hf.training.objectives import (
    NoisyBatch,
    drop_labels,
    make_objective,
    min_snr_weights,
    npr_losses,
    ocm_losses,
    prediction_target,
    rademacher_like,
    simple_losses,
    sn_losses,
)

PREDICTIONS = ("epsilon", "sample", "v_prediction")


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 1, 8, 8, generator=generator) * 2 - 1
    noise = torch.randn(4, 1, 8, 8, generator=generator)
    return images, noise, torch.tensor([0, 10, 500, 999])


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
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


def test_simple_is_the_mean_square_error_of_each_image(batch, tiny_unet):
    images, noise, timesteps = batch
    scheduler, unet = GaussianDiffusionScheduler(), tiny_unet()
    losses = make_objective("simple", scheduler)(unet, images, timesteps, noise=noise)
    prediction = unet(scheduler.add_noise(images, noise, timesteps), timesteps).sample
    torch.testing.assert_close(losses, ((prediction - noise) ** 2).mean(dim=(1, 2, 3)))


def test_variance_head_gets_no_gradient_from_the_simple_loss(batch, tiny_unet):
    images, noise, timesteps = batch
    unet = tiny_unet(variance_head="learned_range")
    make_objective("simple", GaussianDiffusionScheduler())(unet, images, timesteps, noise=noise).sum().backward()
    assert unet.conv_out.weight.grad[:1].abs().sum() > 0
    assert unet.conv_out.weight.grad[1:].abs().sum() == 0


def test_labels_reach_the_network(batch, tiny_unet):
    images, noise, timesteps = batch
    unet = tiny_unet(num_classes=2)
    objective = make_objective("simple", GaussianDiffusionScheduler())

    def losses(labels):
        return objective(unet, images, timesteps, labels, noise)

    assert (losses(torch.tensor([0, 0, 0, 0])) != losses(torch.tensor([1, 1, 1, 1]))).all()


# ---------------------------------------------------------------------------------------------------------------------
# Against the training losses of Improved DDPM's code, in float64


class Case:
    """The inputs of the reference and our objective on them. `full` is T = 1000, `respace_25` a chain of 25 steps."""

    def __init__(self, reference, schedule, tag, mean="EPSILON", variance="LEARNED_RANGE", prediction_type=None):
        self.arrays, self.prefix = reference("idiff_losses"), f"{schedule}/{tag}"
        self.group = f"{self.prefix}/loss/{mean}/{variance}"
        self.images, self.noise, x_t = (self.input(name) for name in ("x0", "noise", "x_t"))
        self.timesteps = self.arrays[f"{self.prefix}/index"]
        prediction = self.input("model_eps" if mean == "EPSILON" else "model_x0")
        chain = f"{schedule}/betas" if tag == "full" else f"{schedule}/{tag}/betas"
        betas = reference("schedules")[chain].numpy()
        types = {"EPSILON": "epsilon", "START_X": "sample"}
        self.scheduler = GaussianDiffusionScheduler(
            num_train_timesteps=len(betas),
            trained_betas=betas,
            prediction_type=prediction_type or types[mean],
            variance_type=variance.lower(),
        )
        if prediction_type == "v_prediction":  # of the same x_0 and epsilon
            abar = torch.from_numpy(1 - betas).cumprod(0)[self.timesteps].view(-1, 1, 1, 1)
            prediction = (prediction - (1 - abar).sqrt() * x_t) / abar.sqrt()
        head = {"LEARNED_RANGE": "head_range", "LEARNED": "head_logvar"}.get(variance)
        parts = [prediction] if head is None else [prediction, self.input(head)]
        self.output = torch.cat(parts, dim=1).requires_grad_()

    def input(self, name):
        return self.arrays[f"{self.prefix}/in/{name}"]

    def expected(self, name):
        return self.arrays[f"{self.group}/{name}"]

    def losses(self, name, **options):
        def unet(noisy, timesteps, class_labels, return_dict):
            return (self.output,)

        objective = make_objective(name, self.scheduler, **options)
        return objective(unet, self.images, self.timesteps, noise=self.noise)


# At position 0 the reference approximates the normal distribution function by tanh and cuts probabilities off at 1e-12,
# where ours is exact (tests/evaluation compares the two): its bound terms are left out. Our float64 tables are made from
# the same betas, so what remains is rounding.
KL_TERMS = slice(1, None)
CLOSE = {"rtol": 1e-5, "atol": 1e-9}
CHAINS = [(schedule, tag) for schedule in ("linear", "cosine") for tag in ("full", "respace_25")]
chains = pytest.mark.parametrize(("schedule", "tag"), CHAINS)


@chains
@pytest.mark.parametrize("mean", ["EPSILON", "START_X"])
@pytest.mark.parametrize("variance", ["FIXED_SMALL", "FIXED_LARGE", "LEARNED", "LEARNED_RANGE"])
def test_losses_are_those_of_the_reference(reference, schedule, tag, mean, variance):
    case = Case(reference, schedule, tag, mean, variance)
    steps = len(case.scheduler)
    torch.testing.assert_close(case.losses("simple"), case.expected("MSE/mse"), **CLOSE)
    vlb = case.losses("vlb")[KL_TERMS]
    torch.testing.assert_close(vlb, case.expected("RESCALED_KL/loss")[KL_TERMS], **CLOSE)
    torch.testing.assert_close(vlb / steps, case.expected("KL/loss")[KL_TERMS], **CLOSE)
    if variance.startswith("LEARNED"):
        # The paper's lambda = 0.001 times the bound, which is T terms, is their RESCALED_MSE with T/1000 of one term.
        hybrid = case.losses("hybrid", vlb_weight=0.001)[KL_TERMS]
        torch.testing.assert_close(hybrid, case.expected("RESCALED_MSE/loss")[KL_TERMS], **CLOSE)
        hybrid = case.losses("hybrid", vlb_weight=1 / steps)[KL_TERMS]
        torch.testing.assert_close(hybrid, case.expected("MSE/loss")[KL_TERMS], **CLOSE)


@chains
@pytest.mark.parametrize(
    ("name", "options", "loss"),
    [("hybrid", {"vlb_weight": 0.001}, "RESCALED_MSE"), ("vlb", {}, "RESCALED_KL")],
)
def test_gradients_are_those_of_the_reference(reference, schedule, tag, name, options, loss):
    case = Case(reference, schedule, tag)
    case.losses(name, **options).sum().backward()
    expected = case.expected(f"{loss}/grad_model_output")
    torch.testing.assert_close(case.output.grad[KL_TERMS], expected[KL_TERMS], **CLOSE)


@chains
def test_the_bound_does_not_reach_the_mean_in_hybrid(reference, schedule, tag):
    """Gradients of the prediction are those of L_simple alone, at position 0 too, and those of the head L_vlb's alone."""
    gradients = {}
    for name in ("simple", "hybrid", "vlb"):
        case = Case(reference, schedule, tag)
        case.losses(name, **({"vlb_weight": 1.0} if name == "hybrid" else {})).sum().backward()
        gradients[name] = case.output.grad.chunk(2, dim=1)
    assert torch.equal(gradients["hybrid"][0], gradients["simple"][0])
    assert torch.equal(gradients["hybrid"][1], gradients["vlb"][1])
    assert gradients["vlb"][0].abs().amin(dim=(1, 2, 3)).gt(0).all()
    rescaled = case.expected("RESCALED_MSE/grad_model_output")[:, :3]
    torch.testing.assert_close(gradients["hybrid"][0], rescaled, **CLOSE)


@chains
def test_v_has_the_bound_of_the_same_mean_and_an_error_of_its_own(reference, schedule, tag):
    """v is not in the reference: its epsilon and x_0 say what is to come out."""
    case = Case(reference, schedule, tag, prediction_type="v_prediction")
    vlb = case.losses("vlb")
    torch.testing.assert_close(vlb[KL_TERMS], case.expected("RESCALED_KL/loss")[KL_TERMS], **CLOSE)
    # The error of v is that of epsilon over abar, as its formula says for fixed x_t.
    abar = case.scheduler.alpha_bar(case.timesteps)
    simple = case.losses("simple")
    torch.testing.assert_close(simple, case.expected("MSE/mse") / abar, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(case.losses("hybrid", vlb_weight=0.1), simple + 0.1 * vlb)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("name", ["hybrid", "vlb"])
def test_every_timestep_has_finite_gradients_in_float32(batch, tiny_unet, name, prediction_type):
    images = ((batch[0] + 1) * 127.5).round() / 127.5 - 1
    scheduler = GaussianDiffusionScheduler(
        prediction_type=prediction_type,
        variance_type="learned_range",
        beta_schedule="squaredcos_cap_v2",
        rescale_betas_zero_snr=prediction_type != "epsilon",
    )
    unet = tiny_unet(variance_head="learned_range")
    losses = make_objective(name, scheduler)(unet, images, batch[2], noise=batch[1])
    assert losses.isfinite().all()
    losses.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in unet.parameters())


# ---------------------------------------------------------------------------------------------------------------------
# Variance heads


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(("name", "function"), [("npr", "dt_dsdm_err/eps_epsc"), ("sn", "dt_dsdm/eps_eps2")])
def test_head_losses_and_gradients_are_those_of_the_reference(reference, schedule, name, function):
    """Extended-Analytic-DPM's losses, in float64; sums over the 48 values of an image, where ours are means."""
    arrays = reference("eadpm_losses")
    keys = ("x0", "noise", "x_n", "head1", "head2")
    images, noise, noisy, prediction, head = (arrays[f"{schedule}/{key}"] for key in keys)
    if name == "sn":  # their head has the square of the prediction still in it
        head = head - prediction**2
    output = torch.cat([prediction, head], dim=1).requires_grad_()
    batch = NoisyBatch(images, noise, noisy, arrays[f"{schedule}/timestep"])
    betas = reference("schedules")[f"{schedule}/betas"].numpy()
    scheduler = GaussianDiffusionScheduler(trained_betas=betas, clip_sample=False)
    head_losses = npr_losses(scheduler, output, batch) if name == "npr" else sn_losses(scheduler, output, batch)
    torch.testing.assert_close(48 * head_losses, arrays[f"{schedule}/{function}/ddm"], rtol=1e-9, atol=1e-10)
    (48 * (simple_losses(scheduler, output, batch) + head_losses)).sum().backward()
    for gradient, key in zip(output.grad.chunk(2, dim=1), ("grad_head1", "grad_head2"), strict=True):
        torch.testing.assert_close(gradient, arrays[f"{schedule}/{function}/{key}"], rtol=1e-9, atol=1e-10)


class ExactNetwork(torch.nn.Module):
    """The exact prediction for x_0 ~ N(mean, covariance), images of 3 pixels, with Cov[eps | x_t], scaled, as its head.

    E[x_0 | x_t] = mean + A (x_t - a mean) with A = a covariance (a^2 covariance + b^2)^-1, a^2 = abar and b^2 = 1 - abar.
    """

    def __init__(self, mean, covariance, scheduler, timestep):
        super().__init__()
        self.mean, self.prediction_type, self.scale = mean, scheduler.config.prediction_type, 1.0
        abar, identity = scheduler.alpha_bar(timestep), torch.eye(3, dtype=torch.float64)
        self.a, self.b = abar.sqrt(), (1 - abar).sqrt()
        self.gain = self.a * covariance @ torch.linalg.inv(abar * covariance + (1 - abar) * identity)
        # abar / (1 - abar) Cov[x_0 | x_t]
        self.head = (abar / (1 - abar) * (covariance - self.a * self.gain @ covariance)).diagonal()

    def forward(self, noisy, timesteps, class_labels, return_dict):
        x_t = noisy.flatten(1)
        x0 = self.mean + (x_t - self.a * self.mean) @ self.gain.T
        epsilon = (x_t - self.a * x0) / self.b
        predictions = {"epsilon": epsilon, "sample": x0, "v_prediction": self.a * epsilon - self.b * x0}
        head = (self.scale * self.head).expand_as(x_t)
        return (torch.stack([predictions[self.prediction_type], head], dim=1)[..., None],)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("timestep", [0, 100, 500, 999])
@pytest.mark.parametrize("head", COVARIANCE_HEADS)
def test_the_loss_of_every_head_is_least_at_the_covariance_of_the_noise(head, timestep, prediction_type):
    """Gaussian data, closed form: the parabola of the loss against a factor on the head has its minimum at 1."""
    torch.manual_seed(0)
    mean, root = torch.tensor([0.5, -0.3, 0.1], dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    images = (mean + torch.randn(20_000, 3, dtype=torch.float64) @ root.T)[:, None, :, None]
    noise = torch.randn_like(images)
    scheduler = GaussianDiffusionScheduler(prediction_type=prediction_type)
    unet = ExactNetwork(mean, root @ root.T, scheduler, timestep)
    objective = make_objective(head, scheduler)

    def losses(scale):
        unet.scale = scale
        torch.manual_seed(1)  # the same probes
        return objective(unet, images, torch.full((len(images),), timestep), noise=noise)

    below, at, above = losses(0.9), losses(1.0), losses(1.1)
    curvature = (above - 2 * at + below).mean() / 0.1**2
    slopes = (above - below) / (2 * 0.1)
    distance, error = slopes.mean() / curvature, slopes.std() / len(slopes) ** 0.5 / curvature
    assert abs(distance) <= 5 * error + 1e-5
    if timestep < 999:  # where h is 4e-5, no number of images shows it beside the variance of the square of noise
        assert error < 0.05


@pytest.fixture
def attending_unet(tiny_unet):
    """A network with attention on the way down and up, in float64."""
    return tiny_unet(
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        variance_head="ocm",
    ).double()


def hadamard(order):
    """Rows v of 1 and -1, (order, order), over which the mean of v_i v_j is exactly delta_ij."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < order:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("timestep", [0, 400, 999])
def test_ocm_targets_have_the_diagonal_of_the_jacobian_as_mean(attending_unet, prediction_type, timestep):
    scheduler = GaussianDiffusionScheduler(prediction_type=prediction_type, clip_sample=False)
    x_t = torch.randn(1, 1, 8, 8, dtype=torch.float64)

    def epsilon(x):
        output = attending_unet(x, timestep).sample
        return scheduler.get_epsilon(output, timestep, x)

    jacobian = torch.autograd.functional.jacobian(epsilon, x_t).view(64, 64)
    probes = hadamard(64).view(64, 1, 8, 8)
    head = torch.zeros(64, 1, 8, 8, dtype=torch.float64, requires_grad=True)

    def predict(x):
        return torch.cat([attending_unet(x, timestep).sample[:, :1], head], dim=1)

    batch = NoisyBatch(None, None, x_t.repeat(64, 1, 1, 1), torch.full((64,), timestep))
    ocm_losses(scheduler, predict, batch, probes).sum().backward()
    targets = -32 * head.grad  # the gradient of (target - h)^2 / 64 at h = 0 is -target / 32
    expected = 1 - (1 - scheduler.alpha_bar(timestep)).sqrt() * jacobian.diagonal()
    torch.testing.assert_close(targets.mean(0).flatten(), expected, rtol=1e-9, atol=1e-12)
    assert targets.std(0).max() > 1e-3  # it is a mean only


def test_probes_are_signs_without_correlation():
    torch.manual_seed(0)
    probes = rademacher_like(torch.empty(10_000, 1, 2, 2)).flatten(1)
    assert (probes.abs() == 1).all()
    assert (probes.T @ probes / len(probes) - torch.eye(4)).abs().max() < 5 / 100
    assert probes.mean(0).abs().max() < 5 / 100


@pytest.mark.parametrize("name", COVARIANCE_HEADS)
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_head_objectives_teach_the_head_alone_and_are_finite_at_every_timestep(
    batch, tiny_unet, name, prediction_type
):
    scheduler = GaussianDiffusionScheduler(
        prediction_type=prediction_type, variance_type=name, rescale_betas_zero_snr=True
    )
    unet = tiny_unet(variance_head=name)
    losses = make_objective(name, scheduler)(unet, batch[0], batch[2], noise=batch[1])
    assert losses.shape == (4,) and losses.isfinite().all()
    losses.sum().backward()
    gradient = unet.conv_out.weight.grad
    assert gradient.isfinite().all()
    assert (gradient[:1] == 0).all()
    assert gradient[1:].abs().sum() > 0


# ---------------------------------------------------------------------------------------------------------------------
# Weights, labels


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_min_snr_weights(prediction_type, zero_snr):
    """Hang et al. 2023: min(SNR, gamma) on the error of x_0, carried over to what is predicted."""
    gamma = 5.0
    scheduler = GaussianDiffusionScheduler(prediction_type=prediction_type, rescale_betas_zero_snr=zero_snr)
    weights = min_snr_weights(scheduler, gamma)
    abar = scheduler.alpha_bar(range(len(scheduler)))
    assert weights.isfinite().all()
    for t in (0, 1, 10, 250, 500, 998):
        snr = abar[t].item() / (1 - abar[t].item())
        divisor = {"epsilon": snr, "sample": 1, "v_prediction": snr + 1}[prediction_type]
        assert math.isclose(weights[t].item(), min(snr, gamma) / divisor, rel_tol=1e-6)
    assert abar[10] / (1 - abar[10]) > gamma > abar[500] / (1 - abar[500])  # both branches were seen


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_min_snr_weighs_each_image_by_its_timestep(batch, tiny_unet, prediction_type):
    """The weighted loss is min(SNR, gamma) times the squared error of x_0, whatever is predicted."""
    images, noise, timesteps = batch
    scheduler, unet = GaussianDiffusionScheduler(prediction_type=prediction_type, clip_sample=False), tiny_unet()
    losses = make_objective("simple", scheduler, min_snr_gamma=5.0)(unet, images, timesteps, noise=noise)
    x_t = scheduler.add_noise(images, noise, timesteps)
    x0 = scheduler.p_mean_variance(unet(x_t, timesteps).sample, timesteps, x_t).pred_original_sample
    abar = scheduler.alpha_bar(timesteps)
    weights = (abar / (1 - abar)).clamp(max=5.0).float()
    expected = weights * (x0 - images).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-6)


def test_min_snr_weighs_only_the_simple_part_of_hybrid(batch, tiny_unet):
    images, noise, timesteps = batch
    scheduler = GaussianDiffusionScheduler(variance_type="learned_range")
    unet = tiny_unet(variance_head="learned_range")

    def losses(name, **options):
        return make_objective(name, scheduler, **options)(unet, images, timesteps, noise=noise)

    expected = losses("simple", min_snr_gamma=5.0) + 0.1 * losses("vlb")
    torch.testing.assert_close(losses("hybrid", vlb_weight=0.1, min_snr_gamma=5.0), expected)


def test_label_dropout():
    torch.manual_seed(0)
    labels = torch.arange(10).repeat(1000)
    dropped = drop_labels(labels, 0.2, null_label=10)
    kept = dropped != 10
    assert torch.equal(dropped[kept], labels[kept])
    assert abs((~kept).float().mean() - 0.2) < 5 * (0.2 * 0.8 / 10_000) ** 0.5
    assert torch.equal(drop_labels(labels, 0.0, 10), labels)
    assert (drop_labels(labels, 1.0, 10) == 10).all()
