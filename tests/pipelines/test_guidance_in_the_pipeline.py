"""Guidance in the pipeline: the exact result on a mixture of two Gaussians, then calls, files and errors."""

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DiffusionPipeline, DPMSolverMultistepScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from scipy.integrate import solve_ivp
from scipy.stats import kstest, norm
from torch.testing import assert_close

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.models.noisy_image_classifier import NoisyImageClassifier

ROUNDING = {"rtol": 0, "atol": 1e-4}  # the same weights elsewhere in memory may round otherwise


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(pipeline, *args, **kwargs):
    kwargs = {"num_inference_steps": 4, "generator": seeded(), "output_type": "latent"} | kwargs
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(*args, **kwargs).images


# The truth: x0 is one number, N(-0.6, 0.2^2) with probability 0.3 (class 0) or N(0.5, 0.35^2) (class 1) ----------------

WEIGHTS, MEANS, STDS = (torch.tensor(x, dtype=torch.float64) for x in ((0.3, 0.7), (-0.6, 0.5), (0.2, 0.35)))
NULL = 2


def class_terms(x_t, alpha_bar):
    """For each class, of x_t in (...): log p(class, x_t) and a constant, and E[eps | x_t, class], both (..., 2)."""
    variance = alpha_bar * STDS**2 + 1 - alpha_bar
    deviation = x_t[..., None].double() - alpha_bar**0.5 * MEANS
    log_joint = WEIGHTS.log() - variance.log() / 2 - deviation**2 / (2 * variance)
    return log_joint, (1 - alpha_bar) ** 0.5 * deviation / variance


def exact_epsilon(x_t, alpha_bar, labels):
    """E[eps | x_t, label], or E[eps | x_t] for the null label."""
    log_joint, epsilon = class_terms(x_t, alpha_bar)
    null = (log_joint.softmax(-1) * epsilon).sum(-1, keepdim=True)
    return torch.cat([epsilon, null], dim=-1).gather(-1, labels[..., None])[..., 0]


class ExactNetwork(ModelMixin, ConfigMixin):
    """E[eps | x_t, class] itself, or E[eps | x_t] without `num_classes`; it has no weights to say dtype and device."""

    dtype, device = torch.float32, torch.device("cpu")

    @register_to_config
    def __init__(self, scheduler, num_classes=None, in_channels=1, sample_size=1):
        super().__init__()
        self.scheduler = scheduler

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        labels = torch.full((len(sample),), NULL) if class_labels is None else class_labels
        labels = labels.reshape(-1, 1, 1, 1)
        return (exact_epsilon(sample, self.scheduler.alpha_bar(timestep), labels).to(sample.dtype),)


class ExactClassifier(ModelMixin, ConfigMixin):
    """log p(class | x_t) itself, and a constant of the classes."""

    dtype, device = torch.float32, torch.device("cpu")

    @register_to_config
    def __init__(self, scheduler, num_classes=2, in_channels=1, sample_size=1):
        super().__init__()
        self.scheduler = scheduler

    def forward(self, sample, timestep):
        return class_terms(sample.flatten(), self.scheduler.alpha_bar(timestep))[0]


def exact_pipeline(num_classes=None, steps=1000, **kwargs):
    """A model with its own classes, or with a classifier."""
    scheduler = GaussianDiffusionScheduler(steps, clip_sample=False, **kwargs)
    classifier = None if num_classes else ExactClassifier(scheduler)
    return GaussianDiffusionPipeline(ExactNetwork(scheduler, num_classes), scheduler, classifier)


def assert_is_class(samples, label):
    """Kolmogorov-Smirnov against the class's own distribution; mean and standard deviation within their errors."""
    samples, n = samples.flatten().double().numpy(), samples.numel()
    mean, std = MEANS[label].item(), STDS[label].item()
    assert kstest(samples, norm(mean, std).cdf).pvalue > 0.01
    assert abs(samples.mean() - mean) < 3 * std / np.sqrt(n)
    assert abs(samples.std() - std) < 3 * std / np.sqrt(2 * n)


@pytest.mark.parametrize(
    "form, eta, label", [("score", 1.0, 0), ("score", 0.0, 1), ("mean", 1.0, 0), ("mean", 1.0, 1)]
)
def test_classifier_guidance_gives_the_conditional_distribution(form, eta, label):
    pipeline = exact_pipeline()
    guidance = {"classifier_guidance_scale": 1.0, "classifier_guidance_form": form, "class_labels": label}
    assert_is_class(sample(pipeline, 4000, eta=eta, num_inference_steps=500, **guidance), label)


