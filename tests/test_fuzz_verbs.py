"""Every command line ends well or with one sentence: random values for the options of every verb.

A command ends in an exit code and, where that is not 0, in a sentence of ours. Any other exception is a bug, and so is a number
in a result that is not finite, or a file that is left behind by a command that failed.
"""

import contextlib
import errno
import io
import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest
from fuzzing import EXAMPLES, FUZZED, check_is_ours, mostly
from hypothesis import given, settings
from hypothesis import strategies as st
from kill_training import on_file_operations
from PIL import Image
from tiny_networks import TINY

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionPipeline, GaussianDiffusionScheduler, MLPDenoiser, cli
from ddpm_hf.data import DataArguments
from ddpm_hf.evaluation.feature_network import train_feature_network
from ddpm_hf.hub.model_folder import load_pipeline

pytestmark = pytest.mark.slow
FUZZED = settings(FUZZED, max_examples=int(EXAMPLES or 400))

# Fitting solvers is another path through `calibrate`, with options of its own.
SOLVER = "calibrate --solver 2,3"
MODELS = ["images", "classes", "points", "power", "short", "short_classes", "upscaler"]
# What is measured at every timestep needs few of them.
RIGHT_MODELS = {
    "calibrate": ["short"],
    SOLVER: ["short", "short_classes"],
    "compare": ["short"],
    "upscale": ["upscaler"],
    "ema": ["power"],
    "train": ["images", "classes"],
}
BROKEN = ["list", "truncated", "latin", "weights", "size", "flow", "empty", "nothing", "", "image.png"]
DATA = {"images": ["data", "classes_data"], "classes": ["classes_data"], "short": ["data"]}
DATA |= {name: ["classes_data"] for name in ("short_classes", "upscaler")}
DATA |= {name: ["points.csv", "two_moons"] for name in ("points", "power")}
BAD_DATA = ["empty", "", "nothing", "truncated_data", "deep_data", "latin.csv", "words.csv", "image.png", "text"]
TEXTS = ["", "nan", "inf", "-1", "0", "1e400", "²", "1,2", "a", "-", "99999999", "0x10", " ", "1.5", "1e-320", "None"]

