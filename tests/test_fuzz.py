"""Random values for the public functions and every command give a right answer or a one-sentence error.

A call may end in `ValueError` or, for the command line, in an exit code with a message. Any other exception is a bug, and so is
a result that is not finite, of another shape or dtype, or a file that is left behind by a call that failed.
"""

import contextlib
import io
import json
import math
import shutil
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, MLPDenoiser, cli
from ddpm_hf.schedulers.noise_schedules import BETA_SCHEDULES
from ddpm_hf.schedulers.timestep_spacings import OWN_SPACINGS, STOCK_SPACINGS
from ddpm_hf.schedulers.variances import VARIANCES

pytestmark = pytest.mark.slow
FUZZED = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
STRANGE = [math.nan, math.inf, -math.inf, -1, 0, 1, 2, 0.5, -0.0, 1e-30, 1e30, 10**6]
numbers = st.sampled_from(STRANGE) | st.floats(-2, 3) | st.integers(-3, 1200)


def mostly(good, bad):
    """Values that are right three times out of four, so that several together get past the first check."""
    return st.integers(0, 3).flatmap(lambda i: bad if i == 0 else good)


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
        assert len(str(error)) > 20


def check_like(result, x, same_dtype=True):
    assert result.shape == x.shape and result.is_floating_point() and result.isfinite().all()
    assert result.dtype == x.dtype or not same_dtype


# The pipeline ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline():
    from conftest import TINY

    from ddpm_hf import DDPMUNet2DModel

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


# The verbs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory, pipeline):
    """Models that work, of images and of points, and some that are broken."""
    folder = tmp_path_factory.mktemp("models")
    pipeline.save_pretrained(folder / "images")
    GaussianDiffusionPipeline(MLPDenoiser(in_channels=2, width=8), GaussianDiffusionScheduler()).save_pretrained(
        folder / "points"
    )
    for name, damage in {
        "list": lambda f: (f / "model_index.json").write_text("[]"),
        "truncated": lambda f: (f / "unet" / "config.json").write_text('{"in_channels": 1'),
        "latin": lambda f: (f / "scheduler" / "scheduler_config.json").write_bytes(b'{"x": "\xe9"}'),
        "weights": lambda f: next((f / "unet").glob("*.safetensors")).write_bytes(b"\0" * 40),
        "size": lambda f: edit_json(f / "unet" / "config.json", sample_size="eight"),
        "flow": lambda f: edit_json(
            f / "scheduler" / "scheduler_config.json",
            _class_name="FlowMatchEulerDiscreteScheduler",
            beta_schedule=None,
        ),
    }.items():
        shutil.copytree(folder / "images", folder / name)
        damage(folder / name)
    (folder / "empty").mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / "image.png")
    (folder / "data").mkdir()
    for i in range(6):
        Image.fromarray(np.full((8, 8), 40 * i, dtype=np.uint8)).save(folder / "data" / f"{i}.png")
    return folder


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


NAMES = mostly(
    st.sampled_from(["images", "points"]),
    st.sampled_from(["list", "truncated", "latin", "weights", "size", "flow", "empty", "nothing", ""]),
)
TEXTS = st.sampled_from(["", "nan", "inf", "-1", "0", "1e400", "²", "1,2", "a", "-", "99999999", "0x10", " ", "1.5"])
# For each verb what it is given in the right form; each of these is replaced by a strange text now and then.
VERBS = {
    "sample": {
        "--num_images": "2",
        "--steps": "2",
        "--eta": "0.5",
        "--guidance_scale": "1",
        "--seed": "1",
        "--class": "1",
    }
    | {"--batch_size": "2", "--recipe": "ddim", "--guidance_interval": "0.1,1", "--guidance_rescale": "0.5"},
    "edit": {
        "--strength": "0.5",
        "--num_images": "2",
        "--steps": "2",
        "--seed": "1",
        "--jump_length": "1",
        "--eta": "0",
    },
    "interpolate": {
        "--depth": "500",
        "--num": "3",
        "--steps": "2",
        "--seed": "1",
        "--weights": "0,1",
        "--mode": "linear",
    },
    "evaluate": {"--num_images": "2", "--steps": "2", "--batch_size": "2", "--variance_type": "fixed_large"}
    | {"--seed": "1", "--split": "train", "--metrics": "bpd"},
    "calibrate": {"--num_images": "4", "--batch_size": "4", "--seed": "1", "--split": "train", "--plan": "2"},
    "compare": {"--steps": "2", "--num_images": "4", "--seeds": "1", "--samplers": "ddim", "--features": "pixels"}
    | {"--split": "train", "--batch_size": "4"},
    "export": {},
}
INPUTS = {"edit": ["image.png"], "interpolate": ["image.png", "image.png"]}
OUTPUTS = {"calibrate": ("--output_dir", "out"), "export": ("--output_dir", "out"), "evaluate": ("--output", "out")}
OUTPUTS |= {"compare": ("--output", "out")}


@st.composite
def command_lines(draw):
    verb = draw(st.sampled_from(sorted(VERBS)))
    options = VERBS[verb]
    chosen = {name: options[name] for name in draw(st.sets(st.sampled_from(sorted(options))))} if options else {}
    for name in ("--num_images", "--steps", "--num"):  # what would take long by default
        if name in options:
            chosen.setdefault(name, options[name])
    for name in sorted(chosen):
        chosen[name] = draw(mostly(mostly(st.just(chosen[name]), st.just(chosen[name])), TEXTS))
    return verb, draw(NAMES), chosen, draw(mostly(st.just("data"), st.sampled_from(["empty", "", "nothing"])))


@settings(FUZZED, max_examples=150)
@given(line=command_lines())
def test_verbs(models, tmp_path_factory, line):
    verb, model, options, data = line
    folder = tmp_path_factory.mktemp("fuzz")
    option, output = OUTPUTS.get(verb, ("--output", "out.png"))
    arguments = [verb, str(models / model) if model else "", *(str(models / name) for name in INPUTS.get(verb, []))]
    arguments += [option, str(folder / output)]
    if verb in ("evaluate", "calibrate", "compare"):
        arguments += ["--dataset", str(models / data) if data else ""]
    if verb != "export":
        arguments += ["--device", "cpu"]
    code, said = run_in_process([*arguments, *(text for pair in options.items() for text in pair)])
    written = [path for path in folder.rglob("*") if path.is_file()]
    if code == 0:
        assert written, (line, said)
        for path in written:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
    else:
        assert said.strip(), line
        assert not written, (line, said, written)


def run_in_process(arguments):
    """The exit code of the command line, and what it said; any exception but the end of the program goes through."""
    before, said = sys.argv, io.StringIO()
    sys.argv = ["ddpm-hf", *arguments]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            cli.main()
    except SystemExit as end:
        if isinstance(end.code, str):
            return 1, end.code
        return end.code or 0, said.getvalue()
    finally:
        sys.argv = before
    return 0, said.getvalue()


def refuse_constant(name):
    raise AssertionError(f"{name} in a result")