@pytest.mark.parametrize("label", [0, 1])
def test_classifier_free_guidance_at_scale_1_is_the_conditional_distribution(label):
    pipeline = exact_pipeline(num_classes=2)
    assert_is_class(sample(pipeline, 4000, num_inference_steps=500, class_labels=label), label)


def test_without_guidance_it_is_the_mixture():
    samples = sample(exact_pipeline(), 4000, num_inference_steps=500).flatten().double().numpy()
    weights, components = WEIGHTS.numpy(), norm(MEANS.numpy(), STDS.numpy())
    assert kstest(samples, lambda x: components.cdf(x[:, None]) @ weights).pvalue > 0.01


@pytest.mark.parametrize("scale, label", [(-0.5, 0), (2.0, 1), (5.0, 0)])
def test_both_guidances_are_one_with_exact_networks(scale, label):
    """eps_null - sigma * scale * grad log p(y | x_t) is eps_null + scale * (eps_class - eps_null)."""
    free, by_classifier = exact_pipeline(num_classes=2), exact_pipeline()
    for eta in (0.0, 1.0):
        options = {"batch_size": 50, "class_labels": label, "eta": eta, "num_inference_steps": 20}
        images = sample(free, guidance_scale=scale, **options)
        assert_close(sample(by_classifier, classifier_guidance_scale=scale, **options), images, rtol=1e-4, atol=1e-4)


def flow(x_T, sigma_T, epsilon):
    """x0 by the probability flow: d(x_t / sqrt(abar)) / d sigma = eps, sigma = sqrt((1 - abar) / abar), from sigma_T to 0."""

    def field(sigma, scaled):
        alpha_bar = 1 / (1 + sigma**2)
        return epsilon(scaled * np.sqrt(alpha_bar), alpha_bar)

    start = x_T * np.sqrt(1 + sigma_T**2)
    return solve_ivp(field, (sigma_T, 0), start, method="DOP853", rtol=1e-9, atol=1e-9).y[:, -1]


@pytest.mark.parametrize(
    "label, scale, by_classifier", [(0, 2.0, False), (1, 4.0, False), (1, 4.0, True), (0, 0.0, False)]
)
def test_the_deterministic_path_is_the_flow_of_the_guided_field(label, scale, by_classifier):
    """First order: half the error for half the step; second order: a quarter."""
    steps, x_T = 1025, np.linspace(-2, 2, 21)
    labels = torch.full((len(x_T),), label)

    def guided(x_t, alpha_bar):
        x_t = torch.from_numpy(x_t)
        null, of_class = (exact_epsilon(x_t, alpha_bar, which) for which in (torch.full_like(labels, NULL), labels))
        return (null + scale * (of_class - null)).numpy()

    last = GaussianDiffusionScheduler(steps).alpha_bar(steps - 1).item()
    truth = flow(x_T, np.sqrt((1 - last) / last), guided)
    errors = {1: [], 2: []}
    for order in (1, 2):
        pipeline = exact_pipeline(None if by_classifier else 2, steps, solver_order=order)
        for stride in (16, 8, 4):
            images = sample(
                pipeline,
                latents=torch.from_numpy(x_T).reshape(-1, 1, 1, 1),
                class_labels=labels,
                eta=0.0,
                timesteps=list(range(steps - 1, -1, -stride)),
                num_inference_steps=None,
                **{"classifier_guidance_scale" if by_classifier else "guidance_scale": scale},
            )
            errors[order].append(np.abs(images.flatten().numpy() - truth).max())
    assert all(1.8 < coarse / fine < 2.2 for coarse, fine in zip(errors[1][:-1], errors[1][1:], strict=True))
    assert 3.5 < errors[2][1] / errors[2][2] < 5 and errors[2][2] < 0.006


# Calls of the network -------------------------------------------------------------------------------------------------


def recorded_calls(network):
    """A list that grows by (sample, timestep, labels) with every call of the network."""
    calls = []
    network.register_forward_pre_hook(lambda module, args: calls.append(args))
    return calls


def tiny_classifier(**kwargs):
    torch.manual_seed(0)
    options = {"sample_size": 8, "num_classes": 3, "block_out_channels": (8,), "down_block_types": ("DownBlock2D",)}
    return NoisyImageClassifier(**(options | {"attention_head_dim": 8, "norm_num_groups": 4} | kwargs)).eval()


@pytest.fixture
def conditional(tiny_unet):
    return GaussianDiffusionPipeline(tiny_unet(num_classes=3), GaussianDiffusionScheduler(clip_sample=False))


