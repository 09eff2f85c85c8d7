import json
import sys

import numpy as np
import pytest
from diffusers import DDPMPipeline, PNDMScheduler
from PIL import Image
from typer.testing import CliRunner

from ddpm_hf import (
    GaussianDiffusionPipeline,
    GaussianDiffusionScheduler,
    NoisyImageClassifier,
    ScoreSDEScheduler,
    cli,
)


@pytest.fixture
def model(tmp_path, tiny_unet):
    pipeline = GaussianDiffusionPipeline(tiny_unet(num_classes=3), GaussianDiffusionScheduler())
    pipeline.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_sample(tmp_path, model):
    output = tmp_path / "new" / "grid.png"
    result = run("sample", model, "--num_images", 3, "--steps", 2, "--class", 1, "--output", output, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "3 images in" in result.output
    assert Image.open(output).size == (128, 128)


def test_results_without_a_name_are_numbered(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    options = ["--num-images", 1, "--num_inference_steps", 2, "--recipe", "ddim-2m@trailing", "--device", "cpu"]
    for _ in range(2):
        result = run("sample", model, *options)
        assert result.exit_code == 0, result.output
        assert run("show", "timesteps", model, "--steps", 3).exit_code == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model", "samples.png", "samples_2.png", "timesteps.png", "timesteps_2.png"}


def test_the_same_seed_gives_the_same_file(tmp_path, model):
    for name, batch_size in (("a.png", 4), ("b.png", 4)):
        run("sample", model, "--num_images", 4, "--steps", 2, "--batch_size", batch_size, "--output", tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["ddpm-hf", *map(str, arguments)])
    cli.main()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--class", "7"], "class_labels=7 must be whole numbers in 0 .. 2"),
        (["--steps", "5000"], "num_inference_steps=5000 must be in 1 .. 1000"),
        (["--eta", "3"], "eta=3.0 must be in"),
        (["--output", "grid.jpg"], "must end in .png"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, monkeypatch, model, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(monkeypatch, "sample", model, *arguments)
    assert str(stopped.value).startswith("ddpm-hf: error: ") and message in str(stopped.value)
    assert not list(tmp_path.glob("*.png")) and not list(tmp_path.glob("*.jpg"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "--dataset", "", "--preset", "fashion_mnist"], "--dataset=''"),
        (["train", "--dataset=", "--preset", "fashion_mnist"], "--dataset=''"),
        (["sample", "model", "--output", ""], "--output=''"),
        (["sample", ""], "an argument=''"),
        (["evaluate", "model", "--dataset", " "], "--dataset=' '"),
        (["calibrate", "model", "--output_dir="], "--output_dir=''"),
        (["push", "model", ""], "an argument=''"),
    ],
)
def test_an_empty_value_is_refused_by_every_verb(tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(monkeypatch, *arguments)
    assert f"{named} is empty, as it is where a shell variable is not set" in str(stopped.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path, monkeypatch, model):
    (tmp_path / "grid.png").write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit, match="grid.png is already there"):
        main(monkeypatch, "sample", model, "--output", tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_text(encoding="utf-8") == "mine"


def test_a_model_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="ddpm-hf: error: .*/no/such/model"):
        main(monkeypatch, "sample", "/no/such/model", "--output", tmp_path / "grid.png")


def test_train_hands_everything_to_the_parser_of_training(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        main(monkeypatch, "train", "--help")
    assert "--learning_rate" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(monkeypatch, "train", "--max_train_steps", "5", "--batch_size", "0")
    assert "batch_size=0 is not allowed: it must be at least 1" in capsys.readouterr().err


# evaluate ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def image_folder(tmp_path):
    """Twelve grey images of 8x8, four of each of three classes, as the test split."""
    for i in range(12):
        path = tmp_path / "data" / "test" / "abc"[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((8, 8), 100).save(path)
    return tmp_path / "data"


def test_evaluate(tmp_path, model, image_folder):
    output = tmp_path / "new" / "scores"
    options = ["--dataset", image_folder, "--num_images", 9, "--steps", 3, "--batch_size", 4, "--device", "cpu"]
    result = run("evaluate", model, *options, "--output", output)
    assert result.exit_code == 0, result.output
    assert "9 images: 9 network calls in each process, about 0:00:0" in result.output
    scores = json.loads((output / "bpd.json").read_text(encoding="utf-8"))
    assert scores["num_images"] == 9 and len(scores["terms"]) == 3
    assert f"{scores['total']:.4f} +- {scores['standard_error']:.4f} bits/dim" in result.output
    assert Image.open(output / "bpd.png").width > 500
    large = tmp_path / "large"
    run("evaluate", model, *options, "--variance_type", "fixed_large", "--output", large)
    assert json.loads((large / "bpd.json").read_text(encoding="utf-8"))["total"] < scores["total"]  # of noise


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--metrics", "beauty"], "metrics='beauty' is not one of 'bpd', 'nll', 'fid'"),
        (["--steps", "5000"], "num_inference_steps=5000 must be in 1 .. 1000"),
        (["--split", "train"], "Cannot read split 'train'"),
        (["--num_images", "13"], "13 samples are more than the 12 of split 'test'"),
        (["--variance_type", "medium"], "variance_type='medium' is not one of 'fixed_small'"),
        (["--variance_type", "learned_range"], "The model output has 1 channels .* needs 2"),
    ],
)
def test_mistakes_of_an_evaluation(tmp_path, monkeypatch, model, image_folder, arguments, message):
    with pytest.raises(SystemExit, match=f"ddpm-hf: error: .*{message}"):
        main(monkeypatch, "evaluate", model, "--dataset", image_folder, "--output", tmp_path / "scores", *arguments)
    assert not (tmp_path / "scores").exists()


def test_an_evaluation_writes_over_nothing(tmp_path, monkeypatch, model):
    (tmp_path / "bpd.png").write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit, match="bpd.png is already there"):
        main(monkeypatch, "evaluate", model, "--output", tmp_path)
    assert (tmp_path / "bpd.png").read_text(encoding="utf-8") == "mine"