# For each verb what it is given in the right form; each of these is replaced by a strange text now and then. What stands
# first is always given: it would take long by default.
SAMPLING = {"--steps": "2", "--eta": "0.5", "--seed": "1"}
LABELLED = {"--class": "1", "--guidance_scale": "2"}
MEASURED = {"--split": "train", "--batch_size": "2"}
TRAINED = {
    **{"--max_train_steps": "1", "--batch_size": "2", "--split": "train", "--seed": "1", "--learning_rate": "1e-3"},
    **{"--lr_warmup_steps": "1", "--lr_scheduler": "cosine", "--adam_beta2": "0.99", "--adam_epsilon": "1e-8"},
    **{"--max_grad_norm": "1", "--ema_decay": "0.9", "--ema_power": "0.75", "--resolution": "8", "--log_every": "1"},
    **{"--checkpoint_every": "1", "--checkpoints_limit": "1", "--num_eval_images": "4", "--random_flip": "True"},
    **{"--dataloader_workers": "0", "--gradient_accumulation_steps": "1", "--timestep_sampling": "low_discrepancy"},
    **{"--in_memory_limit_gb": "1", "--center_crop": "True"},
}
VERBS = {
    "sample": SAMPLING
    | LABELLED
    | {"--num_images": "2", "--batch_size": "2", "--recipe": "ddim", "--guidance_interval": "0.1,1"}
    | {"--guidance_rescale": "0.5", "--classifier_guidance_scale": "0", "--trajectory": "way.png"},
    "edit": SAMPLING | LABELLED | {"--num_images": "2", "--strength": "0.5"},
    "upscale": SAMPLING
    | LABELLED
    | {"--num_images": "2", "--recipe": "ddim", "--augmentation_level": "0.2", "--tile_overlap": "0.5"},
    "interpolate": SAMPLING | LABELLED | {"--num": "3", "--depth": "500", "--weights": "0,1", "--mode": "linear"},
    "evaluate": MEASURED
    | {"--seed": "1", "--num_images": "2", "--steps": "2", "--variance_type": "fixed_large", "--metrics": "bpd"}
    | {"--train_split": "train"},
    "calibrate": MEASURED | {"--seed": "1", "--num_images": "6", "--plan": "2", "--plan_cost": "local_error"},
    SOLVER: MEASURED
    | {"--solver": "2,3", "--num_images": "16", "--guidance_scale": "1.5", "--features": "features", "--seed": "1"},
    "compare": MEASURED
    | {"--num_images": "4", "--steps": "2", "--seeds": "1", "--samplers": "ddim", "--features": "features"}
    | {"--bound_images": "2"},
    "export": {"--stock": None},
    "push": {"--dry_run": None, "--license": "mit", "--revision": "main", "--evaluation": "data"},
    "ema": {"--std": "0.1", "--step": "2"},
    "demo": {"--space": "space", "--port": "7860"},
    "show schedules": {},
    "show forward": {"--num_samples": "4", "--split": "train", "--timesteps": "10,500", "--seed": "1"},
    "show loss": {},
    "show samples": SAMPLING
    | {"--num_samples": "4", "--split": "train", "--recipe": "ddim", "--point_columns": "x,y"},
    "show path": SAMPLING | {"--num_samples": "4", "--frames": "2", "--recipe": "ddim"},
    "show score": {"--num_samples": "4", "--split": "train", "--timesteps": "10,500", "--seed": "1"},
    "show gamma": {},
    "show variances": {"--num_samples": "4", "--steps": "2", "--split": "train", "--seed": "1"},
    "show timesteps": {"--steps": "3"},
    "train": TRAINED
    | {"--sample_every": "1", "--num_samples": "2", "--sample_steps": "2", "--unet": "mlp", "--eval_every": "1"}
    | {
        "--eval_split": "train[:3]",
        "--eval_steps": "2",
        "--class_conditional": "True",
        "--prediction_type": "v_prediction",
    }
    | {"--beta_end": "0.1", "--beta_schedule": "sigmoid", "--num_train_timesteps": "20", "--min_snr_gamma": "5"}
    | {"--label_dropout": "0.1", "--ema": "power", "--ema_stds": "0.05,0.1", "--dry_run": "True"}
    | {"--variance_head": "learned_range", "--objective": "hybrid", "--rescale_betas_zero_snr": "True"}
    | {"--streaming": "True", "--shuffle_buffer": "4"}
    | {"--low_resolution": "4", "--max_augmentation_level": "0.5", "--condition_dropout": "0.1"},
    "train_classifier": TRAINED
    | {"--width": "8", "--layers_per_block": "1", "--dropout": "0.1", "--eval_split": "train"},
}
NEEDED = ("--num_images", "--steps", "--num", "--num_samples", "--max_train_steps", "--batch_size", "--sample_steps")
NEEDED += ("--num_eval_images", "--width", "--std", "--space", "--features", "--eval_steps", "--strength")
NEEDED += ("--sample_every", "--checkpoint_every", "--split")
OUTPUTS = dict.fromkeys(("calibrate", SOLVER), ("--output_dir", "out"))
OUTPUTS |= {"export": ("--output_dir", "out"), "evaluate": ("--output", "out")}
OUTPUTS |= {"compare": ("--output", "out"), "ema": ("--output", "out"), "push": (None, "out"), "demo": (None, "out")}
OUTPUTS |= {"train": ("--output_dir", "out"), "train_classifier": ("--output_dir", "out")}
OF_DATA = ("evaluate", "calibrate", SOLVER, "compare", "train", "train_classifier")
OF_DATA += ("show forward", "show samples", "show score", "show variances")
ON_DEVICES = ("sample", "edit", "upscale", "interpolate", "evaluate", "calibrate", SOLVER, "compare")
OF_MODELS = ("push", "export", "ema", "demo", "show", *(name.split()[0] for name in ON_DEVICES))
# Their files stay where they fail: a run goes on from them.
RUNS = ("train", "train_classifier")