@pytest.fixture
def steered(stock_unet):
    return GaussianDiffusionPipeline(stock_unet, GaussianDiffusionScheduler(clip_sample=False), tiny_classifier())


def test_guidance_costs_one_call_of_twice_the_batch(conditional):
    calls = recorded_calls(conditional.unet)
    sample(conditional, class_labels=[0, 2], guidance_scale=3.0)
    assert [(len(x), labels.tolist()) for x, _, labels in calls] == [(4, [0, 2, 3, 3])] * 4
    calls.clear()
    sample(conditional, class_labels=[0, 2], guidance_scale=1.0)
    assert [(len(x), labels.tolist()) for x, _, labels in calls] == [(2, [0, 2])] * 4


def test_outside_of_the_interval_there_is_the_class_alone(conditional):
    calls, timesteps = recorded_calls(conditional.unet), [900, 600, 300, 0]
    abar = conditional.scheduler.alpha_bar(timesteps)
    sigmas = ((1 - abar) / abar).sqrt().tolist()  # about 49, 5.9, 1.2, 0.01
    options = {"timesteps": timesteps, "num_inference_steps": None, "class_labels": 1, "guidance_scale": 3.0}
    sample(conditional, guidance_interval=((sigmas[3] + sigmas[2]) / 2, (sigmas[1] + sigmas[0]) / 2), **options)
    assert [len(x) for x, _, _ in calls] == [1, 2, 2, 1]
    assert [labels.tolist() for _, _, labels in calls] == [[1], [1, 3], [1, 3], [1]]
    everywhere = sample(conditional, guidance_interval=(0, float("inf")), **options)
    assert_close(everywhere, sample(conditional, **options))
    nowhere = sample(conditional, guidance_interval=(1000, 2000), **options)
    assert_close(nowhere, sample(conditional, **(options | {"guidance_scale": 1.0})))


def test_the_interval_is_for_the_classifier_too(steered):
    calls = recorded_calls(steered.classifier)
    options = {"class_labels": 1, "timesteps": [900, 600, 300, 0], "num_inference_steps": None}
    options |= {"classifier_guidance_scale": 2.0}
    sample(steered, guidance_interval=(0.5, 10), **options)
    assert [int(t) for _, t in calls] == [600, 300]


def test_no_classifier_guidance_no_call_of_the_classifier(steered):
    calls = recorded_calls(steered.classifier)
    without = GaussianDiffusionPipeline(steered.unet, steered.scheduler)
    assert_close(sample(steered, 2), sample(without, 2), rtol=0, atol=0)
    assert not calls


