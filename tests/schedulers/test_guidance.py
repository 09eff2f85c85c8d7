"""Classifier guidance in the scheduler, and guidance.py: the reference's numbers, then general properties."""

import pytest
import torch
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionScheduler
from ddpm_hf.schedulers.choices import COVARIANCE_HEADS
from ddpm_hf.schedulers.guidance import classifier_free_guidance, classifier_gradient, rescaled_guidance

SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
CHAINS = ("full", "respace_25", "respace_ddim25")
VARIANCES = ("FIXED_SMALL", "FIXED_LARGE", "LEARNED_RANGE")
CLOSE = {"rtol": 1e-6, "atol": 1e-10}


class Case:
    """One group of guidance.npz: a scheduler and its inputs."""

    def __init__(self, reference, schedule, chain, variance, clip):
        self.arrays, self.key, self.group = reference("guidance"), f"{schedule}/{chain}", f"{variance}/clip{clip}"
        self.scheduler = GaussianDiffusionScheduler(
            beta_schedule=SCHEDULES[schedule], variance_type=variance.lower(), clip_sample=bool(clip)
        )
        if chain != "full":
            self.scheduler.set_timesteps(timesteps=reference("schedules")[f"{self.key}/timesteps"].flip(0))
        self.t, self.x_t, self.gradient = self.inputs("timestep", "in/x_t", "in/grad")
        self.output, self.noise = self.inputs("in/model_eps", "in/step_noise")
        if variance == "LEARNED_RANGE":
            self.output = torch.cat([self.output, *self.inputs("in/head_range")], dim=1)

    def inputs(self, *names):
        return [self.arrays[f"{self.key}/{name}"] for name in names]

    def expected(self, scale, name):
        return self.arrays[f"{self.key}/{self.group}/scale{scale}/{name}"]

    def step(self, scale, rows=slice(None), timestep=None, **kwargs):
        t = self.t[rows] if timestep is None else timestep
        return self.scheduler.step(
            self.output[rows],
            t,
            self.x_t[rows],
            variance_noise=self.noise[rows],
            classifier_gradient=scale * self.gradient[rows],
            **kwargs,
        )


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_shifted_mean(reference, schedule, chain, variance, clip, scale):
    case = Case(reference, schedule, chain, variance, clip)
    kernel = case.scheduler.p_mean_variance(case.output, case.t, case.x_t)
    guided = case.scheduler.condition_mean(kernel, scale * case.gradient)
    assert_close(guided.mean, case.expected(scale, "condition_mean"), **CLOSE)
    assert_close(guided.variance, kernel.variance, rtol=0, atol=0)
    expected = case.expected(scale, "p_sample")
    assert_close(case.step(scale, guidance_form="mean").prev_sample, expected, **CLOSE)
    for row in range(len(case.t)):  # one timestep at a time, as sampling does
        one = slice(row, row + 1)
        alone = case.step(scale, one, case.t[row].item(), guidance_form="mean").prev_sample
        assert_close(alone, expected[one], **CLOSE)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_shifted_score(reference, schedule, chain, clip, scale):
    case = Case(reference, schedule, chain, "FIXED_SMALL", clip)
    kernel = case.scheduler.p_mean_variance(case.output, case.t, case.x_t)
    guided = case.scheduler.condition_score(kernel, scale * case.gradient, case.t, case.x_t)
    assert_close(guided.pred_epsilon, case.expected(scale, "condition_score/eps"), **CLOSE)
    assert_close(guided.pred_original_sample, case.expected(scale, "condition_score/pred_xstart"), **CLOSE)
    assert_close(guided.mean, case.expected(scale, "condition_score/mean"), **CLOSE)
    for eta in (0.0, 0.5, 1.0):
        expected = case.expected(scale, f"ddim_sample/eta{eta}")
        assert_close(case.step(scale, eta=eta).prev_sample, expected, **CLOSE)
        for row in range(len(case.t)):
            one = slice(row, row + 1)
            alone = case.step(scale, one, case.t[row].item(), eta=eta).prev_sample
            assert_close(alone, expected[one], **CLOSE)


# What must hold for every choice of the kernel ------------------------------------------------------------------------

ALL_VARIANCES = ("fixed_small", "fixed_large", "learned", "learned_range", "analytic", *COVARIANCE_HEADS)