@pytest.fixture(scope="module")
def given_files(tmp_path_factory):
    """Models and data that work, and some that are broken."""
    folder = tmp_path_factory.mktemp("given")
    scheduler = GaussianDiffusionScheduler()
    GaussianDiffusionPipeline(DDPMUNet2DModel(**TINY), scheduler).save_pretrained(folder / "images")
    GaussianDiffusionPipeline(DDPMUNet2DModel(**TINY, num_classes=3), scheduler).save_pretrained(folder / "classes")
    upscaler = {"in_channels": 2, "condition_channels": 1, "low_resolution": 4, "max_augmentation_level": 0.5}
    told = DDPMUNet2DModel(**TINY | upscaler, num_classes=3)
    GaussianDiffusionPipeline(told, scheduler).save_pretrained(folder / "upscaler")
    GaussianDiffusionPipeline(MLPDenoiser(in_channels=2, width=8), scheduler).save_pretrained(folder / "points")
    short = GaussianDiffusionScheduler(4, beta_start=0.3, beta_end=0.95)
    GaussianDiffusionPipeline(DDPMUNet2DModel(**TINY), short).save_pretrained(folder / "short")
    of_classes = DDPMUNet2DModel(**TINY, num_classes=3)
    GaussianDiffusionPipeline(of_classes, short).save_pretrained(folder / "short_classes")
    for name, damage in {
        "list": lambda f: write(f / "model_index.json", "[]"),
        "truncated": lambda f: write(f / "unet" / "config.json", '{"in_channels": 1'),
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
    for name in ("data", "classes_data/a", "classes_data/b", "classes_data/c", "truncated_data", "deep_data", "text"):
        (folder / name).mkdir(parents=True)
        for i in range(16):
            Image.fromarray(np.full((8, 8), 16 * i, dtype=np.uint8)).save(folder / name / f"{i}.png")
    (folder / "truncated_data" / "0.png").write_bytes((folder / "image.png").read_bytes()[:50])
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.int32)).save(folder / "deep_data" / "0.tiff")
    write(folder / "text" / "metadata.csv", "file_name,caption\n0.png,one\n")
    write(folder / "points.csv", "x,y,kind\n" + "".join(f"{i},{i * i},{i % 3}\n" for i in range(12)))
    (folder / "latin.csv").write_bytes(b"x,y\n1,\xe9\n")
    write(folder / "words.csv", "x,y\n1,2\n3,four\n")
    labelled = DataArguments(dataset=str(folder / "classes_data"), split="train")
    train_feature_network(
        folder / "features", labelled, test_split="train", epochs=1, batch_size=4, max_shift=1, device="cpu"
    )
    options = "--dataset two_moons --max_train_steps 2 --batch_size 4 --num_samples 4 --sample_steps 2"
    options += " --ema power --ema_snapshot_every 1"
    paths = ["--init_from", str(folder / "points"), "--output_dir", str(folder / "power")]
    code, said = run_in_process(["train", *paths, *options.split()])
    assert code == 0, said
    return folder


def write(path, text):
    path.write_text(text, encoding="utf-8")


def edit_json(path, **values):
    write(path, json.dumps(json.loads(path.read_text(encoding="utf-8")) | values))


@st.composite
def command_lines(draw, verbs=VERBS):
    """(verb, model, data, options): half of the lines are right throughout, in the others each is more often than not."""
    verb = draw(st.sampled_from(sorted(verbs)))
    is_right = draw(st.booleans())
    options = VERBS[verb]
    names = {name for name in options if name in NEEDED}
    # The other options of `train` often exclude each other.
    others = sorted(set(TRAINED if is_right and verb == "train" else options) - names)
    if others:
        names |= draw(st.sets(st.sampled_from(others), max_size=4))
    rarely = st.just(False) if is_right else mostly(st.just(False), mostly(st.just(False), st.just(True)))
    chosen = {
        name: draw(st.sampled_from(TEXTS)) if options[name] is not None and draw(rarely) else options[name]
        for name in sorted(names)
    }
    models = st.sampled_from(RIGHT_MODELS.get(verb, MODELS))
    model = draw(models if is_right else mostly(models, st.sampled_from(BROKEN + MODELS)))
    fitting = st.sampled_from(DATA.get("points" if "--unet" in chosen else model, ["data"]))
    return verb, model, draw(fitting if is_right else mostly(fitting, st.sampled_from(BAD_DATA))), chosen


@FUZZED
@given(line=command_lines())
def test_verbs(given_files, tmp_path_factory, line):
    verb, _, _, options = line
    folder = tmp_path_factory.mktemp("fuzz")
    code, said = run_in_process(written_out(given_files, folder, *line))
    written = [path for path in folder.rglob("*") if path.is_file()]
    if code == 0:
        assert written or verb == "push" or "--dry_run" in options, (line, said)
        for path in written:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
    elif verb not in RUNS:
        assert not written, (line, said, written)
    shutil.rmtree(folder)


