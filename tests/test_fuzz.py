"""Random values for the public functions give a right answer or a one-sentence error.

A call may end in a `ValueError` of our own. Any other exception is a bug, and so is a result that is not finite, or of
another shape or dtype.
"""

import contextlib
import math

import numpy as np
import pytest
import torch
from fuzzing import FUZZED, check_is_ours, mostly, numbers
from hypothesis import given
from hypothesis import strategies as st
from tiny_networks import TINY

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionPipeline, GaussianDiffusionScheduler
from ddpm_hf.schedulers.choices import OWN_SPACINGS, STOCK_SPACINGS
from ddpm_hf.schedulers.noise_schedules import BETA_SCHEDULES
from ddpm_hf.schedulers.variances import VARIANCES

pytestmark = pytest.mark.slow


# The scheduler --------------------------------------------------------------------------------------------------------


@st.composite
def scheduler_options(draw):
    choices = {
        "num_train_timesteps": mostly(st.sampled_from([1, 2, 10, 1000]), st.sampled_from([-1, 0, 2.5, math.nan])),
        "beta_start": mostly(st.just(1e-4), numbers),
        "beta_end": mostly(st.sampled_from([0.02, 0.5]), numbers),
        "beta_schedule": mostly(st.sampled_from(BETA_SCHEDULES), st.sampled_from(["", "cosine", None])),
        "variance_type": mostly(st.sampled_from(sorted(VARIANCES)), st.sampled_from(["", "large", None])),
        "prediction_type": mostly(
            st.sampled_from(["epsilon", "sample", "v_prediction"]), st.sampled_from(["", "eps", None])
        ),
        "timestep_spacing": mostly(st.sampled_from(STOCK_SPACINGS + OWN_SPACINGS), st.just("even")),
        "clip_sample": st.booleans(),
        "clip_sample_range": mostly(st.just(1.0), numbers),
        "thresholding": st.booleans(),
        "dynamic_thresholding_ratio": mostly(st.just(0.995), numbers),
        "sample_max_value": mostly(st.just(1.5), numbers),
        "steps_offset": mostly(st.sampled_from([0, 1]), numbers),
        "rescale_betas_zero_snr": st.booleans(),
        "eta": mostly(st.floats(0, 1), numbers),
        "solver_order": mostly(st.sampled_from([1, 2]), numbers),
        "corrector": st.booleans(),
        "clip_variance_pixels": mostly(st.sampled_from([None, 1.0]), numbers),
        "mean_square_epsilon": mostly(st.just("right"), st.sampled_from([None, [0.5], [math.nan] * 10])),
    }
    chosen = {name: draw(choices[name]) for name in draw(st.sets(st.sampled_from(sorted(choices)), max_size=6))}
    if chosen.get("mean_square_epsilon") == "right":
        steps = chosen.get("num_train_timesteps", 1000)
        chosen["mean_square_epsilon"] = [0.5] * (steps if isinstance(steps, int) and steps > 0 else 1)
    return chosen


def tensors():
    shapes = mostly(
        st.just((2, 3, 4, 4)), st.sampled_from([(2, 6, 4, 4), (1, 3, 4, 4), (2, 3, 1, 4), (2, 3), (0, 3, 4, 4)])
    )
    dtypes = mostly(
        st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
        st.sampled_from([torch.uint8, torch.int64, torch.complex64, torch.bool]),
    )
    return st.tuples(shapes, dtypes).map(lambda x: (torch.randn(x[0], generator=seeded()) * 3).to(x[1]))


def seeded():
    return torch.Generator().manual_seed(0)


timesteps = mostly(
    st.sampled_from([0, 1, 9, 999, torch.tensor(5), torch.tensor([3, 7])]),
    st.sampled_from([-1, -5, 1000, 2.5, math.nan, torch.tensor(2.5), torch.tensor([1, 2, 3]), torch.tensor([[1]])]),
)


