"""A training of which only the data are named: the network, the settings and the length are chosen, said and kept."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline, UNet2DModel
from PIL import Image
from typer.testing import CliRunner

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionPipeline, cli
from ddpm_hf.errors import InputError
from ddpm_hf.models.presets import NETWORK_PRESETS
from ddpm_hf.reports.loss_curve import read_rows
from ddpm_hf.training.argument_parsing import parse_arguments
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.network_choice import fitting_resolution, with_chosen_network
from ddpm_hf.training.run_length import with_length
from ddpm_hf.training.train import main, open_data, train
from ddpm_hf.training.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from mixed_photographs import write_photographs

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def options(tmp_path, image_folder):
    return {"dataset": image_folder, "output_dir": str(tmp_path / "run"), "sample_steps": 2, "num_samples": 2}


def stored_options(folder):
    return yaml.safe_load((folder / "training_args.yaml").read_text(encoding="utf-8"))


def write_folder(folder, *sizes, mode="RGB"):
    folder.mkdir()
    for number, size in enumerate(sizes):
        Image.effect_noise(size, 50).convert(mode).save(folder / f"{number}.png")
    return str(folder)


# The network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, median_side, resolution",
    [
        ((28, 28), 28, 28),
        ((64, 64), 64, 64),
        ((96, 96), 96, 64),
        ((50, 50), 50, 48),
        ((31, 31), 31, 32),
        ((3, 3), 3, 4),
        ((200, 100), 100, 64),
        (None, 480, 64),
        (None, 37, 36),
    ],
)
def test_images_keep_a_small_size_and_others_are_reduced(size, median_side, resolution):
    assert fitting_resolution(SimpleNamespace(size=size, median_side=median_side)) == resolution


@pytest.mark.parametrize(
    "number, mode, size, device, unet",
    [
        (6000, "L", (28, 28), CPU, "fashion_mnist"),
        (60_000, "L", (28, 28), GPU, "medium_32"),
        (300, "RGB", (32, 32), CPU, "small_32"),
        (50_000, "RGB", (32, 32), GPU, "medium_32"),
        (50_000, "RGB", (32, 32), CPU, "small_32"),
        (300, "RGB", (640, 480), CPU, "small_64"),
        (50_000, "RGB", (640, 480), GPU, "medium_64"),
    ],
)
def test_the_network_follows_from_size_channels_number_and_device(tmp_path, number, mode, size, device, unet):
    source = open_data(TrainingArguments(dataset=write_folder(tmp_path / "data", size, mode=mode), max_train_steps=1))

    class Many(type(source)):
        def __len__(self):
            return number

    many = Many(**vars(source))
    args, sized, reason = with_chosen_network(TrainingArguments(dataset="d", max_train_steps=1), many, device)
    assert args.unet == unet
    assert (args.prediction_type, args.beta_schedule) == ("v_prediction", "squaredcos_cap_v2")
    assert sized.resolution == args.resolution == min(size[0], 64)
    assert (
        f"for {number} images of {args.resolution}x{args.resolution}, {'grey' if mode == 'L' else 'in colour'}"
        in reason
    )
    network = NETWORK_PRESETS[args.unet]
    assert args.resolution % 2 ** (len(network["block_out_channels"]) - 1) == 0


def test_what_is_given_is_not_chosen(options):
    given = {"learning_rate": 2e-4, "prediction_type": "epsilon", "beta_schedule": "linear", "batch_size": 64}
    args = TrainingArguments(**options | given, max_train_steps=1)
    chosen, _, _ = with_chosen_network(args, open_data(args), CPU)
    assert given.items() <= vars(chosen).items()
    assert chosen.unet == "fashion_mnist"
    named = TrainingArguments(**options, max_train_steps=1, unet="small_32")
    assert with_chosen_network(named, None, CPU) == (named, None, None)


def test_few_images_are_a_batch_of_all(options, tmp_path):
    args = TrainingArguments(dataset=write_folder(tmp_path / "data", *[(8, 8)] * 5), max_train_steps=1)
    assert with_chosen_network(args, open_data(args), CPU)[0].batch_size == 5


def test_points_get_the_network_of_points():
    args = TrainingArguments(dataset="swiss_roll")
    chosen, _, reason = with_chosen_network(args, open_data(args), CPU)
    assert (chosen.unet, chosen.minutes, reason) == ("mlp", 2.0, "for 5000 points")


def test_a_folder_is_enough_to_train_on(image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddpm_hf.training.train.measure_updates_per_minute", lambda *parts: 0.1)
    main([f"{image_folder}/", "--sample_steps", "2"])
    said = capsys.readouterr().out
    folder = tmp_path / "outputs" / image_folder.split("/")[-1]
    for part in (
        "No --unet was given: fashion_mnist is chosen for 16 images of 8x8, grey, on a CPU",
        "30 minutes are 3 updates, at 0.1 a minute",
        "fashion_mnist, 0.7M parameters",
        "3 updates of 16 images, 3 passes over the data, on cpu, until about",
        f"The model is in {folder.relative_to(tmp_path)} after 3 updates, with a loss of",
        f"ddpm-hf sample {folder.relative_to(tmp_path)}",
        "--max_train_steps 6",
    ):
        assert part in said
    assert DiffusionPipeline.from_pretrained(folder)(num_inference_steps=2).images[0].size == (8, 8)


# A network from a config ----------------------------------------------------------------------------------------------


def test_a_config_of_diffusers_makes_the_network(options, stock_unet, tmp_path):
    stock_unet.save_config(tmp_path / "network")
    for name in ("network", "network/config.json"):
        run = tmp_path / f"run_{name.count('/')}"
        train(
            TrainingArguments(
                **options | {"output_dir": str(run)}, unet=str(tmp_path / name), max_train_steps=1, batch_size=4
            )
        )
        made = UNet2DModel.from_pretrained(run / "unet")
        assert tuple(made.config.block_out_channels) == stock_unet.config.block_out_channels


def test_a_new_network_has_the_size_of_its_config_and_the_channels_of_the_data(tmp_path, stock_unet):
    config, data = tmp_path / "config.json", write_folder(tmp_path / "data", (12, 12))
    config.write_text(stock_unet.to_json_string(), encoding="utf-8")
    args = {"dataset": data, "unet": str(config), "max_train_steps": 1, "batch_size": 1}
    assert open_data(TrainingArguments(**args)).resolution == 8
    assert open_data(TrainingArguments(**args, resolution=16)).resolution == 16
    assert open_data(TrainingArguments(**args)).channels == 3


def test_configs_that_make_no_network_are_refused(tmp_path, tiny_pipeline, capsys):
    for kind in ("UNet1DModel", "UNet2DConditionModel"):
        (tmp_path / f"{kind}.json").write_text(json.dumps({"_class_name": kind}), encoding="utf-8")
    for name, message in (
        (tmp_path / "UNet1DModel.json", "is the config of UNet1DModel: give one of UNet2DModel"),
        (tmp_path / "UNet2DConditionModel.json", "is told a text: give --caption_column or --caption_template"),
        (tiny_pipeline, r"is a pipeline folder: give .*unet for a new network of that form, or --init_from"),
        (Path(tiny_pipeline) / "scheduler", "Cannot read the config of a network"),
    ):
        with pytest.raises(InputError, match=message):
            TrainingArguments(unet=str(name), max_train_steps=1)


# The length -----------------------------------------------------------------------------------------------------------


def test_a_length_by_time_is_that_number_of_updates(options, monkeypatch, tmp_path):
    """The run equals one of which the number was given, byte for byte, and keeps it."""
    monkeypatch.setattr("ddpm_hf.training.run_length.SHARE_OF_UPDATES", 1e-4)
    by_time = train(TrainingArguments(**options, minutes=0.5))
    stored = stored_options(by_time)
    updates, rate = stored["max_train_steps"], stored["environment"]["updates_per_minute"]
    assert stored["minutes"] is None
    assert updates == max(1, round(0.5 * rate))
    given = {"sample_every": stored["sample_every"], "checkpoint_every": stored["checkpoint_every"]}
    by_number = train(
        TrainingArguments(**options | {"output_dir": str(tmp_path / "other")}, **given, max_train_steps=updates)
    )
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (by_time / name).read_bytes() == (by_number / name).read_bytes()


@pytest.mark.parametrize("updates, every", [(10, 0), (100, 0), (400, 100), (1800, 360)])
def test_samples_take_a_small_part_of_the_time(updates, every):
    """A grid of 16 images in 50 calls takes as long as 8.3 updates of 32 images."""
    args = TrainingArguments(unet="small_32", batch_size=32, num_samples=16, minutes=10.0)
    settled = with_length(args, updates / 10)
    assert (settled.max_train_steps, settled.minutes) == (updates, None)
    assert (settled.sample_every, settled.checkpoint_every) == (every, updates // 10)


def test_the_same_command_goes_on_with_the_same_length(options, monkeypatch, capsys):
    rates = iter((10.0, 1000.0, 1000.0))
    monkeypatch.setattr("ddpm_hf.training.train.measure_updates_per_minute", lambda *parts: next(rates))
    fit = Trainer.fit

    def stopped_after_two(self):
        total, self.total_steps = self.total_steps, 2
        fit(self)
        self.total_steps = total
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", stopped_after_two)
    with pytest.raises(KeyboardInterrupt):
        train(TrainingArguments(**options, minutes=0.4))
    monkeypatch.setattr(Trainer, "fit", fit)
    capsys.readouterr()
    folder = train(TrainingArguments(**options, minutes=0.4))
    said = capsys.readouterr().out
    assert "Goes on from update 2 of 4." in said and "is chosen" not in said
    assert stored_options(folder)["max_train_steps"] == 4
    train(TrainingArguments(**options))
    assert "is finished at step 4; give more steps to continue it" in capsys.readouterr().out
    train(TrainingArguments(**options, minutes=0.6))
    assert "Goes on from update 4 of 6." in capsys.readouterr().out
    assert [row["step"] for row in read_rows(folder / "loss.csv")][-1] == 6
    assert next(rates) == 1000.0  # measured once, when the run began


def test_another_network_in_the_folder_is_still_refused(options):
    train(TrainingArguments(**options, max_train_steps=1))
    with pytest.raises(InputError, match="holds another run, with .*unet=fashion_mnist instead of small_32"):
        train(TrainingArguments(**options, max_train_steps=1, unet="small_32"))


def test_the_folder_is_the_data(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert parse_arguments(["photos/", "--minutes", "5"]).dataset == "photos"
    assert parse_arguments(["photos"]).output_dir == "outputs/photos"
    assert parse_arguments(["--max_train_steps", "5"]).output_dir == "outputs/ddpm"
    with pytest.raises(SystemExit):
        parse_arguments(["photos", "--dataset", "others"])
    assert "given twice, as 'photos' and as --dataset others" in capsys.readouterr().err


# The classes ----------------------------------------------------------------------------------------------------------


def test_the_names_of_the_classes_stay_with_the_network(options, capsys, diffusers_log):
    folder = train(TrainingArguments(**options, class_conditional=True, max_train_steps=1))
    said = capsys.readouterr().out
    names = DDPMUNet2DModel.load_config(folder / "unet")["_ddpm_hf"]["id2label"]
    assert names == {"0": "cat", "1": "dog"}
    assert "0 cat, 1 dog" in said
    assert "--class cat" in said
    diffusers_log.clear()
    UNet2DModel.from_pretrained(folder / "unet")
    assert diffusers_log.text == ""
    pipeline = GaussianDiffusionPipeline.from_pretrained(folder)
    drawn = {
        label: pipeline(
            class_labels=label, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="latent"
        ).images
        for label in (1, "dog", "1")
    }
    assert torch.equal(drawn[1], drawn["dog"]) and torch.equal(drawn[1], drawn["1"])
    assert "0 cat, 1 dog" in (folder / "README.md").read_text(encoding="utf-8")


# Photographs as people have them --------------------------------------------------------------------------------------


def test_mixed_photographs_become_one_form(tmp_path, caplog):
    """Portrait, landscape, transparent, grey, palette, CMYK, turned by EXIF, and one that is damaged."""
    write_photographs(tmp_path / "photographs", number=24)
    args = TrainingArguments(dataset=str(tmp_path / "photographs"), max_train_steps=1)
    args, source, _ = with_chosen_network(args, open_data(args), CPU)
    images = source.load(8, 0, 0, None)
    assert args.unet == "small_64"
    assert images.tensors["images"].shape == (23, 3, 64, 64)
    assert "3 of 24 images in column 'image' have an alpha channel" in caplog.text
    assert "Skipped 1 of 24 images, which cannot be read" in caplog.text and "0012.gif" in caplog.text


@pytest.mark.slow
def test_mixed_photographs_to_a_grid_by_two_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photographs("photographs", number=40)
    monkeypatch.setattr("ddpm_hf.training.run_length.DEFAULT_MINUTES", 0.2)
    main(["photographs", "--sample_steps", "5"])
    CliRunner().invoke(cli.app, ["sample", "outputs/photographs", "--steps", "5"], catch_exceptions=False)
    assert Image.open("samples.png").size == (256, 256)
