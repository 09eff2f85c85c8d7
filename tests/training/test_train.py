"""Training from options to a pipeline folder."""

import os

import datasets
import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from PIL import Image

from ddpm_hf import GaussianDiffusionPipeline
from ddpm_hf.cli import app
from ddpm_hf.errors import InputError
from ddpm_hf.reports.loss_curve import read_rows
from ddpm_hf.training.arguments import TrainingArguments
from ddpm_hf.training.checkpoints import list_checkpoints
from ddpm_hf.training.train import main, train


@pytest.fixture
def options(tmp_path, image_folder, tiny_pipeline):
    return {
        **{"dataset": image_folder, "init_from": tiny_pipeline, "output_dir": str(tmp_path / "run")},
        **{"max_train_steps": 4, "batch_size": 4, "log_every": 2, "checkpoint_every": 2, "learning_rate": 1e-2},
        **{"num_samples": 4, "sample_steps": 2, "seed": 3},
    }


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_result_is_a_pipeline_of_the_averaged_weights(options, tiny_pipeline, saved_averages):
    folder = train(TrainingArguments(**options))
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert pipeline(batch_size=2, num_inference_steps=2).images[0].size == (8, 8)
    start = GaussianDiffusionPipeline.from_pretrained(tiny_pipeline).unet
    averaged = saved_averages(folder / "checkpoints/step-000004")
    for saved, average, first in zip(pipeline.unet.parameters(), averaged, start.parameters(), strict=True):
        assert torch.equal(saved, average)
        assert not torch.equal(saved, first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rescale_betas_zero_snr": True, "num_train_timesteps": 30, "sample_steps": 30},
            "No samples can be drawn while training with sample_steps=30: Timestep 29 has no signal",
        ),
        (
            {"rescale_betas_zero_snr": True, "num_train_timesteps": 1, "sample_steps": 1},
            "These options make no diffusion process: rescale_betas_zero_snr needs at least 2",
        ),
        ({"init_from": None, "unet": "mlp", "dataset": "swiss_roll", "gradient_checkpointing": True}, "leave it out"),
    ],
)
def test_what_would_stop_a_run_later_stops_it_before_the_work(options, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(TrainingArguments(**options | changes))
    assert not (tmp_path / "run").exists()


def test_a_short_process_is_sampled_in_as_many_steps(options):
    folder = train(TrainingArguments(**options | {"num_train_timesteps": 20, "sample_steps": None}))
    assert (folder / "samples" / "step-000004.png").exists()


def test_every_file_of_a_run_has_the_mode_of_the_umask(options):
    before = os.umask(0o022)
    try:
        folder = train(TrainingArguments(**options, ema="power"))
    finally:
        os.umask(before)
    modes = {
        path.relative_to(folder).as_posix(): path.stat().st_mode & 0o777
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert {name for name, mode in modes.items() if mode != 0o644} == set()
    for name in ("unet/diffusion_pytorch_model.safetensors", "checkpoints/step-000004/model.safetensors"):
        assert name in modes
    assert any(name.startswith("ema_snapshots/") for name in modes)


def test_what_a_run_leaves(options):
    folder = train(TrainingArguments(**options, sample_every=2))
    assert [row["step"] for row in read_rows(folder / "loss.csv")] == [2, 4]
    assert Image.open(folder / "loss.png").size == (900, 600)
    assert [p.name for p in sorted((folder / "samples").iterdir())] == ["step-000002.png", "step-000004.png"]
    assert Image.open(folder / "samples" / "step-000004.png").size == (128, 128)  # enlarged to be seen
    stored = yaml.safe_load((folder / "training_args.yaml").read_text(encoding="utf-8"))
    assert stored["batch_size"] == 4
    assert stored["environment"]["torch"] == torch.__version__
    assert 'from_pretrained("run")' in (folder / "README.md").read_text(encoding="utf-8")


def test_a_model_without_classes_learns_them(options, tiny_pipeline):
    folder = train(TrainingArguments(**options, class_conditional=True))
    unet = GaussianDiffusionPipeline.from_pretrained(folder).unet
    assert unet.config.num_class_embeds == 3
    assert (unet.class_embedding.weight != 0).any()


def test_classes_and_learned_variance(options):
    del options["init_from"]
    options |= {"class_conditional": True, "variance_head": "learned_range", "objective": "hybrid"}
    folder = train(TrainingArguments(**options))
    pipeline = GaussianDiffusionPipeline.from_pretrained(folder)
    assert pipeline.unet.config.num_class_embeds == 3  # two and the null label
    assert pipeline.unet.config.out_channels == 2
    assert pipeline.scheduler.config.variance_type == "learned_range"
    images = pipeline(batch_size=2, class_labels=[0, 1], num_inference_steps=2).images
    assert images[0].size == (8, 8)


def test_data_from_memory_from_disk_and_on_demand_trains_the_same_network(options, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    limits = [{}, {"in_memory_limit_gb": 0.0}, {"in_memory_limit_gb": 0.0, "on_disk_limit_gb": 0.0}]
    networks = []
    for i, given in enumerate(limits):
        folder = train(TrainingArguments(**options | {"output_dir": str(tmp_path / f"run_{i}")} | given))
        networks.append((folder / "unet/diffusion_pytorch_model.safetensors").read_bytes())
    assert networks[0] == networks[1] == networks[2]
    assert list((tmp_path / "cache" / "ddpm_hf").glob("*.arrow"))


def test_a_finished_run_says_so_and_does_nothing(options, capsys):
    folder = train(TrainingArguments(**options))
    before = files_of(folder)
    train(TrainingArguments(**options))
    assert "is finished at step 4" in capsys.readouterr().out
    assert files_of(folder) == before


def test_more_steps_continue_a_finished_run(options, tmp_path):
    train(TrainingArguments(**options))
    decoded_each_time = {"in_memory_limit_gb": 0.0, "on_disk_limit_gb": 0.0}
    folder = train(TrainingArguments(**options | {"max_train_steps": 6}, **decoded_each_time))
    assert list(list_checkpoints(folder)) == [4, 6]
    straight = train(TrainingArguments(**options | {"max_train_steps": 6, "output_dir": str(tmp_path / "straight")}))
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (folder / name).read_bytes() == (straight / name).read_bytes()
    with pytest.raises(InputError, match="is at step 6, past the 5 asked for"):
        train(TrainingArguments(**options | {"max_train_steps": 5}))


def test_schedules_that_end_are_not_continued(options):
    folder = train(TrainingArguments(**options, lr_scheduler="cosine"))
    before = files_of(folder)
    with pytest.raises(
        InputError, match=r"max_train_steps=4 instead of 6 \(the cosine schedule was laid out for it\)"
    ):
        train(TrainingArguments(**options | {"max_train_steps": 6}, lr_scheduler="cosine"))
    assert files_of(folder) == before


def test_epochs_are_counted_in_images(options):
    del options["max_train_steps"]
    folder = train(TrainingArguments(**options, num_epochs=1.5, gradient_accumulation_steps=2))
    assert max(list_checkpoints(folder)) == 3  # 1.5 * 16 images in updates of 8


def test_another_run_s_folder_is_refused_and_untouched(options):
    folder = train(TrainingArguments(**options))
    before = files_of(folder)
    with pytest.raises(InputError, match="holds another run, with batch_size=4 instead of 2; seed=3 instead of 5"):
        train(TrainingArguments(**options | {"batch_size": 2, "seed": 5}))
    assert files_of(folder) == before


def test_a_run_that_ended_before_its_first_update_leaves_nothing_to_protect(options, tmp_path):
    """The error advises another option."""
    (tmp_path / "images" / "cat" / "03.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match="03.png.* or leave out --strict_data"):
        train(TrainingArguments(**options, strict_data=True))
    folder = train(TrainingArguments(**options | {"batch_size": 2}))
    assert max(list_checkpoints(folder)) == 4
    assert yaml.safe_load((folder / "training_args.yaml").read_text(encoding="utf-8"))["batch_size"] == 2


def test_a_folder_of_other_files_is_refused_and_untouched(options, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match=r"holds files that are not of a training run \(thesis.tex\)"):
        train(TrainingArguments(**options))
    assert files_of(folder) == {(folder / "thesis.tex").relative_to(folder): b"years of work"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "/no/such/data"}, "dataset='/no/such/data'"),
        ({"init_from": "/no/such/model"}, "init_from='/no/such/model'"),
        (
            {"class_conditional": True, "variance_head": "npr", "train_head_only": True},
            "has num_classes=None, but the data and options ask for 2",
        ),
        ({"init_from": None, "resolution": 9}, "unet='fashion_mnist' does not suit the data: Images of 9x9"),
        ({"batch_size": 17}, "batch_size=17 is larger"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(options, changes, message):
    with pytest.raises(InputError, match=message):
        train(TrainingArguments(**options | changes))
    assert not os.path.exists(options["output_dir"])


def test_the_command_ends_with_one_sentence(options, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(options | {"split": "night"}), encoding="utf-8")
    given = ["--config", str(tmp_path / "config.yaml")]
    with pytest.raises(SystemExit, match="^train: error: Cannot read split 'night' of dataset="):
        main(given)
    with pytest.raises(SystemExit, match="^ddpm-hf train: error: Cannot read split 'night' of dataset="):
        app(["train", *given])


def test_curves_and_samples_reach_tensorboard(options):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = train(TrainingArguments(**options, report_to="tensorboard"))
    events = accumulator.EventAccumulator(str(folder / "logs" / "ddpm_hf")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [2, 4]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(
        [row["loss"] for row in read_rows(folder / "loss.csv")]
    )
    assert [e.step for e in events.Images("samples")] == [4]


@pytest.mark.slow
def test_two_processes_train_resume_and_agree_on_the_learning_rate(options, tmp_path, on_two_processes):
    def launch(**changes):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(options | changes), encoding="utf-8")
        on_two_processes("-m", "ddpm_hf.training.train", "--config", str(tmp_path / "config.yaml"))

    changes = {"learning_rate": 1.0e-3, "lr_warmup_steps": 4, "log_every": 1}
    launch(**changes)
    launch(**changes, max_train_steps=6)
    launch(**changes, max_train_steps=6, output_dir=str(tmp_path / "straight"))
    rows = read_rows(tmp_path / "run" / "loss.csv")
    assert [row["lr"] for row in rows] == pytest.approx([0, 0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])
    straight = read_rows(tmp_path / "straight" / "loss.csv")
    assert [row["loss"] for row in rows] == [row["loss"] for row in straight]
    assert (tmp_path / "run/checkpoints/step-000006/random_states_1.pkl").is_file()
    assert DiffusionPipeline.from_pretrained(tmp_path / "run").unet.config.sample_size == 8