def written_out(given_files, folder, verb, model, data, options):
    """The arguments of the command line, with the paths of what is given and of what is to be written."""

    def path_of(name):
        return str(given_files / name) if name and name != "two_moons" else name

    arguments = verb.split()
    if verb.split()[0] in OF_MODELS:
        arguments.append(path_of(model))
    elif verb == "train":
        arguments += [] if "--unet" in options else ["--init_from", path_of(model)]
        arguments += (
            ["--class_conditional", "True"] if model == "classes" and "--class_conditional" not in options else []
        )
    else:
        arguments += ["--model", path_of(model)]
    arguments += {
        "edit": [path_of("image.png")],
        "upscale": [path_of("image.png")],
        "interpolate": [path_of("image.png")] * 2,
    }.get(verb, [])
    arguments += ["someone/model"] if verb == "push" else []
    option, output = OUTPUTS.get(verb, ("--output", "out.png"))
    arguments += [option, str(folder / output)] if option else []
    arguments += ["--dataset", path_of(data)] if verb in OF_DATA else []
    arguments += ["--device", "cpu"] if verb in ON_DEVICES else []
    for name, value in options.items():
        if name in ("--space", "--trajectory") and value == VERBS[verb][name]:
            value = str(folder / value)
        elif name in ("--evaluation", "--features") and value == VERBS[verb][name]:
            value = path_of(value)
        arguments += [name] if value is None else [name, value]
    return arguments


def run_in_process(arguments):
    """The exit code of the command line, and what it said; any exception but the end of the program goes through."""
    before, said = sys.argv, io.StringIO()
    sys.argv = ["ddpm-hf", *arguments]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            cli.main()
    except SystemExit as end:
        code = 1 if isinstance(end.code, str) else end.code or 0
        if code:
            check_said_well(end, said.getvalue())
        return code, f"{end.code} {said.getvalue()}"
    finally:
        sys.argv = before
    return 0, said.getvalue()


def check_said_well(end, said):
    cause = end.__context__
    if isinstance(end.code, str):
        assert isinstance(cause, (ValueError, OSError))
        if isinstance(cause, ValueError):
            check_is_ours(cause)
    elif end.code != 128 + signal.SIGINT:  # who pressed Ctrl-C knows why it ended
        assert said.strip() and "Traceback" not in said


def refuse_constant(name):
    raise AssertionError(f"{name} in a result")


# Another run in the same folder ---------------------------------------------------------------------------------------

# Commands that go on from what a failed one left, with options that they work with.
RIGHT_LINES = {
    "train": (
        ("images", "data"),
        {"--max_train_steps": "3", "--batch_size": "2", "--split": "train", "--checkpoint_every": "1"}
        | {"--num_samples": "2", "--sample_steps": "2"},
    ),
    "calibrate": (("short", "data"), MEASURED | {"--num_images": "6", "--plan": "2"}),
    SOLVER: (("short", "data"), MEASURED | {"--num_images": "16"}),
    "export": (("images", "data"), {}),
}


@settings(FUZZED, max_examples=int(EXAMPLES or 60))
@given(
    verb=st.sampled_from(sorted(RIGHT_LINES)),
    number=st.integers(1, 40),
    what=st.sampled_from(["Ctrl-C", "a full disk"]),
)
def test_the_same_again_after_an_interruption(given_files, tmp_path_factory, verb, number, what):
    folder = tmp_path_factory.mktemp("again")
    arguments = right_arguments(given_files, folder, verb)
    with interrupted_at(number, folder / "out", what):
        run_in_process(arguments)
    was_whole = (folder / "out" / "model_index.json").exists()
    check_another_run(arguments, folder, may_be_refused=was_whole)


@settings(FUZZED, max_examples=int(EXAMPLES or 60))
@given(line=command_lines(["train", "calibrate", SOLVER, "export"]))
def test_a_right_run_after_a_wrong_one(given_files, tmp_path_factory, line):
    verb, folder = line[0], tmp_path_factory.mktemp("again")
    code, _ = run_in_process(written_out(given_files, folder, *line))
    # A run of other options is not gone on from; its sentence says so.
    may_be_refused = code == 0 or (verb in RUNS and (folder / "out").exists())
    check_another_run(right_arguments(given_files, folder, verb), folder, may_be_refused)


def right_arguments(given_files, folder, verb):
    names, options = RIGHT_LINES[verb]
    return written_out(given_files, folder, verb, *names, options)


def check_another_run(arguments, folder, may_be_refused):
    code, said = run_in_process(arguments)
    assert code == 0 or may_be_refused, (arguments, said)
    if code == 0:
        left = [path for path in folder.rglob("*") if ".tmp" in path.name or path.name.startswith("calibration_state")]
        assert not left, (arguments, left)
        load_pipeline(folder / "out")
    shutil.rmtree(folder)


@contextlib.contextmanager
def interrupted_at(number, folder, what):
    """A context in which this happens before the operation of that number on the folder or a file in it."""
    is_on = True

    def interrupt(count, operation):
        if is_on and count == number:
            if what == "Ctrl-C":
                signal.raise_signal(signal.SIGINT)
            else:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    on_file_operations(folder, interrupt)
    try:
        yield
    finally:
        is_on = False