def test_images_of_another_kind(tmp_path, monkeypatch, model, image_folder):
    Image.new("RGB", (8, 8), "red").save(image_folder / "test" / "a" / "red.png")
    with pytest.raises(SystemExit, match=r"images have 3 channel\(s\) and the network takes 1"):
        main(monkeypatch, "evaluate", model, "--dataset", image_folder, "--output", tmp_path / "scores")


# calibrate, compare, recipes -----------------------------------------------------------------------------------------


@pytest.fixture
def short_model(tmp_path, tiny_unet):
    """A model with a chain of 12 steps, which a few images are enough to calibrate."""
    scheduler = GaussianDiffusionScheduler(12, 0.02, 0.9)
    GaussianDiffusionPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path / "short")
    return str(tmp_path / "short")


def test_calibrate_and_sample_by_recipe(tmp_path, short_model, image_folder):
    options = ["--dataset", image_folder, "--split", "test", "--num_images", 12, "--device", "cpu"]
    result = run("calibrate", short_model, *options, "--plan", "2,3", "--output_dir", tmp_path / "calibrated")
    assert result.exit_code == 0, result.output
    scheduler = GaussianDiffusionPipeline.from_pretrained(tmp_path / "calibrated").scheduler
    assert len(scheduler.config.mean_square_epsilon) == 12
    assert set(scheduler.config.timestep_plans) == {"2", "3"}
    options = ["--num_images", 2, "--steps", 3, "--device", "cpu", "--output", tmp_path / "grid.png"]
    result = run("sample", tmp_path / "calibrated", "--recipe", "analytic-ddim", *options)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "grid.png").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["sample", "--recipe", "best", "--output", "grid.png"], "The recipe 'best' is not known; there are ddpm, "),
        (["sample", "--recipe", "analytic-ddpm", "--output", "grid.png"], "needs mean_square_epsilon.*ddpm-hf calibr"),
        (["sample", "--recipe", "npr-ddpm", "--output", "grid.png"], "--variance_head npr --train_head_only"),
        (["calibrate", "--plan", "ten", "--output_dir", "new"], "--plan ten must be whole numbers"),
        (["calibrate", "--plan", "5", "--plan_cost", "beauty", "--output_dir", "new"], "plan_cost='beauty'"),
        (["compare", "--steps", "5;10", "--features", "f", "--output", "new"], "--steps 5;10 must be whole numbers"),
        (["compare", "--samplers", "euler", "--features", "f", "--output", "new"], "sampler 'euler' is not known"),
    ],
)
def test_mistakes_in_the_choice_of_samplers(tmp_path, monkeypatch, model, arguments, message):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(SystemExit, match=f"ddpm-hf: error: .*{message}"):
        main(monkeypatch, arguments[0], model, *arguments[1:])
    assert set(tmp_path.rglob("*")) == before