def model_outputs(pipeline, x_t, **kwargs):
    """The network's output as the scheduler gets it, at t = 500."""
    outputs = []

    def callback(pipe, step, timestep, tensors):
        outputs.append(tensors["model_output"])

    options = {"timesteps": [500], "num_inference_steps": None, "callback_on_step_end": callback}
    sample(pipeline, latents=x_t, callback_on_step_end_tensor_inputs=("model_output",), **options, **kwargs)
    return outputs[0]


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("variance_head", [None, "learned_range", "npr", "sn", "ocm"])
def test_rescaled_mean_and_the_head_of_the_class(tiny_unet, variance_head, prediction_type):
    scheduler = GaussianDiffusionScheduler(
        variance_type=variance_head or "fixed_small", prediction_type=prediction_type
    )
    unet = tiny_unet(num_classes=3, variance_head=variance_head)
    pipeline, x_t = GaussianDiffusionPipeline(unet, scheduler), torch.randn(2, 1, 8, 8, generator=seeded())
    with torch.no_grad():
        of_class, null = unet(x_t, 500, torch.tensor([1, 1])).sample, unet(x_t, 500).sample
    guided = null[:, :1] + 4.0 * (of_class[:, :1] - null[:, :1])
    stds = of_class[:, :1].std((1, 2, 3), keepdim=True), guided.std((1, 2, 3), keepdim=True)
    expected = 0.7 * guided * stds[0] / stds[1] + 0.3 * guided
    output = model_outputs(pipeline, x_t, class_labels=1, guidance_scale=4.0, guidance_rescale=0.7)
    assert_close(output, torch.cat([expected, of_class[:, 1:]], dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["score", "mean"])
def test_the_classifier_gets_x_t_and_the_schedulers_timestep(steered, form):
    x_t, calls = torch.randn(2, 1, 8, 8, generator=seeded()), recorded_calls(steered.classifier)
    options = {"latents": x_t, "timesteps": [700, 200], "num_inference_steps": None, "class_labels": [0, 2]}
    steps, kept = [], ("latents", "pred_original_sample")
    options |= {"callback_on_step_end": lambda pipe, i, t, tensors: steps.append(tensors)}
    sample(
        steered,
        classifier_guidance_scale=5.0,
        classifier_guidance_form=form,
        callback_on_step_end_tensor_inputs=kept,
        **options,
    )
    assert [int(t) for _, t in calls] == [700, 200] and calls[0][0].dtype == torch.float32
    assert_close(calls[0][0].detach(), x_t)

    x = x_t.clone().requires_grad_()
    steered.classifier(x, 700).log_softmax(1)[[0, 1], [0, 2]].sum().backward()
    with torch.no_grad():
        kernel = steered.scheduler.p_mean_variance(steered.unet(x_t, 700).sample, 700, x_t)
    if form == "score":
        guided = steered.scheduler.condition_score(kernel, 5.0 * x.grad, 700, x_t)
    else:
        guided = steered.scheduler.condition_mean(kernel, 5.0 * x.grad)
    noise = torch.randn(x_t.shape, generator=seeded())
    assert_close(steps[0]["latents"], guided.mean + kernel.variance.sqrt() * noise, rtol=1e-4, atol=1e-5)
    assert_close(steps[0]["pred_original_sample"], guided.pred_original_sample, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["free", "classifier", "both"])
def test_the_same_seeds_give_the_same_images_however_split(tiny_unet, kind):
    unet = tiny_unet(num_classes=3, variance_head="learned_range")
    scheduler = GaussianDiffusionScheduler(variance_type="learned_range")
    pipeline = GaussianDiffusionPipeline(unet, scheduler, tiny_classifier())
    options = {"guidance_interval": (0.5, 20)}
    if kind != "classifier":
        options |= {"guidance_scale": 3.0, "guidance_rescale": 0.5}
    if kind != "free":
        options |= {"classifier_guidance_scale": 2.0}
    labels = [0, 1, 2, 1, 0]
    together = sample(pipeline, class_labels=labels, generator=[seeded(i) for i in range(5)], **options)
    parts = []
    for first, last in ((0, 2), (2, 3), (3, 5)):
        generators = [seeded(i) for i in range(first, last)]
        parts.append(sample(pipeline, class_labels=labels[first:last], generator=generators, **options))
    assert_close(torch.cat(parts), together, **ROUNDING)


def test_both_guidances_of_one_model(conditional):
    """The network gets its labels, the classifier the same: their shifts add up."""
    both = GaussianDiffusionPipeline(conditional.unet, conditional.scheduler, tiny_classifier())
    options = {"latents": torch.randn(1, 1, 8, 8, generator=seeded()), "timesteps": [500], "num_inference_steps": None}
    options |= {"class_labels": 2, "eta": 0.0}
    plain = sample(both, **options)
    free, by_classifier = ({"guidance_scale": 3.0}, {"classifier_guidance_scale": 3.0})
    shifts = [sample(both, **options, **guidance) - plain for guidance in (free, by_classifier, free | by_classifier)]
    assert min(shift.abs().max() for shift in shifts) > 1e-3
    assert_close(shifts[2], shifts[0] + shifts[1], rtol=1e-4, atol=1e-4)


# Files ----------------------------------------------------------------------------------------------------------------


def test_the_classifier_is_saved_and_loaded(tmp_path, steered, diffusers_log):
    options = {"class_labels": [1, 2], "classifier_guidance_scale": 3.0}
    images = sample(steered, **options)
    steered.save_pretrained(tmp_path / "ours")
    loaded = GaussianDiffusionPipeline.from_pretrained(tmp_path / "ours")
    assert type(loaded.classifier) is NoisyImageClassifier and not diffusers_log.text
    assert_close(sample(loaded, **options), images, **ROUNDING)
    loaded.save_pretrained(tmp_path / "again")
    again = GaussianDiffusionPipeline.from_pretrained(tmp_path / "again")
    assert_close(sample(again, **options), images, **ROUNDING)
    assert GaussianDiffusionPipeline.from_pretrained(tmp_path / "ours", classifier=None).classifier is None


def test_stock_pipelines_load_the_rest_and_say_so(tmp_path, steered, diffusers_log):
    steered.save_pretrained(tmp_path)
    stock = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(stock) is DDPMPipeline
    assert "'classifier'" in diffusers_log.text and "will be ignored" in diffusers_log.text
    stock.set_progress_bar_config(disable=True)
    assert stock(generator=seeded(), num_inference_steps=2, output_type="np").images.shape == (1, 8, 8, 1)


def test_without_a_classifier_stock_pipelines_have_nothing_to_say(tmp_path, steered, diffusers_log):
    GaussianDiffusionPipeline(steered.unet, steered.scheduler).save_pretrained(tmp_path)
    assert type(DiffusionPipeline.from_pretrained(tmp_path)) is DDPMPipeline
    assert not diffusers_log.text and "classifier" not in (tmp_path / "model_index.json").read_text(encoding="utf-8")
    assert GaussianDiffusionPipeline.from_pretrained(tmp_path).classifier is None


def test_components_of_any_class_are_shared(conditional):
    pipeline = GaussianDiffusionPipeline(conditional.unet, conditional.scheduler, tiny_classifier())
    shared = GaussianDiffusionPipeline.from_pipe(pipeline)
    assert all(shared.components[name] is pipeline.components[name] for name in ("unet", "scheduler", "classifier"))
    stock = DDPMPipeline(conditional.unet, conditional.scheduler)
    assert GaussianDiffusionPipeline.from_pipe(stock, classifier=pipeline.classifier).classifier is pipeline.classifier


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"guidance_interval": (2.0, 1.0)}, r"guidance_interval=\(2.0, 1.0\) must be \(low, high\), 0 <= low < high"),
        ({"guidance_interval": (-1.0, 1.0)}, "0 <= low < high"),
        ({"guidance_interval": (1.0,)}, "0 <= low < high"),
        ({"guidance_rescale": 1.5}, r"guidance_rescale=1.5 must be in \[0, 1\]"),
        ({"classifier_guidance_form": "noise"}, "classifier_guidance_form='noise' is not one of 'score', 'mean'"),
        ({"classifier_guidance_scale": 1.0}, "classifier_guidance_scale=1.0 needs a pipeline with a classifier"),
        ({"class_labels": [[0, 1]]}, r"class_labels=\[\[0, 1\]\] must be whole numbers"),
    ],
)
def test_bad_guidance(conditional, arguments, message):
    with pytest.raises(ValueError, match=message):
        sample(conditional, **({"class_labels": 1} | arguments))