@FUZZED
@given(options=scheduler_options(), count=mostly(st.sampled_from([1, 2, 5, 10, None]), numbers), data=st.data())
def test_scheduler(options, count, data):
    with one_sentence():
        scheduler = GaussianDiffusionScheduler(**options)
        scheduler.set_timesteps(count)
        visited = scheduler.timesteps
        assert (visited.diff() < 0).all() and visited[-1] >= 0 and visited[0] < len(scheduler)
        x, output, t = data.draw(tensors()), data.draw(tensors()), data.draw(timesteps)
        result = scheduler.step(output, t, x, eta=data.draw(mostly(st.none(), numbers)), generator=seeded())
        check_like(result.prev_sample, x)
        check_like(result.pred_original_sample, x)


@FUZZED
@given(
    x=tensors(), noise=tensors(), t=timesteps, prediction_type=st.sampled_from(["epsilon", "sample", "v_prediction"])
)
def test_forward_process_and_kernel(x, noise, t, prediction_type):
    scheduler = GaussianDiffusionScheduler(prediction_type=prediction_type)
    for call in (
        lambda: scheduler.add_noise(x, noise, t),
        lambda: scheduler.get_velocity(x, noise, t),
        lambda: scheduler.get_epsilon(noise, t, x),
        lambda: scheduler.q_posterior(x, noise, t).mean,
        lambda: scheduler.p_mean_variance(noise, t, x).mean,
    ):
        with one_sentence():
            check_like(call(), x, same_dtype=False)


@contextlib.contextmanager
def one_sentence():
    try:
        yield
    except ValueError as error:
        check_is_ours(error)


def check_like(result, x, same_dtype=True):
    assert result.shape == x.shape and result.is_floating_point() and result.isfinite().all()
    assert result.dtype == x.dtype or not same_dtype


# The pipeline ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    made = GaussianDiffusionPipeline(DDPMUNet2DModel(**TINY, num_classes=3), GaussianDiffusionScheduler())
    made.set_progress_bar_config(disable=True)
    return made


@st.composite
def call_arguments(draw):
    choices = {
        "batch_size": mostly(st.sampled_from([1, 2]), st.sampled_from([0, -1, 1.5, math.nan])),
        "class_labels": mostly(
            st.sampled_from([0, [0, 1], np.array([2, 0]), torch.tensor([1])]),
            st.sampled_from([3, 7, -1, [0.5], [], "1", torch.tensor([True]), [[0]]]),
        ),
        "guidance_scale": mostly(st.sampled_from([1.0, 2.0]), numbers),
        "guidance_interval": mostly(st.sampled_from([None, (0.1, 1.0)]), st.tuples(numbers, numbers)),
        "guidance_rescale": mostly(st.just(0.7), numbers),
        "classifier_guidance_scale": mostly(st.just(0.0), numbers),
        "num_inference_steps": mostly(st.sampled_from([1, 2, 3]), st.sampled_from([0, -1, 2000, 1.5, math.nan])),
        "timesteps": mostly(st.none(), st.sampled_from([[], [5, 1], [1, 5], [5.5, 1], [2000]])),
        "eta": mostly(st.floats(0, 1), numbers),
        "latents": mostly(st.none(), tensors()),
        "output_type": mostly(st.sampled_from(["pil", "np", "pt", "latent"]), st.sampled_from(["", "png", None])),
    }
    names = draw(st.sets(st.sampled_from(sorted(choices)), max_size=5))
    chosen = {name: draw(choices[name]) for name in names}
    if chosen.get("timesteps") is None:
        chosen.setdefault("num_inference_steps", 2)
    return chosen


@FUZZED
@given(arguments=call_arguments())
def test_pipeline(pipeline, arguments):
    with one_sentence():
        images = pipeline(generator=seeded(), **arguments).images
        for image in images:
            values = torch.as_tensor(np.array(image)).double()
            assert values.isfinite().all()
            assert arguments.get("output_type") == "latent" or (values.min() >= 0 and values.max() <= 255)
