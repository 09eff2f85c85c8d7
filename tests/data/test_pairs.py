"""Pairs of images: read, checked, decoded together, and trained on end to end."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from typer.testing import CliRunner

from ddpm_hf import GaussianDiffusionPipeline, cli
from ddpm_hf.data import DataArguments, draw_images, open_images
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation.run import evaluate_bits_per_dim
from ddpm_hf.samples.condition_images import condition_of
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.train import train

NUMBER = 12


@pytest.fixture
def colours():
    """Images of 8x8 in colour."""
    return np.random.default_rng(0).integers(0, 256, (NUMBER, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def pairs(tmp_path, colours):
    """A folder with `metadata.csv`: pictures in colour, and their red channel as grey pictures."""
    folder = tmp_path / "pairs"
    (folder / "grey").mkdir(parents=True)
    for i, image in enumerate(colours):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
        Image.fromarray(image[..., 0]).save(folder / "grey" / f"{i:02d}.png")
    write_metadata(folder, [(f"{i:02d}.png", f"grey/{i:02d}.png") for i in range(NUMBER)])
    return folder


def write_metadata(folder, rows):
    lines = ["file_name,grey_file_name", *(",".join(row) for row in rows)]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def options(folder, **more):
    return DataArguments(dataset=str(folder), condition_column="grey", **more)


def test_a_pair_is_one_image_of_more_channels(pairs, colours):
    source = open_images(options(pairs), None)
    assert source.channels == 3 and source.condition_channels == 1
    assert source.samples.shape == (3, 8, 8) and source.samples.data_channels == 4
    images = source.decode()["images"]
    assert_close(images[:, :3], torch.from_numpy(colours).permute(0, 3, 1, 2))
    assert_close(images[:, 3], torch.from_numpy(colours[..., 0]))
    few = draw_images(source, 3, seed=0).decode()["images"]
    assert all(any(torch.equal(one, other) for other in images) for one in few)


@pytest.mark.parametrize("limits", [(0, 0, None), (0, 0, 1), (0, 0, 0), (0, 0, 0, 7)])
def test_pairs_are_cropped_together_wherever_they_are_kept(pairs, limits):
    """From a memory map, on demand, and at random places; the grey is the red of the same place."""
    data = open_images(options(pairs, resolution=4), None).load(*limits)
    batch = data.__getitems__(np.array([3, 5]))["images"]
    assert batch.shape == (2, 4, 4, 4)
    assert_close(batch[:, 3], batch[:, 0], atol=1, rtol=0)


def test_the_fingerprint_is_of_both(pairs, colours):
    before = open_images(options(pairs), None).fingerprint
    Image.fromarray(255 - colours[0, ..., 0]).save(pairs / "grey" / "00.png")
    assert open_images(options(pairs), None).fingerprint != before


def test_pairs_that_do_not_match(pairs, colours):
    for message, change in (
        (r"1 of 12 pairs have no image in column 'grey' \(rows 2, counted from 0\)", {2: ("02.png", "")}),
        (r"The images of a pair must be of one size, and there are 8x8 in 'image' .*03.png.* and 4x4 in 'grey'", {}),
    ):
        if not change:
            Image.fromarray(colours[3, :4, :4, 0]).save(pairs / "grey" / "03.png")
        rows = [(f"{i:02d}.png", f"grey/{i:02d}.png") for i in range(NUMBER)]
        write_metadata(pairs, [change.get(i, row) for i, row in enumerate(rows)])
        with pytest.raises(InputError, match=message):
            open_images(options(pairs), None)


def test_two_folders_with_equal_names(tmp_path, colours, pairs):
    """The suffix and the order of the files may differ; names that are missing are told."""
    for i, image in enumerate(colours):
        for kind, picture in (("colour", image), ("red", image[..., 0])):
            path = tmp_path / kind / ("a" if i % 2 else "b") / f"{i:02d}.{'png' if kind == 'colour' else 'bmp'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    told = {"condition_column": str(tmp_path / "red")}
    images = open_images(DataArguments(dataset=str(tmp_path / "colour"), **told), None).decode()["images"]
    assert images.shape == (NUMBER, 4, 8, 8) and torch.equal(images[:, 3], images[:, 0])
    for i in (1, 3):
        (tmp_path / "red" / "a" / f"{i:02d}.bmp").unlink()
    with pytest.raises(InputError, match=f"2 of {NUMBER} images have no file of the same name in .*: a/01, a/03"):
        open_images(DataArguments(dataset=str(tmp_path / "colour"), **told), None)
    with pytest.raises(InputError, match="only a folder of image files is completed"):
        open_images(DataArguments(**told), None)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"condition_column": "blue"}, "condition_column='blue' does not exist: choose image or grey"),
        ({"condition_column": "grey", "image_column": "grey"}, "image_column and condition_column are both 'grey'"),
    ],
)
def test_columns_that_are_no_pair(pairs, changes, message):
    with pytest.raises(InputError, match=message):
        open_images(DataArguments(dataset=str(pairs), **changes), None)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"low_resolution": 4}, "low_resolution=4 makes condition images, and condition_column='grey' has some"),
    ],
)
def test_options_that_do_not_go_with_pairs(changes, message):
    with pytest.raises(InputError, match=message):
        TrainingArguments(dataset="pairs", condition_column="grey", **changes)


def test_from_a_folder_of_pairs_to_a_coloured_picture(pairs, tmp_path, tiny_network):
    """Trained, resumed, sampled by the command, scored; and refused without the column."""
    run = tmp_path / "run"
    flags = ["--unet", tiny_network(), "--max_train_steps", "2", "--batch_size", "4", "--num_samples", "2"]
    small = ["--random_flip", "--condition_dropout", "0.5", "--sample_steps", "2", "--output_dir", str(run)]
    trained = CliRunner().invoke(cli.app, ["train", str(pairs), "--condition_column", "grey", *flags, *small])
    assert trained.exit_code == 0, trained.output
    assert f"ddpm-hf sample {run} --condition_image IMAGE" in trained.output
    pipeline = GaussianDiffusionPipeline.from_pretrained(run)
    assert condition_of(pipeline.unet.config) == (1, None, "lanczos", None, True)
    assert pipeline.unet.config.out_channels == 3
    assert "condition_image=" in (run / "README.md").read_text(encoding="utf-8")
    picture = str(pairs / "grey" / "00.png")
    args = ["sample", str(run), "--condition_image", picture, "--guidance_scale", "2", "--steps", "2"]
    drawn = CliRunner().invoke(cli.app, [*args, "--num_images", "4", "--output", str(tmp_path / "colour.png")])
    assert drawn.exit_code == 0, drawn.output
    assert Image.open(tmp_path / "colour.png").mode == "RGB"
    data = options(pairs)
    scored = evaluate_bits_per_dim(str(run), tmp_path / "scores", data, num_images=2, steps=2)
    assert len(scored.per_image) == 2
    with pytest.raises(InputError, match="told the images of pairs: name the column"):
        evaluate_bits_per_dim(str(run), tmp_path / "others", DataArguments(dataset=str(pairs), image_column="image"))
    again = {"init_from": str(run), "dataset": str(pairs), "max_train_steps": 1, "output_dir": str(tmp_path / "more")}
    with pytest.raises(InputError, match="is told the images of pairs: name their column"):
        train(TrainingArguments(**again, image_column="image", batch_size=4))
    with pytest.raises(ValueError, match="This model needs a condition image: give condition_image="):
        pipeline(num_inference_steps=1)
