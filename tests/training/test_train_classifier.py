"""Training of a classifier from a model and labelled images to the model with its classifier."""

import json
import os

import numpy as np
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, LDMPipeline, VQModel
from measured_precision import CHOSEN, check_measured_precision
from torch.nn.functional import cross_entropy

from ddpm_hf import GaussianDiffusionPipeline, GaussianDiffusionScheduler, NoisyImageClassifier
from ddpm_hf.errors import InputError
from ddpm_hf.reports.loss_curve import read_rows
from ddpm_hf.training.argument_parsing import parse_arguments
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.classifier_accuracy import accuracy_by_quarter, accuracy_report, accuracy_table
from ddpm_hf.training.classifier_arguments import ClassifierArguments
from ddpm_hf.training.classifier_objective import make_classifier_objective
from ddpm_hf.training.train import train
from ddpm_hf.training.train_classifier import main, train_classifier

WEIGHTS = "classifier/diffusion_pytorch_model.safetensors"


def bright_and_dark(count, labels=(0, 1), num_classes=2, size=8, label=None):
    """Grey images of two classes: the upper half is bright, or the lower half; with some noise."""
    rng = np.random.default_rng(0)
    classes = [labels[i % len(labels)] for i in range(count)]
    pixels = rng.integers(0, 60, (count, size, size))
    for image, c in zip(pixels, classes, strict=True):
        image[slice(0, size // 2) if c else slice(size // 2, size)] += 180
    features = Features({"image": Image(), "label": label or ClassLabel(num_classes)})
    return Dataset.from_dict({"image": list(pixels.astype(np.uint8)), "label": classes}, features=features)


@pytest.fixture
def data(tmp_path):
    DatasetDict(train=bright_and_dark(40), test=bright_and_dark(12)).save_to_disk(tmp_path / "data")
    return str(tmp_path / "data")


@pytest.fixture
def stock_model(stock_unet, tmp_path):
    DDPMPipeline(stock_unet, DDPMScheduler(num_train_timesteps=100)).save_pretrained(tmp_path / "stock")
    return str(tmp_path / "stock")


@pytest.fixture
def options(tmp_path, data, stock_model):
    return {
        **{
            "model": stock_model,
            "dataset": data,
            "eval_split": "test",
            "output_dir": str(tmp_path / "run"),
            "width": 8,
        },
        **{"max_train_steps": 6, "batch_size": 4, "log_every": 2, "checkpoint_every": 2, "seed": 3, "dropout": 0.3},
        **{"ema_power": 0.5, "learning_rate": 1e-2},
    }


def test_it_learns_what_noise_leaves_to_see(options, capsys):
    """Two classes that little noise does not hide, and that nobody can tell apart where the image is all noise."""
    folder = train_classifier(
        ClassifierArguments(**options | {"max_train_steps": 50, "batch_size": 16, "dropout": 0.0})
    )
    report = json.loads((folder / "accuracy.json").read_text(encoding="utf-8"))
    assert [(q["first"], q["last"]) for q in report["quarters"]] == [(0, 24), (25, 49), (50, 74), (75, 99)]
    assert report["quarters"][0]["accuracy"] == 1
    assert report["num_images"] == 12 and report["commonest_class"] == 0.5 and report["split"] == "test"
    assert accuracy_table(report) in capsys.readouterr().out
    rows = read_rows(folder / "loss.csv")
    assert rows[0]["loss"] > 0.5 and rows[-1]["loss"] < 0.2
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_result_is_the_model_with_a_classifier_of_the_averaged_weights(options, saved_averages):
    folder = train_classifier(ClassifierArguments(**options))
    classifier = NoisyImageClassifier.from_pretrained(folder, subfolder="classifier")
    pipeline = GaussianDiffusionPipeline.from_pretrained(folder)
    sampled = pipeline(class_labels=[0, 1], classifier_guidance_scale=1.0, num_inference_steps=2, output_type="np")
    assert sampled.images.shape == (2, 8, 8, 1)
    assert isinstance(pipeline.classifier, NoisyImageClassifier)
    averaged = saved_averages(folder / "checkpoints/step-000006")
    parts = zip(classifier.parameters(), pipeline.classifier.parameters(), averaged, strict=True)
    assert all(torch.equal(alone, average) and torch.equal(within, average) for alone, within, average in parts)
    weights = DDPMPipeline.from_pretrained(options["model"]).unet.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in pipeline.unet.state_dict().items())
    assert classifier.config.num_classes == 2 and classifier.config.block_out_channels == [8]
    assert yaml.safe_load((folder / "training_args.yaml").read_text(encoding="utf-8"))["model"] == options["model"]


def test_the_loss_is_that_of_the_process_of_the_model():
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=20, beta_schedule="squaredcos_cap_v2")
    torch.manual_seed(0)
    images, noise = torch.randn(2, 4, 1, 8, 8)
    timesteps, labels = torch.tensor([0, 7, 13, 19]), torch.tensor([0, 1, 2, 1])
    classifier = NoisyImageClassifier(8, 1, 3, (8,), ("DownBlock2D",), attention_head_dim=8)
    losses = make_classifier_objective(scheduler)(classifier, images, timesteps, labels, noise)
    alphas_bar = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    noisy = alphas_bar.sqrt() * images + (1 - alphas_bar).sqrt() * noise
    expected = [cross_entropy(classifier(noisy[i : i + 1], timesteps[i]), labels[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(losses, torch.stack(expected))


class SeesTheHalf(torch.nn.Module):
    """Right about what `bright_and_dark` made, as long as the timestep is below 50; then it says 0."""

    device = torch.device("cpu")

    def forward(self, sample, timestep):
        upper, lower = sample[:, :, :4].mean((1, 2, 3)), sample[:, :, 4:].mean((1, 2, 3))
        return torch.stack([torch.zeros(len(sample)), torch.where(timestep < 50, upper - lower, -1.0)], dim=1)


def test_accuracy_counts_each_image_once_in_each_quarter():
    rows = bright_and_dark(13)
    images = torch.tensor(np.array([np.asarray(image) for image in rows["image"]]))[:, None]
    labels = torch.tensor(rows["label"])
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=100, beta_end=1e-3)  # little noise
    quarters = accuracy_by_quarter(SeesTheHalf(), scheduler, images, labels, batch_size=5)
    assert [q.accuracy for q in quarters] == [1, 1, 7 / 13, 7 / 13]
    assert [q.standard_error for q in quarters] == pytest.approx([0, 0, *[(7 * 6 / 13**3) ** 0.5] * 2])
    assert quarters == accuracy_by_quarter(SeesTheHalf(), scheduler, images, labels, batch_size=13)
    assert accuracy_report(quarters, labels, "test")["commonest_class"] == 7 / 13
    short = accuracy_by_quarter(SeesTheHalf(), GaussianDiffusionScheduler(num_train_timesteps=3), images, labels)
    assert [(q.first, q.last) for q in short] == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize(
    "changes",
    [{"timestep_sampling": "low_discrepancy", "gradient_accumulation_steps": 2}, {"mixed_precision": "bf16"}],
)
def test_resumed_is_uninterrupted(options, tmp_path, changes):
    options |= changes
    train_classifier(ClassifierArguments(**options | {"max_train_steps": 3}))
    resumed = train_classifier(ClassifierArguments(**options))
    straight = train_classifier(ClassifierArguments(**options | {"output_dir": str(tmp_path / "straight")}))
    assert (resumed / WEIGHTS).read_bytes() == (straight / WEIGHTS).read_bytes()
    assert (resumed / "accuracy.json").read_text(encoding="utf-8") == (straight / "accuracy.json").read_text(
        encoding="utf-8"
    )


def test_a_finished_run_says_so_and_does_nothing(options, capsys):
    folder = train_classifier(ClassifierArguments(**options))
    before = (folder / WEIGHTS).stat().st_mtime_ns
    train_classifier(ClassifierArguments(**options | {"num_eval_images": 5}))  # which a run may change
    assert "is finished at step 6" in capsys.readouterr().out
    assert (folder / WEIGHTS).stat().st_mtime_ns == before


def test_levels_follow_the_size(options, tmp_path, tiny_unet):
    pipeline = GaussianDiffusionPipeline(tiny_unet(sample_size=18), GaussianDiffusionScheduler(num_train_timesteps=10))
    pipeline.save_pretrained(tmp_path / "larger")
    args = ClassifierArguments(**options | {"model": str(tmp_path / "larger"), "max_train_steps": 1, "width": 16})
    config = NoisyImageClassifier.from_pretrained(train_classifier(args), subfolder="classifier").config
    assert config.sample_size == 18 and config.block_out_channels == [16, 32, 48]
    assert config.down_block_types == ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"]  # 18, 9 and 5 pixels


def test_images_of_another_size_are_resized_with_a_note(options, tmp_path, capsys):
    train_classifier(ClassifierArguments(**options | {"max_train_steps": 1}))
    assert "resized" not in capsys.readouterr().out
    larger = bright_and_dark(8, size=16, label=Value("int64"))
    larger.to_parquet(tmp_path / "larger.parquet")
    changes = {"dataset": str(tmp_path / "larger.parquet"), "eval_split": None, "label_column": "label"}
    changes |= {"output_dir": str(tmp_path / "resized"), "max_train_steps": 1, "num_eval_images": 3}
    folder = train_classifier(ClassifierArguments(**options | changes))
    assert "images of 16x16 are resized to 8x8, the size of the model's" in capsys.readouterr().out
    report = json.loads((folder / "accuracy.json").read_text(encoding="utf-8"))
    assert report["split"] == "train" and report["num_images"] == 3


def test_the_classes_are_those_of_the_model(options, tmp_path, tiny_unet):
    scheduler = GaussianDiffusionScheduler(num_train_timesteps=10)
    GaussianDiffusionPipeline(tiny_unet(num_classes=3), scheduler).save_pretrained(tmp_path / "three")
    with pytest.raises(
        InputError, match=r"labels of the data are not .*The classifier has num_classes=2, the model 3"
    ):
        train_classifier(ClassifierArguments(**options | {"model": str(tmp_path / "three")}))
    assert not os.path.exists(options["output_dir"])


def test_a_model_of_latents_is_refused(options, tmp_path, stock_unet):
    """Its network may have as many channels as an image, and would be taken for one of small images."""
    torch.manual_seed(0)
    options_of_vae = {"in_channels": 1, "out_channels": 1, "latent_channels": 1, "norm_num_groups": 4}
    vae = VQModel(**options_of_vae, block_out_channels=(4,), num_vq_embeddings=4)
    LDMPipeline(vae, stock_unet, DDIMScheduler()).save_pretrained(tmp_path / "latents")
    with pytest.raises(InputError, match="Cannot take model=.*it has a vqvae too, so its network does not see images"):
        train_classifier(ClassifierArguments(**options | {"model": str(tmp_path / "latents")}))


def test_mistakes_in_the_data_are_found_before_anything_is_written(options, tmp_path):
    bright_and_dark(8).remove_columns("label").save_to_disk(tmp_path / "unlabelled")
    bright_and_dark(8, labels=(1,)).save_to_disk(tmp_path / "one_class")
    classes = {"train": bright_and_dark(8), "test": bright_and_dark(8, num_classes=5)}
    DatasetDict(classes).save_to_disk(tmp_path / "more_classes")
    grey = bright_and_dark(8)
    colours = {"image": [image.convert("RGB") for image in grey["image"]], "label": grey["label"]}
    Dataset.from_dict(colours, features=grey.features).save_to_disk(tmp_path / "colours")
    one_split = {"eval_split": None}
    cases = [
        (
            {"dataset": str(tmp_path / "unlabelled"), **one_split},
            "has no column of class labels. The columns are: image",
        ),
        ({"dataset": str(tmp_path / "one_class"), **one_split}, "All 8 images of split 'train' have the label 1"),
        ({"dataset": str(tmp_path / "more_classes")}, "'test' has 5 classes, and split 'train', which is learned, 2"),
        ({"dataset": str(tmp_path / "colours"), **one_split}, r"have 3 channel\(s\), and those of model=.* 1"),
        ({"model": "/no/such/model"}, "/no/such/model is neither a folder here nor a name of a repository"),
        ({"batch_size": 41}, "batch_size=41 is larger"),
        ({"eval_split": "validation"}, "Cannot read split 'validation'"),
    ]
    for changes, message in cases:
        with pytest.raises(InputError, match=message):
            train_classifier(ClassifierArguments(**options | changes))
        assert not os.path.exists(options["output_dir"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "Which model is the classifier for"),
        ({"width": 12}, "width=12 is not allowed: it must be a multiple of 8"),
        ({"layers_per_block": 0}, "layers_per_block=0 .* at least 1"),
        ({"dropout": 1.0}, r"dropout=1.0 .* in \[0, 1\)"),
        ({"num_eval_images": 0}, "num_eval_images=0 .* at least 1"),
        ({"max_train_steps": None}, r"Give --max_train_steps or --num_epochs \(neither was given\)\.$"),
        ({"lr_scheduler": "step"}, "lr_scheduler='step' is not one of"),
    ],
)
def test_bad_options(changes, message):
    with pytest.raises(InputError, match=message):
        ClassifierArguments(**{"model": "a", "max_train_steps": 1} | changes)


def test_options_come_from_flags_and_from_the_file_of_a_run(options, tmp_path, capsys):
    folder = train_classifier(ClassifierArguments(**options | {"max_train_steps": 1}))
    stored = ["--config", str(folder / "training_args.yaml")]
    assert parse_arguments(stored, ClassifierArguments) == ClassifierArguments(**options | {"max_train_steps": 1})
    args = parse_arguments(["--model", "someone/a", "--num_epochs", "2"], ClassifierArguments)
    assert (args.eval_split, args.adam_weight_decay) == ("test", 0.05)
    for flags in (["--resolution", "16"], ["--preset", "fashion_mnist"]):
        with pytest.raises(SystemExit):
            parse_arguments(
                ["--model", "someone/a", "--num_epochs", "2", *flags], ClassifierArguments, "train_classifier"
            )
        assert "train_classifier: error: There is no option --" in capsys.readouterr().err


def test_the_command_ends_with_one_sentence(options):
    flags = [f"--{name}={value}" for name, value in (options | {"split": "night"}).items()]
    with pytest.raises(SystemExit, match="^train_classifier: error: Cannot read split 'night' of dataset="):
        main(flags)


def test_the_folder_of_another_run_is_refused(options, tmp_path):
    folder = train_classifier(ClassifierArguments(**options))
    with pytest.raises(InputError, match="holds another run, with width=8 instead of 16"):
        train_classifier(ClassifierArguments(**options | {"width": 16}))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match=r"holds files that are not of a training run \(thesis.tex\)"):
        train_classifier(ClassifierArguments(**options | {"output_dir": str(mine)}))
    with pytest.raises(InputError, match="holds another run"):
        train(TrainingArguments(dataset=options["dataset"], max_train_steps=6, output_dir=str(folder)))


@pytest.mark.slow
def test_two_processes_train_and_resume(options, tmp_path, on_two_processes):
    def launch(**changes):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(options | changes), encoding="utf-8")
        on_two_processes("-m", "ddpm_hf.training.train_classifier", "--config", str(tmp_path / "config.yaml"))

    launch(max_train_steps=3)
    launch()
    launch(output_dir=str(tmp_path / "straight"))
    rows, straight = (read_rows(tmp_path / name / "loss.csv") for name in ("run", "straight"))
    assert rows[-1]["loss"] == straight[-1]["loss"]
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (tmp_path / "straight" / WEIGHTS).read_bytes()


@pytest.mark.parametrize(("worthwhile", "precision"), CHOSEN)
def test_a_measured_precision_trains_as_if_it_was_named(options, monkeypatch, capsys, worthwhile, precision):
    def trained(**given):
        return train_classifier(ClassifierArguments(**given))

    check_measured_precision(trained, options, WEIGHTS, worthwhile, precision, monkeypatch, capsys)