def random_inputs(seed=0):
    """A network's output with a head in (0, 0.5), x_t and a gradient."""
    generator = torch.Generator().manual_seed(seed)
    output, x_t, gradient = torch.randn(3, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    head = 0.5 * torch.rand(x_t.shape, generator=generator, dtype=torch.float64)
    return torch.cat([0.3 * output, head], dim=1), x_t, gradient


def make_scheduler(variance_type="fixed_small", **kwargs):
    gamma = [0.9] * 1000 if variance_type == "analytic" else None
    scheduler = GaussianDiffusionScheduler(variance_type=variance_type, mean_square_epsilon=gamma, **kwargs)
    scheduler.set_timesteps(10)
    return scheduler


@pytest.mark.parametrize("clip, rederive", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 0.4])
@pytest.mark.parametrize("variance_type", ALL_VARIANCES)
def test_step_draws_from_the_conditioned_kernel(variance_type, eta, prediction_type, clip, rederive):
    scheduler = make_scheduler(variance_type, prediction_type=prediction_type, clip_sample=clip)
    output, x_t, gradient = random_inputs()
    choices = {"eta": eta, "use_clipped_model_output": rederive}
    noise = torch.ones_like(x_t)
    for t in (900, 400):
        kernel = scheduler.p_mean_variance(output, t, x_t, **choices)
        score = scheduler.condition_score(kernel, gradient, t, x_t, eta=eta)
        guided = {"score": score, "mean": scheduler.condition_mean(kernel, gradient)}
        for form, conditioned in guided.items():
            if form == "mean" and not kernel.variance.any():
                continue
            step = scheduler.step(
                output, t, x_t, variance_noise=noise, classifier_gradient=gradient, guidance_form=form, **choices
            )
            assert_close(step.prev_sample, conditioned.mean + kernel.variance.sqrt())
            assert_close(step.pred_original_sample, conditioned.pred_original_sample)
        # x0_hat moves as eps_hat does, in the other direction.
        abar = scheduler.alpha_bar(t)
        assert_close(score.pred_epsilon, kernel.pred_epsilon - (1 - abar).sqrt() * gradient)
        x0_shift = -((1 - abar) / abar).sqrt() * (score.pred_epsilon - kernel.pred_epsilon)
        assert_close(score.pred_original_sample, kernel.pred_original_sample + x0_shift)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_the_score_form_is_the_network_that_predicts_the_guided_noise(prediction_type, eta, order):
    """Without clipping, a run equals the one of a network whose output is already guided: so history is guided too."""
    scheduler = make_scheduler(prediction_type=prediction_type, clip_sample=False, solver_order=order)
    outputs = []
    for guided in (True, False):
        scheduler.set_timesteps(10)
        x_t = random_inputs()[1]
        for i, t in enumerate(scheduler.timesteps):
            output, _, gradient = random_inputs(i)
            output, abar = output[:, :3], scheduler.alpha_bar(t)
            signal, sigma = abar.sqrt(), (1 - abar).sqrt()
            if guided:
                kwargs = {"classifier_gradient": gradient}
            else:
                per_gradient = {"epsilon": -sigma, "sample": sigma**2 / signal, "v_prediction": -sigma / signal}
                output, kwargs = output + per_gradient[prediction_type] * gradient, {}
            generator = torch.Generator().manual_seed(i)
            x_t = scheduler.step(output, t, x_t, eta=eta, generator=generator, **kwargs).prev_sample
        outputs.append(x_t)
    assert_close(*outputs, rtol=1e-9, atol=1e-9)


def test_second_order_with_the_mean_form():
    output, x_t, gradient = random_inputs()
    scheduler, output = make_scheduler("fixed_large", solver_order=2), output[:, :3]
    plain, guided = make_scheduler("fixed_large", solver_order=2), {"classifier_gradient": gradient}
    for t in scheduler.timesteps[:3]:
        without = plain.step(output, t, x_t, variance_noise=gradient).prev_sample
        with_it = scheduler.step(output, t, x_t, variance_noise=gradient, guidance_form="mean", **guided).prev_sample
        variance = scheduler.p_mean_variance(output, t, x_t).variance
        assert_close(with_it - without, variance * gradient)


def test_shift_is_by_the_variance_before_it_is_clipped():
    output, x_t, gradient = random_inputs()
    scheduler = make_scheduler("fixed_large", clip_variance_pixels=1.0)
    t = scheduler.timesteps[-2].item()
    noise, form = torch.zeros_like(x_t), {"guidance_form": "mean", "classifier_gradient": gradient}
    kernel = scheduler.p_mean_variance(output, t, x_t)
    step = scheduler.step(output, t, x_t, variance_noise=noise, **form)
    assert_close(step.prev_sample, scheduler.condition_mean(kernel, gradient).mean)


def test_no_gradient_no_change():
    output, x_t, gradient = random_inputs()
    scheduler, noise = make_scheduler("learned_range"), torch.ones_like(x_t)
    plain = scheduler.step(output, 400, x_t, variance_noise=noise).prev_sample
    for form in ("score", "mean"):
        zero = scheduler.step(
            output, 400, x_t, variance_noise=noise, classifier_gradient=0 * gradient, guidance_form=form
        )
        assert_close(zero.prev_sample, plain, rtol=0, atol=0)


def test_without_signal_there_is_no_class():
    """abar_T = 0: the factor of the gradient is infinite, and the gradient itself is 0."""
    scheduler = GaussianDiffusionScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    scheduler.set_timesteps(timesteps=[999, 500])
    output, x_t, gradient = random_inputs()
    plain = scheduler.step(output, 999, x_t, eta=0.0).prev_sample
    assert_close(scheduler.step(output, 999, x_t, eta=0.0, classifier_gradient=gradient).prev_sample, plain)