def test_bad_guidance_by_a_classifier(steered, stock_unet):
    scale = {"classifier_guidance_scale": 2.0}
    with pytest.raises(ValueError, match="classifier_guidance_scale=2.0 needs class_labels"):
        sample(steered, **scale)
    for labels in (3, [-1], [0.5]):
        with pytest.raises(ValueError, match=r"must be whole numbers in 0 \.\. 2\."):
            sample(steered, class_labels=labels, **scale)
    with pytest.raises(ValueError, match="agree on one whole number of images.*class_labels: 3, batch_size: 2"):
        sample(steered, 2, class_labels=[0, 1, 2], **scale)
    with pytest.raises(ValueError, match="need a class-conditional model.*or steer it by a classifier"):
        sample(steered, class_labels=1)
    with pytest.raises(ValueError, match="guidance_form='mean' shifts by the variance.*at eta=0"):
        sample(steered, class_labels=1, eta=0.0, classifier_guidance_form="mean", **scale)
    steered.scheduler = DPMSolverMultistepScheduler.from_config(steered.scheduler.config)
    with pytest.raises(ValueError, match="needs a GaussianDiffusionScheduler; DPMSolverMultistepScheduler does not"):
        sample(steered, class_labels=1, **scale)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sample_size": 16}, r"sample_size=\(16, 16\), the model \(8, 8\): train a classifier for this model"),
        ({"in_channels": 3}, "in_channels=3, the model 1"),
        ({"num_classes": 4}, "num_classes=4, the model 3"),
    ],
)
def test_a_classifier_of_other_images_or_classes(conditional, options, message):
    with pytest.raises(ValueError, match=f"The classifier has {message}"):
        GaussianDiffusionPipeline(conditional.unet, conditional.scheduler, tiny_classifier(**options))


def test_guidance_with_stock_schedulers(conditional):
    """Without a classifier they are guided as ours."""
    options = {"class_labels": 1, "guidance_scale": 3.0, "guidance_interval": (0.5, 10), "guidance_rescale": 0.5}
    conditional.scheduler = DPMSolverMultistepScheduler.from_config(conditional.scheduler.config)
    calls = recorded_calls(conditional.unet)
    assert sample(conditional, **options).isfinite().all()
    assert {len(x) for x, _, _ in calls} == {1, 2}
