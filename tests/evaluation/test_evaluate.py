"""`evaluate` with metrics of samples: figures, resuming, images in place of a model, references, and mistakes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from ddpm_hf import DDPMUNet2DModel, GaussianDiffusionPipeline
from ddpm_hf.data import open_images
from ddpm_hf.data.arguments import DataArguments
from ddpm_hf.errors import InputError
from ddpm_hf.evaluation import image_sets
from ddpm_hf.evaluation.distances import FeatureStatistics, frechet_distance
from ddpm_hf.evaluation.evaluate import evaluate
from ddpm_hf.evaluation.features import load_features
from ddpm_hf.evaluation.image_archives import read_images, write_images
from ddpm_hf.pipelines.image_grids import sample_images


@pytest.fixture
def data(dark_and_bright):
    return DataArguments(dataset=dark_and_bright, split="test")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "norm_num_groups": 4}
    unet = DDPMUNet2DModel(sample_size=8, in_channels=1, block_out_channels=(8, 16), layers_per_block=1, **blocks)
    folder = tmp_path_factory.mktemp("model")
    GaussianDiffusionPipeline(unet, DDPMScheduler(num_train_timesteps=10, beta_end=0.8)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def feature_network(tmp_path_factory):
    """The folder of a classifier with random weights, which need not tell anything apart here."""
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    folder = tmp_path_factory.mktemp("features")
    ResNetForImageClassification(ResNetConfig(num_channels=1, num_labels=2, **sizes)).save_pretrained(folder)
    ViTImageProcessor(do_resize=False, image_mean=[0.5], image_std=[0.5]).save_pretrained(folder)
    return str(folder)


def images_of(data):
    return open_images(data, None).decode()["images"]


@pytest.fixture
def options(feature_network):
    return {"features": feature_network, "num_images": 45, "steps": 2, "batch_size": 20, "device": "cpu"}


def figures(folder):
    written = json.loads((folder / "measures.json").read_text(encoding="utf-8"))
    return {figure["name"]: figure for figure in written["figures"]}


EVERYTHING = "bpd,fd,kid,prdc,is,channels,memorisation"


def test_everything_at_once(tmp_path, model, data, options, capsys):
    report = evaluate(model, tmp_path / "new", EVERYTHING, data, keep_samples=True, save_reference=True, **options)
    found = figures(tmp_path / "new")
    assert [*found] == [
        *("fd", "kid", "precision", "recall", "density", "coverage", "is"),
        *("channel_0_mean", "channel_0_deviation", "memorisation", "memorisation_pixels"),
    ]
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        *("bpd.json", "bpd.png", "measures.json", "measures.md", "memorisation.png", "samples.npz"),
        f"reference_{options['features'].split('/')[-1]}.npz",
    }
    pipeline = GaussianDiffusionPipeline.from_pretrained(model)
    samples = read_images(tmp_path / "new" / "samples.npz")
    drawn = sample_images(pipeline, 45, num_inference_steps=2)
    assert np.abs(np.stack([np.asarray(each) for each in drawn]).astype(int) - samples[:, 0].numpy()).max() <= 1
    see, images = load_features(options["features"]), images_of(data)
    assert found["fd"]["value"] == pytest.approx(frechet_distance(see(samples), see(images)), rel=1e-3)
    assert found["fd"]["standard_error"] > 0 and found["fd"]["features"]["preprocessing"] == "not resized"
    assert found["kid"]["floor"] == {"value": pytest.approx(0, abs=0.2), "num_samples": 20, "num_reference": 20}
    assert found["fd"]["floor"] is None
    mean = samples.double().mean() - images.double().mean()
    assert found["channel_0_mean"]["value"] == pytest.approx(mean.item(), rel=1e-4)
    written = json.loads((tmp_path / "new" / "measures.json").read_text(encoding="utf-8"))
    assert written["samples"]["count"] == 45 and written["samples"]["num_inference_steps"] == 2
    assert written["reference"]["count"] == 40 and written["reference"]["name"].endswith(", test")
    assert report.figures[0].estimate.value == found["fd"]["value"]
    assert Image.open(tmp_path / "new" / "memorisation.png").width > 300
    printed = capsys.readouterr().out
    assert "45 samples: 6 network calls in each process" in printed and "measure" in printed


class Killed(BaseException):
    """The end of a process that nothing can catch."""


def test_it_continues_where_it_was_killed(tmp_path, model, data, options, monkeypatch):
    evaluate(model, tmp_path / "whole", "fd,channels", data, **options)
    draw, drawn = image_sets.draw_levels, []

    def killed_in_the_second_batch(pipeline, seeds, *args, **sampling):
        drawn.append(seeds[0])
        if len([first for first in drawn if first == 20]) == 1 and seeds[0] == 20:
            raise Killed
        return draw(pipeline, seeds, *args, **sampling)

    monkeypatch.setattr(image_sets, "draw_levels", killed_in_the_second_batch)
    with pytest.raises(Killed):
        evaluate(model, tmp_path / "new", "fd,channels", data, **options)
    before = len(drawn)
    with pytest.raises(InputError, match="was begun with another seed .0 instead of 1"):
        evaluate(model, tmp_path / "new", "fd,channels", data, seed=1, **options)
    drawn_again = len(drawn)
    evaluate(model, tmp_path / "new", "fd,channels", data, **options)
    # Two batches time a step; then the batches follow that were not there yet.
    assert drawn[drawn_again:] == [0, 0, 20, 40] and before == 4
    assert figures(tmp_path / "new") == figures(tmp_path / "whole")
    assert not (tmp_path / "new" / "evaluation_state").exists()


def test_samples_may_be_drawn_in_half_precision_and_stay_in_it(tmp_path, model, data, options, monkeypatch):
    """Another precision is refused, none goes on in that which was begun, and the likelihood is computed in float32."""
    exact = evaluate(model, tmp_path / "exact", "bpd", data, steps=2, batch_size=20, precision="fp32")
    half, out = options | {"precision": "bf16"}, tmp_path / "new"

    def killed(*args, **sampling):
        raise Killed

    with monkeypatch.context() as context:
        context.setattr(image_sets, "draw_levels", killed)
        with pytest.raises(Killed):
            evaluate(model, out, "bpd,fd", data, **half)
    with pytest.raises(InputError, match="begun with another precision .bf16 instead of fp32"):
        evaluate(model, out, "bpd,fd", data, **options | {"precision": "fp32"})
    report = evaluate(model, out, "bpd,fd", data, **options)
    assert report.samples["precision"] == "bf16 weights"
    written = json.loads((out / "bpd.json").read_text(encoding="utf-8"))
    assert written["total"] == pytest.approx(exact["bpd"].total, rel=1e-6)
    with pytest.raises(InputError, match="metrics=bpd draws no samples, and is computed in float32, so --precision"):
        evaluate(model, tmp_path / "other", "bpd", data, precision="bf16")


def test_results_are_never_overwritten(tmp_path, model, data, options):
    (tmp_path / "measures.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="measures.json is already there"):
        evaluate(model, tmp_path, "fd", data, **options)


@pytest.fixture
def samples(tmp_path):
    """48 images as an archive and as a folder of PNG files."""
    levels = torch.randint(40, 160, (48, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    write_images(tmp_path / "samples.npz", levels.shape, [levels.numpy()])
    (tmp_path / "pngs").mkdir()
    for number, image in enumerate(levels):
        Image.fromarray(image[0].numpy()).save(tmp_path / "pngs" / f"{number:03}.png")
    return levels


def test_images_in_place_of_a_model(tmp_path, samples, data, feature_network):
    for name in ("samples.npz", "pngs"):
        evaluate(tmp_path / name, tmp_path / f"of_{name}", "fd,kid,channels", data, features=feature_network)
    archive, folder = figures(tmp_path / "of_samples.npz"), figures(tmp_path / "of_pngs")
    assert archive == folder
    images = images_of(data)
    see = load_features(feature_network)
    assert archive["fd"]["value"] == pytest.approx(frechet_distance(see(samples), see(images)), rel=1e-3)


def test_images_against_images(tmp_path, samples, feature_network):
    """An archive may be the reference too; images against themselves have the distance 0."""
    archive = str(tmp_path / "samples.npz")
    evaluate(archive, tmp_path / "new", "fd,prdc", reference=archive, features=feature_network)
    found = figures(tmp_path / "new")
    assert found["fd"]["value"] == pytest.approx(0, abs=1e-6) and found["coverage"]["value"] == 1


def test_copies_of_training_images_are_told(tmp_path, data, dark_and_bright, feature_network):
    train = images_of(DataArguments(dataset=dark_and_bright))
    write_images(tmp_path / "copies.npz", train.shape, [train.numpy()])
    evaluate(tmp_path / "copies.npz", tmp_path / "new", "memorisation", data, features=feature_network)
    found = figures(tmp_path / "new")
    assert found["memorisation"]["value"] == found["memorisation_pixels"]["value"] == 1
    assert found["memorisation_pixels"]["floor"]["value"] == pytest.approx(0.5, abs=0.3)


def test_saved_statistics_stand_for_the_reference(tmp_path, samples, data, feature_network):
    archive = tmp_path / "samples.npz"
    evaluate(archive, tmp_path / "a", "fd", data, features=feature_network, save_reference=True)
    (saved,) = (tmp_path / "a").glob("reference_*.npz")
    evaluate(archive, tmp_path / "b", "fd", reference=str(saved), features=feature_network)
    with np.load(saved) as arrays:
        np.savez(tmp_path / "others.npz", mu=arrays["mu"], sigma=arrays["sigma"])  # as EDM writes them
    evaluate(archive, tmp_path / "c", "fd", reference=str(tmp_path / "others.npz"), features=feature_network)
    values = [figures(tmp_path / name)["fd"]["value"] for name in "abc"]
    assert values == pytest.approx([values[0]] * 3, rel=1e-9)
    counts = [json.loads((tmp_path / name / "measures.json").read_text())["reference"]["count"] for name in "abc"]
    assert counts == [40, 40, None]


def statistics(tmp_path, dimensions=16, **about):
    features = FeatureStatistics(torch.randn(200, dimensions))
    arrays = {"mu": features.mean.numpy(), "sigma": features.covariance.numpy()}
    if about:
        arrays["ddpm_hf"] = np.array(json.dumps(about))
    np.savez(tmp_path / "statistics.npz", **arrays)
    return str(tmp_path / "statistics.npz")


def test_references_that_do_not_fit(tmp_path, samples, feature_network):
    def measured(metrics, reference):
        evaluate(tmp_path / "samples.npz", tmp_path / "new", metrics, reference=reference, features=feature_network)

    with pytest.raises(InputError, match="of another preprocessing .'enlarged', and here it is 'not resized'"):
        measured("fd", statistics(tmp_path, preprocessing="enlarged"))
    with pytest.raises(InputError, match="has 16 features: the statistics are of another network"):
        measured("fd", statistics(tmp_path, dimensions=8))
    with pytest.raises(InputError, match="metrics='kid' needs the reference images"):
        measured("kid", statistics(tmp_path))
    np.savez(tmp_path / "other.npz", features=np.zeros(3))
    with pytest.raises(InputError, match="has the arrays features: an .npz has images in arr_0"):
        measured("fd", str(tmp_path / "other.npz"))
    (tmp_path / "broken.npz").write_bytes(b"PK no archive")
    with pytest.raises(InputError, match="broken.npz cannot be read as an .npz file"):
        measured("fd", str(tmp_path / "broken.npz"))
    with pytest.raises(InputError, match="There is no file .*none.npz"):
        measured("fd", str(tmp_path / "none.npz"))
    assert not (tmp_path / "new").exists()


def test_images_that_do_not_fit(tmp_path, samples, data, feature_network):
    colours = torch.randint(256, (48, 3, 8, 8), dtype=torch.uint8).numpy()
    write_images(tmp_path / "colours.npz", colours.shape, [colours])
    with pytest.raises(InputError, match="Images of 3 channels do not fit a feature network for 1"):
        evaluate(tmp_path / "colours.npz", tmp_path / "new", "fd", data, features=feature_network)
    with pytest.raises(
        InputError, match="Samples of 3x8x8 and reference images of 1x8x8 .* have no channels in common"
    ):
        evaluate(tmp_path / "colours.npz", tmp_path / "new", "channels", data, features=feature_network)
    np.savez(tmp_path / "floats.npz", arr_0=np.zeros((4, 8, 8, 1)))
    with pytest.raises(InputError, match="has float64 .* in arr_0, and images are uint8"):
        evaluate(tmp_path / "floats.npz", tmp_path / "new", "fd", data, features=feature_network)
    with pytest.raises(InputError, match="statistics and no images: give it as --reference"):
        evaluate(statistics(tmp_path), tmp_path / "new", "fd", data, features=feature_network)
    with pytest.raises(InputError, match="has images and no model, so --steps has no effect"):
        evaluate(tmp_path / "samples.npz", tmp_path / "new", "fd", data, features=feature_network, steps=3)
    with pytest.raises(InputError, match="has images and no model, which metrics='bpd' measures"):
        evaluate(tmp_path / "samples.npz", tmp_path / "new", "fd,bpd", data, features=feature_network)


def test_images_of_another_size_are_resized_and_that_is_said(tmp_path, data, feature_network):
    levels = torch.randint(40, 160, (48, 1, 12, 12), dtype=torch.uint8)
    write_images(tmp_path / "larger.npz", levels.shape, [levels.numpy()])
    evaluate(tmp_path / "larger.npz", tmp_path / "new", "channels", data, features=feature_network)
    written = json.loads((tmp_path / "new" / "measures.json").read_text(encoding="utf-8"))
    assert written["reference"]["resizing"] == "images of 8x8 are resized to 12x12"


def test_mistakes_before_anything_is_sampled(tmp_path, model, data, options, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("something was sampled")

    monkeypatch.setattr(image_sets, "draw_levels", never)
    with pytest.raises(InputError, match="metrics='fdi' is not one of"):
        evaluate(model, tmp_path / "new", "fdi", data, **options)
    with pytest.raises(InputError, match="metrics=bpd draws no samples, so --keep_samples has no effect"):
        evaluate(model, tmp_path / "new", "bpd", data, keep_samples=True)
    with pytest.raises(InputError, match="metrics='fd' needs at least 40 samples.* num_images=39"):
        evaluate(model, tmp_path / "new", "fd", data, **options | {"num_images": 39})
    with pytest.raises(InputError, match="--extrapolate needs at least 64 samples in the 16 features"):
        evaluate(model, tmp_path / "new", "fd", data, extrapolate=True, **options)
    with pytest.raises(InputError, match="holds no config.json"):
        evaluate(model, tmp_path / "new", "fd", data, **options | {"features": str(tmp_path)})
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(tmp_path, model, dark_and_bright, feature_network, on_two_processes):
    common = [model, "--metrics", EVERYTHING, "--dataset", dark_and_bright, "--features", feature_network]
    common += ["--num_images", "45", "--steps", "2", "--batch_size", "10", "--device", "cpu"]
    from ddpm_hf.cli import app

    app(["evaluate", *common, "--output", str(tmp_path / "one")], standalone_mode=False)
    on_two_processes("-m", "ddpm_hf.cli", "evaluate", *common, "--output", str(tmp_path / "two"))
    one, two = figures(tmp_path / "one"), figures(tmp_path / "two")
    assert [*one] == [*two]
    for name, figure in one.items():
        assert two[name]["value"] == pytest.approx(figure["value"], rel=1e-6, abs=1e-9), name


MEMORY = """
import resource, sys
from ddpm_hf.evaluation.evaluate import evaluate
evaluate(sys.argv[1], sys.argv[2], "fd,kid,prdc,channels", reference=sys.argv[3], features=sys.argv[4], device="cpu")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_ten_thousand_images_need_bounded_memory(tmp_path, feature_network):
    """Matrices of distances of all pairs would take 800 MB each."""
    needed = []
    for count in (1000, 10_000):
        levels = np.random.default_rng(count).integers(256, size=(count, 1, 32, 32), dtype=np.uint8)
        write_images(tmp_path / f"{count}.npz", levels.shape, [levels])
        places = [tmp_path / f"{count}.npz", tmp_path / str(count), tmp_path / f"{count}.npz", feature_network]
        command = [sys.executable, "-c", MEMORY, *map(str, places)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        needed.append(float(done.stdout.splitlines()[-1]))
    assert needed[1] - needed[0] < 500, needed


@pytest.fixture
def told_data(tmp_path):
    """Grey images of 8x12 in a folder, each with a darker copy and a number beside."""
    folder = tmp_path / "told_data"
    (folder / "dark").mkdir(parents=True)
    lines = ["file_name,dark_file_name,number"]
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (45, 8, 12), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        Image.fromarray(pixels // 2).save(folder / "dark" / f"{number:02d}.png")
        lines.append(f"{number:02d}.png,dark/{number:02d}.png,{number}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"dataset": str(folder), "image_column": "image", "split": "train"}


@pytest.mark.parametrize(
    "network, told",
    [
        ({"in_channels": 2, "condition_channels": 1, "low_resolution": (4, 6)}, {}),
        ({"in_channels": 2, "condition_channels": 1}, {"condition_column": "dark"}),
        ({"condition_value_range": (0, 44)}, {"value_column": "number"}),
    ],
)
def test_samples_are_told_what_the_images_of_the_reference_are(tmp_path, tiny_unet, told_data, options, network, told):
    unet = tiny_unet(sample_size=(8, 12), **network)
    GaussianDiffusionPipeline(unet, DDPMScheduler(num_train_timesteps=10, beta_end=0.8)).save_pretrained(
        tmp_path / "told"
    )
    data = DataArguments(**told_data, **told)
    evaluate(str(tmp_path / "told"), tmp_path / "new", "fd,channels", data, keep_samples=True, **options)
    samples = read_images(tmp_path / "new" / "samples.npz")
    order = torch.randperm(45, generator=torch.Generator().manual_seed(0))
    pipeline = GaussianDiffusionPipeline.from_pretrained(tmp_path / "told")
    pixels = torch.from_numpy(
        np.stack([np.asarray(Image.open(f)) for f in sorted((tmp_path / "told_data").glob("*.png"))])
    )
    image = (pixels // 2 if "condition_column" in told else pixels)[order[7], None, None] / 255
    if pipeline.samples.condition is not None:
        if "low_resolution" in network:
            image = pipeline.samples.condition.of_image(2 * image - 1) / 2 + 0.5
        given = {"condition_image": image}
    else:
        given = {"class_labels": float(order[7])}
    alone = pipeline(generator=[torch.Generator().manual_seed(7)], num_inference_steps=2, **given).images[0]
    assert np.abs(np.asarray(alone).astype(int) - samples[7, 0].numpy()).max() <= 1
    write_images(tmp_path / "archive.npz", (45, 1, 8, 12), [samples.numpy()])
    with pytest.raises(InputError, match="name the data with --dataset, and leave out --reference"):
        evaluate(
            str(tmp_path / "told"), tmp_path / "no", "fd", data, reference=str(tmp_path / "archive.npz"), **options
        )


def test_pictures_of_16_bits_are_measured_in_8(tmp_path, options):
    pixels = np.random.default_rng(0).integers(0, 256, (45, 8, 8), dtype=np.uint16)
    for depth, values in (("eight", pixels.astype(np.uint8)), ("sixteen", 257 * pixels)):
        (tmp_path / depth).mkdir()
        for number, image in enumerate(values):
            Image.fromarray(image).save(tmp_path / depth / f"{number:02d}.png")
    options = {name: options[name] for name in ("features", "batch_size", "device")}
    data = DataArguments(dataset=str(tmp_path / "eight"), split="train")
    evaluate(str(tmp_path / "sixteen"), tmp_path / "new", "fd,channels", data, **options)
    assert figures(tmp_path / "new")["fd"]["value"] == pytest.approx(0, abs=1e-4)