@pytest.fixture
def picture(tmp_path):
    """A grey image of 8x8 in a file, as another one and as a mask."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    Image.fromarray(np.repeat(np.array([[0, 255]], dtype=np.uint8), 4, axis=1).repeat(8, axis=0)).save(
        tmp_path / "mask.png"
    )
    return tmp_path


def test_interpolate(picture, model):
    result = run(
        *("interpolate", model, picture / "a.png", picture / "b.png", "--depth", 300, "--num", 3, "--steps", 4),
        *("--output", picture / "strip.png", "--class", 1, "--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    assert Image.open(picture / "strip.png").size == (3 * 64, 64)


@pytest.mark.parametrize(
    "how, images",
    [
        (["--strength", 0.5, "--num_images", 3], 3),
        (["--mask", "mask.png", "--jump_length", 2, "--jump_n_sample", 2], 1),
        (["--invert"], 2),
    ],
)
def test_edit(picture, model, monkeypatch, how, images):
    monkeypatch.chdir(picture)
    options = ["--steps", 3, "--output", "new.png", "--device", "cpu", "--precision", "bf16"]
    result = run("edit", model, "a.png", *how, *options)
    assert result.exit_code == 0, result.output
    assert Image.open("new.png").size == (images * 64, 64)


def test_a_vp_model_edits_as_its_chain_and_a_ve_model_says_why_it_does_not(picture, tiny_unet, monkeypatch):
    monkeypatch.chdir(picture)
    GaussianDiffusionPipeline(tiny_unet(), ScoreSDEScheduler("vp")).save_pretrained("vp")
    GaussianDiffusionPipeline(tiny_unet(), ScoreSDEScheduler("ve", time_input="timestep")).save_pretrained("ve")
    how = {
        "edit": ["a.png", "--strength", 0.5, "--num_images", 3],
        "interpolate": ["a.png", "b.png", "--depth", 300, "--num", 3],
    }
    for verb, given in how.items():
        options = [*given, "--steps", 3, "--device", "cpu", "--output"]
        result = run(verb, "vp", *options, f"{verb}.png")
        assert result.exit_code == 0, result.output
        assert Image.open(f"{verb}.png").size == (3 * 64, 64)
        result = run(verb, "ve", *options, "none.png")
        assert "ScoreSDEScheduler cannot edit: " in str(result.exception) and not (picture / "none.png").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["edit", "a.png"], "Give one of --strength, --mask and --invert"),
        (["edit", "a.png", "--strength", "2"], r"strength=2.0 must be in \(0, 1\]"),
        (["interpolate", "a.png", "b.png", "--weights", "0,a"], "--weights 0,a must be finite numbers"),
        (["interpolate", "a.png", "b.png", "--depth", "1000"], "depth=1000 must be a timestep"),
        (["sample", "--trajectory", "way.jpg"], "way.jpg must end in .gif or .png"),
        (["sample", "--trajectory", "way.gif", "--batch_size", "8"], "all images in one batch"),
        (["sample", "--guidance_interval", "3,1", "--guidance_scale", "2"], r"guidance_interval=\(3.0, 1.0\)"),
        (["sample", "--class", "1", "--classifier_guidance_scale", "2"], "needs a pipeline with a classifier"),
    ],
)
def test_mistakes_in_steering(picture, monkeypatch, model, arguments, message):
    monkeypatch.chdir(picture)
    before = set(picture.iterdir())
    with pytest.raises(SystemExit, match=message):
        main(monkeypatch, arguments[0], model, *arguments[1:])
    assert set(picture.iterdir()) == before


def test_sample_with_a_classifier_and_the_way_to_the_image(tmp_path, model):
    classifier = NoisyImageClassifier(
        sample_size=8, in_channels=1, num_classes=3, block_out_channels=(8,), down_block_types=("DownBlock2D",),
        norm_num_groups=4, attention_head_dim=8,
    )  # fmt: skip
    classifier.save_pretrained(tmp_path / "classifier")
    options = ["--classifier", tmp_path / "classifier", "--classifier_guidance_scale", 5, "--guidance_scale", 2]
    options += ["--guidance_interval", "0.1,5", "--guidance_rescale", 0.5, "--class", 2, "--num_images", 2]
    for suffix in ("gif", "png"):
        way = tmp_path / f"way.{suffix}"
        output = tmp_path / f"{suffix}.png"
        result = run(
            "sample", model, *options, "--steps", 4, "--trajectory", way, "--output", output, "--device", "cpu"
        )
        assert result.exit_code == 0, result.output
        assert Image.open(way).format == suffix.upper()


def test_train_classifier_hands_everything_to_its_parser():
    result = run("train_classifier", "--help")
    assert result.exit_code == 0 and "--eval_split" in result.output


# Before the work -----------------------------------------------------------------------------------------------------


def test_outputs_are_tried_before_anything_else(tmp_path, monkeypatch):
    """No model is there: what is said of the output is said before it is looked for."""
    monkeypatch.chdir(tmp_path)
    for name in ("file", "a.png", "b.png"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
    place = tmp_path / "file" / "new"
    for arguments in (
        ["sample", "someone/none", "--output", f"{place}.png"],
        ["sample", "a/none", "--output", tmp_path / "new.png", "--trajectory", f"{place}.gif", "--num_images", 1],
        ["interpolate", "someone/none", "a.png", "b.png", "--output", f"{place}.png"],
        ["edit", "someone/none", "a.png", "--invert", "--output", f"{place}.png"],
        ["show", "gamma", "someone/none", "--output", f"{place}.png"],
        ["show", "path", "someone/none", "--output", f"{place}.gif"],
        ["show", "loss", ".", "--output", f"{place}.svg"],
        ["evaluate", "someone/none", "--output", place],
        ["compare", "someone/none", "--features", "none", "--output", place],
        ["calibrate", "someone/none", "--output_dir", place],
        ["export", "someone/none", "--output_dir", place],
        ["export", "someone/none", "--stock", "--output_dir", place],
    ):
        with pytest.raises(SystemExit, match="error: .*file.*: choose a(nother place| folder that is not there yet)"):
            main(monkeypatch, *arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "file"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "MODEL", "--output", "new.png"],
        ["interpolate", "MODEL", "a.png", "b.png", "--output", "new.png"],
        ["evaluate", "MODEL", "--output", "new"],
        ["calibrate", "MODEL", "--output_dir", "new"],
        ["compare", "MODEL", "--features", "f", "--output", "new"],
        ["show", "variances", "MODEL", "--output", "new.png"],
    ],
)
@pytest.mark.parametrize("device", ["warp", "cpu:7", "meta"])
def test_a_device_that_is_not_there(picture, monkeypatch, model, arguments, device):
    monkeypatch.chdir(picture)
    arguments = [model if argument == "MODEL" else argument for argument in arguments]
    with pytest.raises(SystemExit, match=f"error: The device {device} is not there: torch .* finds cpu"):
        main(monkeypatch, *arguments, "--device", device)
    assert not list(picture.glob("new*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["edit", "a.png", "--mask", "mask.png", "--jump_n_sample", "2000000"],
        ["edit", "a.png", "--strength", "0.5", "--num_images", "100000"],
        ["interpolate", "a.png", "b.png", "--num", "100000"],
        ["show", "path", "--frames", "100000"],
        ["sample", "--seed", "-1"],
        ["sample", "--seed", "9" * 30],
        ["evaluate", "--output", "new", "--seed", "-1"],
    ],
)
def test_numbers_that_are_out_of_range(arguments):
    """No model is there: the numbers are looked at first."""
    verb = arguments[:2] if arguments[0] == "show" else arguments[:1]
    result = run(*verb, "someone/none", *arguments[len(verb) :])
    assert result.exit_code == 2 and f"Invalid value for '{arguments[-2]}'" in result.output, result.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["sample", "--num_images", 10**13], "take .* GiB of memory, and .*: lower --num_images, which is 1000000"),
        (["sample", "--num_images", 10**8, "--batch_size", 10**8], "GiB of memory, .*: lower --"),
        (["calibrate", "--plan", "²", "--output_dir", "new"], "--plan ² must be whole numbers"),
        (["sample", "--guidance_interval", "0,nan"], "--guidance_interval 0,nan must be finite numbers"),
        (["interpolate", "a.png", "b.png", "--weights", "inf"], "--weights inf must be finite numbers"),
    ],
)
def test_what_no_machine_can_do(picture, monkeypatch, model, arguments, message):
    monkeypatch.chdir(picture)
    before = set(picture.iterdir())
    with pytest.raises(SystemExit, match=message):
        main(monkeypatch, arguments[0], model, *arguments[1:])
    assert set(picture.iterdir()) == before


def test_how_long_an_edit_takes_is_said_first(picture, monkeypatch, model):
    """A mask with many jumps: each stretch of 2 of 4 steps, less the last, is walked 101 times."""
    monkeypatch.chdir(picture)
    options = ["--jump_length", 3, "--jump_n_sample", 101, "--steps", 4, "--output", "new.png", "--device", "cpu"]
    result = run("edit", model, "a.png", "--mask", "mask.png", *options)
    assert result.exit_code == 0, result.output
    assert 0 < result.output.index("304 network calls of 1: about 0:0") < result.output.index("304/304")


# What goes out -------------------------------------------------------------------------------------------------------


@pytest.fixture
def spoilt_model(tmp_path, tiny_unet):
    """A model with a weight that is NaN."""
    unet = tiny_unet()
    unet.conv_out.bias.data.fill_(float("nan"))
    GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler()).save_pretrained(tmp_path / "spoilt")
    return str(tmp_path / "spoilt")


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "MODEL", "--output", "new.png"],
        ["edit", "MODEL", "a.png", "--strength", "0.5", "--output", "new.png"],
        ["interpolate", "MODEL", "a.png", "b.png", "--output", "new.png"],
        ["evaluate", "MODEL", "--output", "new"],
        ["calibrate", "MODEL", "--output_dir", "new"],
        ["export", "MODEL", "--output_dir", "new"],
        ["export", "MODEL", "--stock", "--output_dir", "new"],
        ["compare", "MODEL", "--features", "f", "--output", "new"],
    ],
)
def test_a_network_that_is_not_finite(picture, monkeypatch, spoilt_model, arguments):
    monkeypatch.chdir(picture)
    arguments = [spoilt_model if argument == "MODEL" else argument for argument in arguments]
    with pytest.raises(
        SystemExit, match=r"the weight conv_out.bias\[0\] of its unet is nan.*take an earlier checkpoint"
    ):
        main(monkeypatch, *arguments)
    assert not list(picture.glob("new*"))


# Models and pictures of other kinds ----------------------------------------------------------------------------------


def saved_model(folder, unet):
    GaussianDiffusionPipeline(unet, GaussianDiffusionScheduler(12, 0.02, 0.9)).save_pretrained(folder)
    return str(folder)


def test_a_network_of_six_channels(picture, monkeypatch, tiny_unet):
    monkeypatch.chdir(picture)
    model = saved_model(picture / "six", tiny_unet(in_channels=6))
    with pytest.raises(SystemExit, match="makes images of 6 channels, and a PNG holds 1, 2, 3, 4: .*output_type='np'"):
        main(monkeypatch, "sample", model, "--output", "new.png")
    with pytest.raises(SystemExit, match="6 channels, and picture"):
        main(monkeypatch, "edit", model, "a.png", "--strength", "0.5", "--output", "new.png")
    with pytest.raises(SystemExit, match="makes images of 6 channels, and pictures have 1, 3, 4"):
        main(monkeypatch, "compare", model, "--features", "f", "--output", "new")
    assert not list(picture.glob("new*"))


def test_a_network_of_images_that_are_not_square(tmp_path, tiny_unet, image_folder):
    model = saved_model(tmp_path / "wide", tiny_unet(sample_size=(8, 12)))
    options = ["--dataset", image_folder, "--num_images", 2, "--steps", 2, "--output", tmp_path / "new"]
    assert run("evaluate", model, *options).exit_code == 0
    assert len(json.loads((tmp_path / "new" / "bpd.json").read_text(encoding="utf-8"))["per_image"]) == 2


def test_a_picture_that_is_a_bomb(picture, monkeypatch, model):
    Image.new("1", (20_000, 20_000)).save(picture / "bomb.png")
    with pytest.raises(SystemExit, match=r"bomb.png .*exceeds limit of 178956970 pixels"):
        main(monkeypatch, "edit", model, picture / "bomb.png", "--invert", "--output", picture / "new.png")


# The same plans and seeds, before the measurement --------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule, plan_cost, message",
    [
        ({"num_train_timesteps": 50}, "bound", r"last timestep 49 \(alpha_bar = 0.603, .*leave out --plan"),
        ({"num_train_timesteps": 50}, "global_error", r"last timestep 49 \(alpha_bar = 0.603"),
        ({"num_train_timesteps": 1, "beta_start": 0.99, "beta_end": 0.999}, "local_error", "single training timestep"),
        ({"rescale_betas_zero_snr": True}, "bound", "Timestep 999 of this model has no signal"),
    ],
)
def test_plans_that_cannot_be_made(tmp_path, monkeypatch, tiny_unet, image_folder, schedule, plan_cost, message):
    model = GaussianDiffusionPipeline(tiny_unet(), GaussianDiffusionScheduler(**schedule))
    model.save_pretrained(tmp_path / "model")
    options = ["--dataset", image_folder, "--split", "test", "--plan", 1, "--plan_cost", plan_cost]
    with pytest.raises(SystemExit, match=message):
        main(monkeypatch, "calibrate", tmp_path / "model", *options, "--output_dir", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_new_folder_within_the_model(model, monkeypatch):
    for verb in ("calibrate", "export"):
        with pytest.raises(SystemExit, match="sub lies within the model .*: choose a folder beside it"):
            main(monkeypatch, verb, model, "--output_dir", f"{model}/sub")


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_steps_that_a_stock_scheduler_cannot_take_are_named_before_the_work(tmp_path, monkeypatch, stock_unet, steps):
    """PNDM needs four, and numpy spoke of shapes."""
    DDPMPipeline(stock_unet, PNDMScheduler()).save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit) as stopped:
        main(monkeypatch, "sample", tmp_path / "model", "--steps", steps, "--output", tmp_path / "a.png")
    assert f"PNDMScheduler of {tmp_path / 'model'} cannot take {steps} steps: " in str(stopped.value)
    assert not (tmp_path / "a.png").exists()