def test_half_precision_timesteps_of_each_sample_and_pairs():
    scheduler = make_scheduler()
    output, x_t, gradient = random_inputs()
    t, s = torch.tensor([900, 300]), torch.tensor([100, -1])
    kernel = scheduler.p_mean_variance(output, t, x_t, s)
    guided = scheduler.condition_score(kernel, gradient, t, x_t, s)
    for row in (0, 1):
        one = slice(row, row + 1)
        alone = scheduler.p_mean_variance(output[one], t[row].item(), x_t[one], s[row].item())
        alone = scheduler.condition_score(alone, gradient[one], t[row].item(), x_t[one], s[row].item())
        assert_close(alone.mean, guided.mean[one])
    half = [tensor.half() for tensor in (output, x_t, gradient)]
    kernel = scheduler.p_mean_variance(half[0], 500, half[1])
    guided = scheduler.condition_score(kernel, half[2], 500, half[1])
    assert guided.mean.dtype == torch.float32
    exact = scheduler.p_mean_variance(half[0].double(), 500, half[1].double())
    exact = scheduler.condition_score(exact, half[2].double(), 500, half[1].double())
    assert_close(guided.mean.double(), exact.mean, rtol=1e-5, atol=1e-5)
    step = scheduler.step(half[0], 500, half[1], eta=0.0, classifier_gradient=half[2])
    assert step.prev_sample.dtype == torch.float16


def test_bad_guidance():
    scheduler = make_scheduler()
    output, x_t, gradient = random_inputs()
    with pytest.raises(ValueError, match="guidance_form='noise' is not one of 'score', 'mean'"):
        scheduler.step(output, 500, x_t, classifier_gradient=gradient, guidance_form="noise")
    with pytest.raises(ValueError, match=r"classifier_gradient of shape \(1, 3, 4, 4\) must be .* \(2, 3, 4, 4\)"):
        scheduler.step(output, 500, x_t, classifier_gradient=gradient[:1])
    with pytest.raises(ValueError, match="0 for variance_type='fixed_small' at eta=0: use guidance_form='score'"):
        scheduler.step(output, 500, x_t, eta=0.0, classifier_gradient=gradient, guidance_form="mean")


# The functions of tensors ---------------------------------------------------------------------------------------------


def test_classifier_free_guidance():
    output, _, _ = random_inputs()
    of_class, null = output.chunk(2)
    for scale in (0.0, 0.5, 1.0, 4.0):
        guided = classifier_free_guidance(output, 3, scale)
        assert_close(guided[:, :3], null[:, :3] + scale * (of_class[:, :3] - null[:, :3]))
        assert_close(guided[:, 3:], of_class[:, 3:], rtol=0, atol=0)
    rescaled = classifier_free_guidance(output, 3, 4.0, rescale=1.0)
    assert_close(rescaled[:, :3].std((1, 2, 3)), of_class[:, :3].std((1, 2, 3)))
    assert_close(rescaled[:, 3:], of_class[:, 3:], rtol=0, atol=0)


def test_rescaled_guidance():
    """Each image has the standard deviation it would have, in so far as asked."""
    _, guided, conditional = random_inputs()
    guided = 3 * guided + 1
    assert_close(rescaled_guidance(guided, conditional, 0.0), guided)
    full, partly = rescaled_guidance(guided, conditional, 1.0), rescaled_guidance(guided, conditional, 0.7)
    assert_close(full.std((1, 2, 3)), conditional.std((1, 2, 3)))
    assert_close(full / guided, (full / guided)[:, :1, :1, :1].expand_as(full))  # one factor for each image
    assert_close(partly, 0.7 * full + 0.3 * guided)


class LinearClassifier(torch.nn.Module):
    """logits = weight x_t + bias_t: the gradient is weight_y - sum_k p_k weight_k."""

    dtype = torch.float64

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(5, 48, generator=torch.Generator().manual_seed(0)).double())

    def forward(self, sample, timestep):
        return sample.flatten(1) @ self.weight.T + timestep * torch.arange(5)


def test_classifier_gradient():
    _, x_t, _ = random_inputs()
    classifier, labels = LinearClassifier(), torch.tensor([4, 2])
    with torch.no_grad():
        gradient = classifier_gradient(classifier, x_t, torch.tensor(3), labels, scale=2.0)
        probabilities = classifier(x_t, 3).softmax(dim=1)
        expected = 2.0 * (classifier.weight[labels] - probabilities @ classifier.weight)
    assert_close(gradient, expected.reshape(x_t.shape))
    assert not gradient.requires_grad and classifier.weight.grad is None
    assert classifier_gradient(classifier, x_t.half(), torch.tensor(3), labels).dtype == torch.float32
