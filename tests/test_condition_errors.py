"""Bad input to the verbs of models that are told images or numbers: one sentence each, and nothing written."""

import re

import numpy as np
import pytest
from PIL import Image
from tiny_networks import TINY
from typer.testing import CliRunner

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionPipeline, GaussianDiffusionScheduler, cli

UPSCALER = {"in_channels": 2, "condition_channels": 1, "low_resolution": 4}
DEEP = {"value_range": (0, 65535), "levels": 65536}
MODELS = {
    "plain": {},
    "small": {"sample_size": 4},
    "small_deep": {"sample_size": 4, **DEEP},
    "small_classes": {"sample_size": 4, "num_classes": 3},
    "upscaler": UPSCALER,
    "upscaler_levels": {**UPSCALER, "max_augmentation_level": 0.5},
    "upscaler_classes": {**UPSCALER, "num_classes": 2},
    "upscaler_numbers": {**UPSCALER, "condition_value_range": (0, 1)},
    "upscaler_colours": {"in_channels": 6, "condition_channels": 3, "low_resolution": 4},
    "pairs": {"in_channels": 2, "condition_channels": 1},
    "upscaler_floats": {**UPSCALER, "value_range": (-3, 7), "levels": None},
    "numbers": {"condition_value_range": (0, 1)},
}
TRAIN = "--max_train_steps 1 --batch_size 2 --num_samples 1 --sample_steps 1 --output_dir new"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with models, pictures, and pairs whose told pictures are colours, floats, or of another size."""
    place = tmp_path_factory.mktemp("place")
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=20, beta_end=0.6)
    for name, options in MODELS.items():
        GaussianDiffusionPipeline(DDPMUNet2DModel(**(TINY | options)), scheduler).save_pretrained(place / name)
    kinds = {"colours": ((8, 8, 3), np.uint8, "png"), "floats": ((8, 8), np.float32, "tiff")}
    kinds["sizes"] = ((6, 8), np.uint8, "png")
    for kind, (shape, dtype, ending) in kinds.items():
        (place / kind / "told").mkdir(parents=True)
        lines = ["file_name,told_file_name"]
        for number in range(4):
            Image.new("L", (8, 8), 9 * number).save(place / kind / f"{number}.png")
            told = np.random.default_rng(number).integers(0, 256, shape).astype(dtype)
            Image.fromarray(told).save(place / kind / "told" / f"{number}.{ending}")
            lines.append(f"{number}.png,told/{number}.{ending}")
        (place / kind / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    Image.new("L", (4, 4), 9).save(place / "picture.png")
    Image.new("L", (2, 2), 9).save(place / "tiny.png")
    Image.fromarray(np.full((4, 4), 3.5, np.float32)).save(place / "floats.tiff")
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(place / "dark.png")
    return place


@pytest.mark.parametrize(
    "words, message",
    [
        # without its image, and an image without its model
        (
            "sample upscaler",
            "This model needs a condition image: it enlarges images, .* `ddpm-hf upscale MODEL IMAGE`",
        ),
        ("sample pairs", "This model needs a condition image: give condition_image=, or --condition_image"),
        ("sample plain --condition_image picture.png", "--condition_image is for models of pairs"),
        ("sample upscaler --condition_image picture.png", "--condition_image is for models of pairs"),
        (
            "upscale plain picture.png",
            "This model enlarges no images: train one with `ddpm-hf train --low_resolution`",
        ),
        ("upscale pairs picture.png", "This model enlarges no images"),
        # conditions of another size or depth
        ("upscale upscaler tiny.png", "image is of 2x2 .height x width.: .* at least 4x4"),
        ("upscale upscaler floats.tiff", "The picture floats.tiff cannot be read: .* of 32-bit floats"),
        ("upscale upscaler dark.png", "The picture dark.png cannot be read: its 16-bit values go up to 3000"),
        (
            f"train sizes --condition_column told {TRAIN}",
            "of a pair must be of one size, and there are 8x8 .* and 8x6",
        ),
        (f"train floats --condition_column told {TRAIN}", "in column 'told' cannot be used .* of 32-bit floats"),
        (
            f"train colours --condition_column told --init_from pairs {TRAIN}",
            r"told images of 1 channel\(s\), and those of condition_column='told' have 3",
        ),
        (
            "evaluate pairs --dataset colours --condition_column told --split train --num_images 2 --output new",
            r"have 4 channel\(s\) and the network takes 2",
        ),
        (
            "evaluate upscaler --dataset colours --condition_column told --split train --num_images 2 --output new",
            "condition_column='told' is for a network of pairs, and this one is of another kind",
        ),
        # a low resolution that does not divide
        (f"train sizes --image_column image --low_resolution 3 {TRAIN}", "low_resolution=3 must divide .* 1, 2, 4"),
        # stages that do not fit
        ("cascade plain upscaler --output_dir new", r"height and width \(4, 4\), and the stage before makes \(8, 8\)"),
        ("cascade small upscaler_colours --output_dir new", "for channels 3, and the stage before makes 1"),
        ("cascade small_classes upscaler_classes --output_dir new", "for classes 2, and the stage before makes 3"),
        (
            "cascade small_deep upscaler --output_dir new",
            r"for values \(0, 255\), and the stage before makes \(0, 65535\)",
        ),
        ("cascade small plain --output_dir new", "Stage 2 of the cascade enlarges no images"),
        ("cascade upscaler upscaler --output_dir new", "The first stage is told a condition image"),
        ("cascade small upscaler_numbers --output_dir new", "A stage is told a number of each image"),
        # levels and numbers out of range
        ("upscale upscaler picture.png --augmentation_level 0.1", "is for a model that was trained with noise"),
        ("upscale upscaler_levels picture.png --augmentation_level 0.6", r"must be in \[0, 0.5\]"),
        ("upscale upscaler picture.png --tile_overlap 1", r"tile_overlap=1.0 must be in \[0, 1\)"),
        ("sample plain --value 3", "need a class-conditional model, or one that is told numbers"),
        (
            "sample numbers",
            "This model is told a number for each sample: give class_labels, or --value, such as 0 to 1",
        ),
        ("sample numbers --value nan", "there is nan"),
        ("sample numbers --value 1 --class 2", "--class 2 and --value 1 are for different models"),
        # 16 bits and floats
        ("upscale upscaler_floats floats.tiff", r"with values in \(-3, 7\), which no PNG holds: call the pipeline"),
        ("edit small_deep picture.png --invert", "--invert shows noise in 8 bits, and this model makes other images"),
    ],
)
def test_one_sentence_before_the_work(place, monkeypatch, words, message):
    monkeypatch.chdir(place)
    verb, *others = words.split()
    steps = [] if verb in ("train", "cascade") else ["--steps", "2"]
    result = CliRunner().invoke(cli.app, [verb, *others, *steps])
    assert result.exit_code != 0
    said = " ".join(f"{result.exception} {result.output}".split())
    assert re.search(message, said), said
    assert not (place / "new").exists() and not list(place.glob("*_*.png"))
